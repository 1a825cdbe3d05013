"""From what a user names to a drafter that runs, or to one clear line about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from edge_client.drafter.candidates import IDENTITY, Calibration
from edge_client.drafter.chain_model import FEEDS, KINDS, ChainModel, present_name
from edge_client.drafter.interface import Drafter
from edge_client.drafter.onnx_drafter import Model, OnnxDrafter
from edge_client.drafter.runtime import RUN_ERRORS, Port, open_session, ports
from edge_client.drafter.tree_model import TreeModel
from shared.errors import UserError
from shared.fingerprint import tokenizer_fingerprint
from shared.sampling import SamplingParams

FORMAT: Final = ("slipstream-drafter", 1)
"""Name and version of the only format of our own that there is."""
CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
"""Where a config.json may say how many positions the model knows."""
TREE_INPUTS: Final = ("input_ids", "position_ids", "attention_bias", "seqlens_k", "total_sequence_length")


def load_drafter(source: str, provider: str = "cpu", threads: int = 1) -> Drafter:
    """Opens the drafter at `source` and computes one token with it, so that what loads also runs.

    Args:
        source: a folder in the product's layout (`drafter.json`), or a folder or .onnx file in the hub's usual layout,
            with `config.json` and `tokenizer.json` beside the model or one folder above.
        provider: short name of an onnxruntime execution provider (`runtime.PROVIDERS`).
        threads: of one operator.

    Raises:
        UserError: whatever is wrong with the files or the device, and what to do about it.
    """
    path = Path(source)
    try:
        if not path.exists():
            raise UserError(
                f"drafter {path} does not exist: give a folder with drafter.json, or an ONNX model"
            )
        load = _load_tree if (path / "drafter.json").is_file() else _load_chain
        drafter = load(path, provider, threads)
    except OSError as error:
        raise UserError(f"drafter {path} cannot be read ({error.strerror}): check its permissions") from error
    _probe(drafter, path)
    return drafter


def _load_tree(folder: Path, provider: str, threads: int) -> OnnxDrafter:
    metadata = _read_json(folder / "drafter.json")
    found = (metadata.get("format"), metadata.get("format_version"))
    if found != FORMAT:
        raise UserError(
            f"{folder}/drafter.json has format {found[0]} version {found[1]}, but this client reads {FORMAT[0]}"
            f" version {FORMAT[1]}: export the drafter again"
        )
    model_file = folder / "model.onnx"
    if not model_file.is_file():
        raise UserError(f"{folder} has a drafter.json but no model.onnx: export the drafter again")
    tokenizer = _beside(folder, "tokenizer.json", up=0)
    session = open_session(model_file, provider, threads)
    inputs, outputs = ports(session)
    missing = [name for name in TREE_INPUTS if name not in inputs]
    if missing or "logits" not in outputs or not any(name.startswith("past_key_values.") for name in inputs):
        lacking = ", ".join(missing) or "logits or past_key_values"
        raise UserError(
            f"{model_file} is not in the format that its drafter.json states: no {lacking}; export again"
        )
    context = _positive(metadata, "max_positions", folder / "drafter.json")
    slots = max(context, _positive(metadata, "max_slots", folder / "drafter.json"))
    return _drafter(TreeModel(session, slots), session, context, tokenizer, _calibration(metadata, folder))


def _load_chain(path: Path, provider: str, threads: int) -> OnnxDrafter:
    model_file = _usual_model_file(path)
    session = open_session(model_file, provider, threads)
    _check_usual_ports(model_file, session)
    config_file = _beside(model_file.parent, "config.json", up=1)
    config = _read_json(config_file)
    key = next((key for key in CONTEXT_KEYS if key in config), CONTEXT_KEYS[0])
    context = _positive(config, key, config_file)
    return _drafter(ChainModel(session), session, context, _beside(model_file.parent, "tokenizer.json", up=1))


def _calibration(metadata: dict[str, Any], folder: Path) -> Calibration:
    """`calibration` of a drafter.json, if it has one."""
    found = metadata.get("calibration", {})
    try:
        return Calibration(**found)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/drafter.json: calibration: {error}; export the drafter again") from error


def _drafter(
    model: Model,
    session: ort.InferenceSession,
    context: int,
    tokenizer: Path,
    calibration: Calibration = IDENTITY,
) -> OnnxDrafter:
    vocabulary = ports(session)[1]["logits"].shape[-1]
    if vocabulary is None:
        raise UserError(
            "the drafter's output 'logits' does not state the vocabulary size: export it with a fixed last dimension"
        )
    return OnnxDrafter(model, vocabulary, context, tokenizer_fingerprint(tokenizer), calibration)


def _usual_model_file(path: Path) -> Path:
    if path.is_file():
        return path
    for folder in (path, path / "onnx"):
        if (folder / "model.onnx").is_file():
            return folder / "model.onnx"
        models = sorted(folder.glob("*.onnx"))
        if len(models) == 1:
            return models[0]
        if models:
            names = ", ".join(model.name for model in models)
            raise UserError(f"{folder} holds several ONNX models: name one of {names}")
    raise UserError(
        f"{path} holds neither drafter.json nor an ONNX model, nor does onnx/ in it: export a drafter"
    )


def _check_usual_ports(file: Path, session: ort.InferenceSession) -> None:
    inputs, outputs = ports(session)
    past = [port for name, port in inputs.items() if name.startswith("past_key_values.")]
    if "input_ids" not in inputs or "logits" not in outputs:
        raise UserError(
            f"{file} is not a decoder: it lacks input_ids or logits; give a causal language model"
        )
    if not past:
        raise UserError(f"{file} has no past_key_values inputs: export the decoder with its key/value cache")
    for name in inputs:
        if name not in FEEDS and not name.startswith("past_key_values."):
            raise UserError(
                f"{file} wants the input '{name}', which is not supported: export the decoder without it"
            )
    for port in past:
        _check_past(file, port, outputs)


def _check_past(file: Path, port: Port, outputs: dict[str, Port]) -> None:
    if len(port.shape) != 4 or None in (port.shape[1], port.shape[3]) or port.kind not in KINDS:
        raise UserError(
            f"{file}: input '{port.name}' must be float32 or float16 [batch, heads, past, head size] with fixed heads"
            " and head size: export the decoder again"
        )
    if present_name(port.name) not in outputs:
        raise UserError(
            f"{file}: no output '{present_name(port.name)}' continues '{port.name}': export with use_cache"
        )


def _probe(drafter: OnnxDrafter, path: Path) -> None:
    """One token: an operator that a provider lacks shows here, not in the middle of a text."""
    try:
        drafter.forward([0], 1, [()], SamplingParams(), 1)
    except RUN_ERRORS as error:
        raise UserError(f"{path} loads but does not run: {str(error).splitlines()[0]}") from error


def _beside(folder: Path, name: str, up: int) -> Path:
    """`name` in `folder`, or at most `up` folders above it."""
    for candidate in [folder, *folder.parents][: up + 1]:
        if (candidate / name).is_file():
            return candidate / name
    above = " or one folder above" if up else ""
    raise UserError(
        f"{name} is missing in {folder}{above}: copy it from the model that the drafter was made for"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: export the drafter again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: export the drafter again")
    return content


def _positive(config: dict[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{path}: '{key}' must be a positive integer, not {value}: export the model again")
    return value
