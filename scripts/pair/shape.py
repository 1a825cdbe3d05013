"""The sizes of a small Llama; free of torch, so that the exporter and light tests can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

END_OF_TEXT_ID = 0
PADDING_ID = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama with tied embeddings. `head_dim` must be divisible by 16 (fused rotary attention)."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int = 4096
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.head_dim % 16 or self.heads % self.kv_heads:
            raise ValueError(f"head_dim must be divisible by 16 and heads by kv_heads: {self}")

    def transformers_config(self) -> dict[str, Any]:
        """The config.json under which transformers' AutoModelForCausalLM loads these weights."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": END_OF_TEXT_ID,
            "dtype": "float16",
            "eos_token_id": END_OF_TEXT_ID,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.max_positions,
            "mlp_bias": False,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": PADDING_ID,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": self.vocabulary,
        }

    @classmethod
    def from_transformers(cls, config: dict[str, Any]) -> Shape:
        """The shape that a Llama config.json describes."""
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            vocabulary=config["vocab_size"],
            max_positions=config["max_position_embeddings"],
            rope_theta=config["rope_parameters"]["rope_theta"],
            norm_eps=config["rms_norm_eps"],
        )


def rotary_tables(shape: Shape, rows: int | None = None) -> tuple[Array, Array]:
    """(cos, sin), each float32 [rows, head_dim / 2]; `rows` is max_positions if left out."""
    inverse = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
    angles = np.outer(np.arange(rows or shape.max_positions, dtype=np.float64), inverse)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
