"""The drafter as transformers sees it, for `generate(assistant_model=...)`: rebuilt from the shipped ONNX graph.

The pair ships the drafter in one form. Its weights are the graph's initialisers (`scripts/pair/export.py` names them),
so that peer and product draft with the same numbers; int8 matrices are expanded to the float32 that they stand for.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.pair.export import INT8_ZERO
from scripts.pair.shape import Array, Shape


def load_peer_drafter(folder: Path, max_positions: int) -> Any:
    """The drafter in `folder` as a float32 transformers model in evaluation mode.

    Args:
        max_positions: the target's; `generate` wants both to reach as far.
    """
    about = json.loads((folder / "drafter.json").read_text(encoding="utf-8"))
    graph = onnx.load(str(folder / "model.onnx")).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = transformers_weights(constants, about)
    shape = Shape(
        layers=about["layers"],
        hidden=about["hidden_size"],
        intermediate=len(weights["model.layers.0.mlp.gate_proj.weight"]),
        heads=about["heads"],
        kv_heads=about["kv_heads"],
        head_dim=about["head_dim"],
        vocabulary=about["vocabulary_size"],
        max_positions=max(max_positions, about["max_positions"]),
        rope_theta=_rope_theta(constants, about["head_dim"]),
        norm_eps=_norm_eps(graph),
    )
    config = AutoConfig.for_model(**shape.transformers_config())
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing = model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in weights.items()}, strict=False
    )
    if missing.unexpected_keys or set(missing.missing_keys) - {"lm_head.weight"}:
        raise ValueError(f"{folder} does not hold the weights of its drafter: {missing}")
    model.tie_weights()
    return model.eval()


def transformers_weights(constants: dict[str, Array], about: dict[str, Any]) -> dict[str, Array]:
    """Transformers' names and float32 arrays from a graph's initialisers: what the exporter packed, taken apart."""
    queries, keys = about["heads"] * about["head_dim"], about["kv_heads"] * about["head_dim"]
    weights = {"model.embed_tokens.weight": constants["embedding"].astype(np.float32)}
    for layer in range(about["layers"]):
        ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
        before = "layers.0.input_norm" if layer == 0 else f"layers.{layer - 1}.next_norm"
        weights[f"{theirs}.input_layernorm.weight"] = constants[f"{before}.weight"]
        weights[f"{theirs}.post_attention_layernorm.weight"] = constants[f"{ours}.mlp_norm.weight"]
        packed = np.split(matrix(constants, f"{ours}.qkv"), [queries, queries + keys])
        for part, array in zip("qkv", packed, strict=True):
            weights[f"{theirs}.self_attn.{part}_proj.weight"] = array
        gate, up = np.split(matrix(constants, f"{ours}.gate_up"), 2)
        weights[f"{theirs}.mlp.gate_proj.weight"], weights[f"{theirs}.mlp.up_proj.weight"] = gate, up
        weights[f"{theirs}.mlp.down_proj.weight"] = matrix(constants, f"{ours}.down")
        weights[f"{theirs}.self_attn.o_proj.weight"] = matrix(constants, f"{ours}.o")
    weights["model.norm.weight"] = constants[f"layers.{about['layers'] - 1}.next_norm.weight"]
    return {name: np.array(array, dtype=np.float32, order="C") for name, array in weights.items()}


def matrix(constants: dict[str, Array], name: str) -> Array:
    """A linear layer's weight, float32 [out, in], however it is stored."""
    if f"{name}.weight" in constants:
        stored: Array = constants[f"{name}.weight"].T.astype(np.float32)
        return stored
    blocks = constants[f"{name}.weight.int8"].astype(np.float32) - INT8_ZERO
    scales = constants[f"{name}.weight.scale"].reshape(*blocks.shape[:2], 1)
    expanded: Array = (blocks * scales).reshape(len(blocks), -1)
    return expanded


def _rope_theta(constants: dict[str, Array], head_dim: int) -> float:
    """Read off the rotary tables: the second angle of position 1 is theta ** (-2 / head_dim)."""
    angle = math.atan2(float(constants["rotary.sin"][1, 1]), float(constants["rotary.cos"][1, 1]))
    theta: float = angle ** (-head_dim / 2)
    return round(theta, 1)


def _norm_eps(graph: onnx.GraphProto) -> float:
    norm = next(node for node in graph.node if node.op_type == "SimplifiedLayerNormalization")
    stored: float = next(one.f for one in norm.attribute if one.name == "epsilon")
    rounded: float = round(stored, 12)  # the graph keeps it in float32
    return rounded
