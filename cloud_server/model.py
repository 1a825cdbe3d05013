"""Loads a target: any causal language model of transformers that the verifier's attention can serve exactly.

What cannot be served exactly is refused here or by the verifier's own check, with one line that says why. Nothing is
approximated: a fact is a property of the model (law 3).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file

from shared.errors import UserError
from shared.fingerprint import tokenizer_fingerprint
from shared.messages import ModelInfo

log = logging.getLogger(__name__)

SAMPLER_VERSION: Final = "1"
"""Changes whenever the sampling law (shared/sampling.py) would draw another token."""
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCH_DEPENDENT_ROPE: Final = ("dynamic", "longrope")
"""Their angles depend on the longest sequence of the batch, so a fact would depend on its company."""
VOLATILE_CONFIG_KEYS: Final = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Parts of config.json that change no logit."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A target in memory, and what its configuration says about it."""

    module: PreTrainedModel
    """In evaluation mode on `device`. A verifier takes it over."""
    name: str
    model_fingerprint: str
    """SHA-256 over configuration, weights as loaded, dtype and sampler version; 64 hex digits."""
    tokenizer_fingerprint: str
    """SHA-256 of tokenizer.json; empty if there is none."""
    vocabulary_size: int
    context_length: int
    """Tokens of the longest sequence."""
    eos_ids: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype

    @property
    def info(self) -> ModelInfo:
        """The answer to `GetModel`, with default limits."""
        return ModelInfo(
            name=self.name,
            model_fingerprint=self.model_fingerprint,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            vocabulary_size=self.vocabulary_size,
            context_length=self.context_length,
            stop_tokens=self.eos_ids,
        )


def load_model(source: str | Path, device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """Load a target from a folder or, by its id, from the model hub.

    Args:
        device: "cpu", "cuda", "cuda:1"; None: CUDA where there is one.
        dtype: "float32", "bfloat16" or "float16"; None: float32 on a CPU, bfloat16 on CUDA, whatever is on disk.

    Raises:
        UserError: there is no such model, device or dtype, or the model is of a kind that cannot be served exactly.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    where = _source(source)
    config = _config(where)
    require_exact_attention(config)
    module = _weights(where, config, kind)
    fingerprint = model_fingerprint(module, _config_text(where), kind)
    tokenizer = cached_file(where, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    text = config.get_text_config()
    loaded = LoadedModel(
        module=_placed(module, place),
        name=Path(where).name if Path(where).is_dir() else where,
        model_fingerprint=fingerprint,
        tokenizer_fingerprint="" if tokenizer is None else tokenizer_fingerprint(tokenizer),
        vocabulary_size=text.vocab_size,
        context_length=_context_length(text),
        eos_ids=_eos_ids(where, module),
        device=place,
        dtype=kind,
    )
    count = sum(parameter.numel() for parameter in module.parameters())
    log.info("loaded %s: %.1f M parameters, %s on %s", loaded.name, count / 1e6, kind, place)
    return loaded


def require_exact_attention(config: PretrainedConfig) -> None:
    """Refuse what the ragged attention does not compute.

    Raises:
        UserError: an encoder-decoder, a window, recurrent or hybrid layers, ALiBi, or batch-dependent RoPE.
    """
    text = config.get_text_config()
    reason = None
    layer_types = getattr(text, "layer_types", None)
    layers = set(layer_types or ()) - {"full_attention"}
    window = getattr(text, "sliding_window", None)
    if config.is_encoder_decoder:
        reason = "it is an encoder-decoder"
    elif layers and not (layers == {"sliding_attention"} and not _window_matters(window, text)):
        reason = f"it has layers of type {', '.join(sorted(layers))}"
    elif not layer_types and getattr(text, "use_sliding_window", True) and _window_matters(window, text):
        reason = f"its attention slides in a window of {window} tokens"
    elif getattr(text, "alibi", False) or getattr(text, "position_embedding_type", "rotary") == "alibi":
        reason = "it adds ALiBi to its scores"
    elif rope := _rope_types(text) & set(BATCH_DEPENDENT_ROPE):
        reason = f"its RoPE is {', '.join(sorted(rope))}, which depends on what else is in the batch"
    if reason is not None:
        raise UserError(
            f"cannot serve this {config.model_type} model exactly: {reason}; choose a decoder with full attention"
        )


def model_fingerprint(module: PreTrainedModel, config_text: str, dtype: torch.dtype) -> str:
    """SHA-256 of all that decides a fact apart from the prefix: configuration, weights, dtype, sampler version.

    The weights are read as they are in memory, so format and sharding on disk do not count. Called before the module
    leaves the CPU.
    """
    settings = {
        key: value for key, value in json.loads(config_text).items() if key not in VOLATILE_CONFIG_KEYS
    }
    digest = hashlib.sha256(json.dumps([settings, str(dtype), SAMPLER_VERSION], sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def resolve_device(name: str | None) -> torch.device:
    """The device of that name; None: CUDA where there is one.

    Raises:
        UserError: there is none, or it is of a kind that is not supported.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device is called {name!r}: use cpu, cuda or cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"device {name!r} was asked for, but torch sees {found} CUDA devices: use cpu")
    return device


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; None: float32 on a CPU, bfloat16 on CUDA.

    Raises:
        UserError: it is unknown, or the device has no arithmetic for it.
    """
    if name is not None and name not in DTYPES:
        raise UserError(f"dtype {name!r} is unknown: use one of {', '.join(DTYPES)}")
    dtype = DTYPES["bfloat16" if device.type == "cuda" else "float32"] if name is None else DTYPES[name]
    # Emulated it would be slower than float32; and half precision is not taken in its place unasked, for it overflows.
    if device.type == "cuda" and dtype == torch.bfloat16:
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise UserError(
                    f"{torch.cuda.get_device_name(device)} computes no bfloat16: choose --dtype float16 or float32"
                )
    return dtype


def _source(source: str | Path) -> str:
    """A folder's path or a hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    text = str(source)
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or path.exists():
        raise UserError(f"no model folder at {source}: name a folder with a config.json, or a hub id")
    return text


