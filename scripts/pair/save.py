"""Write the target as transformers loads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from scripts.pair.model import Llama
from scripts.pair.shape import END_OF_TEXT_ID, PADDING_ID, Array
from scripts.pair.tokenizer import save_tokenizer


def half_weights(model: Llama) -> dict[str, torch.Tensor]:
    """The weights in float16 under transformers' names; an early exit is not part of them."""
    return {
        name: weight.detach().half().contiguous()
        for name, weight in model.state_dict().items()
        if name.startswith("model.")
    }


def numpy_weights(model: Llama) -> dict[str, Array]:
    """The weights, rounded to float16, as float32 arrays for the exporter."""
    return {name: weight.numpy().astype(np.float32) for name, weight in half_weights(model).items()}


def save_target(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write model.safetensors (float16), config.json, generation_config.json and the tokenizer's two files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(half_weights(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
    generation = {
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": PADDING_ID,
        "do_sample": False,
    }
    for name, content in (("config", model.shape.transformers_config()), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder, model.shape.max_positions)
