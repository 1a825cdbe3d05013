"""Models of real shapes with random weights: a step costs the same whatever the weights say."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from cloud_server.model import DTYPES, LoadedModel, load_model, resolve_device, resolve_dtype
from shared.errors import UserError
from shared.hardware import ModelShape

SHAPES: Final = {
    shape.name: shape
    for shape in (
        ModelShape("tiny", 2, 64, 176, 4, 2, 16, 512, tied=True),
        ModelShape("demo", 6, 288, 768, 6, 2, 48, 4096, tied=True),
        ModelShape("1b", 16, 2048, 8192, 32, 8, 64, 128_256, tied=True),
        ModelShape("8b", 32, 4096, 14_336, 32, 8, 128, 128_256, tied=False),
    )
}
"""`demo` is the shape of the target that comes along; `1b` and `8b` are those of Llama 3.2 1B and Llama 3.1 8B."""
SEED: Final = 0
GAIN: Final = 1.7
"""What a matrix does to the scale of its input. At transformers' own initial scale attention hardly matters, so that a
wrong mask, or a sum in another order, would change no argmax."""

Maker = Callable[[str | None, int], LoadedModel]
"""A model in a dtype (None: the device's default) that can hold logs of so many tokens."""


def random_model(
    shape: ModelShape, device: str | None, dtype: str | None, context_length: int
) -> LoadedModel:
    """A Llama with random weights, made on the device itself in its dtype.

    Raises:
        UserError: no such device or dtype, or too little memory.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    make: Any = AutoModelForCausalLM.from_config
    try:
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
            torch.manual_seed(SEED)
            module = make(llama_config(shape, context_length), dtype=kind)
    except RuntimeError as error:  # torch has no error of its own for a host that is out of memory
        needed = shape.parameters * kind.itemsize >> 20
        raise UserError(
            f"no memory for {needed} MB of weights on {place}: choose a smaller --shape"
        ) from error
    module.eval().requires_grad_(requires_grad=False)
    return LoadedModel(
        module=module,
        name=shape.name,
        model_fingerprint=f"random-{shape.name}",
        tokenizer_fingerprint="",
        vocabulary_size=shape.vocabulary_size,
        context_length=context_length,
        eos_ids=(),
        device=place,
        dtype=kind,
    )


def llama_config(shape: ModelShape, context_length: int) -> LlamaConfig:
    """The configuration of a Llama of that shape. No token ends a text."""
    return LlamaConfig(
        vocab_size=shape.vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=context_length,
        tie_word_embeddings=shape.tied,
        initializer_range=GAIN / math.sqrt(shape.hidden_size),
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def shape_of(name: str, config: PretrainedConfig) -> ModelShape:
    """The shape of a real model.

    Raises:
        UserError: it is no gated decoder, whose weights this could count.
    """
    text: Any = config.get_text_config()
    try:
        return ModelShape(
            name=name,
            layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary_size=text.vocab_size,
            tied=text.tie_word_embeddings,
        )
    except AttributeError as error:
        raise UserError(
            f"cannot tell the shape of this {config.model_type} model: choose a --shape"
        ) from error


def maker(shape: str, model: str | None, device: str | None) -> tuple[ModelShape, Maker]:
    """How to make the model that the command line names, and its shape.

    Raises:
        UserError: no such shape, or no such model.
    """
    if model is not None:
        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise UserError(f"--model {model}: {error}") from error
        return shape_of(Path(model).name, config), lambda dtype, _: load_model(model, device, dtype)
    if shape not in SHAPES:
        raise UserError(f"--shape {shape}: choose from {', '.join(SHAPES)}")
    known = SHAPES[shape]
    return known, lambda dtype, length: random_model(known, device, dtype, length)


def dtype_name(dtype: torch.dtype) -> str:
    """As the command line calls it."""
    return next(name for name, known in DTYPES.items() if known == dtype)