def _config(where: str) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise UserError(f"no usable model at {where}: {_first_line(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{where} holds a {config.model_type} model, which is not a causal language model")
    return config


def _weights(where: str, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    # transformers' types say that a model comes back; with the loading information it is a pair.
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        module, found = load(where, config=config, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the weights of {where}: {_first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        # transformers fills them with random numbers and goes on.
        raise UserError(
            f"{where} lacks {len(missing)} weights of a causal language model, {missing[0]} among them"
        )
    loaded: PreTrainedModel = module
    return loaded


def _placed(module: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        torch.nn.Module.to(module, device)  # transformers' own `to` hides this one's types
    except torch.OutOfMemoryError as error:
        size = sum(parameter.nbytes for parameter in module.parameters()) >> 20
        raise UserError(
            f"{device} has no memory for {size} MB of weights: choose a smaller model or another device"
        ) from error
    module.eval()
    return module


def _config_text(where: str) -> str:
    file = cached_file(where, "config.json")
    if file is None:
        raise UserError(f"no config.json at {where}")
    return Path(file).read_text(encoding="utf-8")


def _context_length(text: PretrainedConfig) -> int:
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        length = getattr(text, key, None)
        if isinstance(length, int):
            return length
    raise UserError(f"this {text.model_type} model does not say how long its context is")


def _eos_ids(where: str, module: PreTrainedModel) -> tuple[int, ...]:
    """End-of-sequence ids: those of generation_config.json, which chat models extend, else those of config.json."""
    generation: GenerationConfig | None = module.generation_config
    for ids in (None if generation is None else generation.eos_token_id, module.config.eos_token_id):
        if ids is not None:
            return (ids,) if isinstance(ids, int) else tuple(sorted(set(ids)))
    log.warning("%s names no end-of-sequence token: texts end by length only", where)
    return ()


def _window_matters(window: Any, text: PretrainedConfig) -> bool:
    return isinstance(window, int) and window < _context_length(text)


def _rope_types(text: PretrainedConfig) -> set[str]:
    return set(_values_of("rope_type", getattr(text, "rope_parameters", None)))


def _values_of(key: str, tree: Any) -> Iterator[str]:
    """RoPE parameters are one mapping, or one per kind of layer."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from _values_of(key, value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
