"""A decoder of a few thousand random weights, written in both layouts with `onnx.helper`: the same function twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models

CONTRIB = "com.microsoft"


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Sizes of the tiny decoder."""

    vocabulary: int = 61
    hidden: int = 32
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    context: int = 96
    half: bool = False
    """float16 past, present and logits (usual layout only)."""
    extra_inputs: tuple[str, ...] = ()
    """Further int64 inputs of the usual layout that nothing in the graph reads."""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def _weights(shape: TinyShape, seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)

    def normal(*sizes: int, scale: float) -> NDArray[np.float32]:
        return (rng.standard_normal(sizes) * scale).astype(np.float32)

    hidden, kv = shape.hidden, shape.kv_heads * shape.head_dim
    weights = {
        "embedding": normal(shape.vocabulary, hidden, scale=1.0),
        "scale": np.ones(hidden, np.float32),
        "head": normal(hidden, shape.vocabulary, scale=0.7),
    }
    angles = np.outer(np.arange(2 * shape.context), 100.0 ** -np.linspace(0, 1, shape.head_dim // 2))
    weights["cos"] = np.cos(angles).astype(np.float32)
    weights["sin"] = np.sin(angles).astype(np.float32)
    for layer in range(shape.layers):
        weights[f"q{layer}"] = normal(hidden, hidden, scale=0.4)
        weights[f"k{layer}"] = normal(hidden, kv, scale=0.4)
        weights[f"v{layer}"] = normal(hidden, kv, scale=0.4)
        weights[f"o{layer}"] = normal(hidden, hidden, scale=0.4)
    return weights


def _layers(shape: TinyShape, bias: str, past_suffix: str = "") -> list[onnx.NodeProto]:
    nodes = [helper.make_node("Gather", ["embedding", "input_ids"], ["x0"])]
    for n in range(shape.layers):
        nodes.append(helper.make_node("LayerNormalization", [f"x{n}", "scale"], [f"norm{n}"], axis=-1))
        nodes += [helper.make_node("MatMul", [f"norm{n}", f"{p}{n}"], [f"{p}_{n}"]) for p in "qkv"]
        inputs = [f"q_{n}", f"k_{n}", f"v_{n}"]
        inputs += [f"past_key_values.{n}.{kind}{past_suffix}" for kind in ("key", "value")]
        inputs += ["seqlens_k", "total_sequence_length", "cos", "sin", "position_ids", bias]
        outputs = [f"attention{n}", f"present.{n}.key{past_suffix}", f"present.{n}.value{past_suffix}"]
        sizes = {"num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "do_rotary": 1}
        nodes.append(helper.make_node("GroupQueryAttention", inputs, outputs, domain=CONTRIB, **sizes))
        nodes.append(helper.make_node("MatMul", [f"attention{n}", f"o{n}"], [f"out{n}"]))
        nodes.append(helper.make_node("Add", [f"x{n}", f"out{n}"], [f"x{n + 1}"]))
    nodes.append(helper.make_node("LayerNormalization", [f"x{shape.layers}", "scale"], ["last"], axis=-1))
    nodes.append(helper.make_node("MatMul", ["last", "head"], [f"logits{past_suffix}"]))
    return nodes


def _kv_values(shape: TinyShape, prefix: str, length: str, dtype: int) -> list[onnx.ValueInfoProto]:
    dims = [1, shape.kv_heads, length, shape.head_dim]
    names = [f"{prefix}.{n}.{kind}" for n in range(shape.layers) for kind in ("key", "value")]
    return [helper.make_tensor_value_info(name, dtype, dims) for name in names]


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]],
) -> None:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def write_tokenizer(path: Path, vocabulary: int) -> None:
    """A word-level tokenizer of that size: only its fingerprint matters here."""
    Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0")).save(str(path))


def write_tree_layout(folder: Path, shape: TinyShape | None = None, seed: int = 7) -> Path:
    """The product's own layout: `model.onnx`, `drafter.json`, `tokenizer.json`. Returns the folder."""
    shape = shape or TinyShape()
    info = helper.make_tensor_value_info
    inputs = [
        info("input_ids", TensorProto.INT64, [1, "S"]),
        info("position_ids", TensorProto.INT64, [1, "S"]),
        info("attention_bias", TensorProto.FLOAT, [1, 1, "S", "T"]),
        info("seqlens_k", TensorProto.INT32, [1]),
        info("total_sequence_length", TensorProto.INT32, []),
        *_kv_values(shape, "past_key_values", "C", TensorProto.FLOAT),
    ]
    outputs = [
        info("logits", TensorProto.FLOAT, [1, "S", shape.vocabulary]),
        *_kv_values(shape, "present", "C", TensorProto.FLOAT),
    ]
    constants: dict[str, NDArray[np.generic]] = dict(_weights(shape, seed))
    _save(folder / "model.onnx", _layers(shape, "attention_bias"), inputs, outputs, constants)
    write_tokenizer(folder / "tokenizer.json", shape.vocabulary)
    return folder


def write_usual_layout(folder: Path, shape: TinyShape | None = None, seed: int = 7) -> Path:
    """The hub's layout: `onnx/model.onnx` with `config.json` and `tokenizer.json` above it. Returns the folder."""
    shape = shape or TinyShape()
    info, dtype = helper.make_tensor_value_info, TensorProto.FLOAT16 if shape.half else TensorProto.FLOAT
    inputs = [info(n, TensorProto.INT64, [1, "S"]) for n in ("input_ids", "attention_mask", "position_ids")]
    inputs[1] = info("attention_mask", TensorProto.INT64, [1, "T"])
    inputs += [info(name, TensorProto.INT64, []) for name in shape.extra_inputs]
    inputs += _kv_values(shape, "past_key_values", "P", dtype)
    outputs = [
        info("logits", dtype, [1, "S", shape.vocabulary]),
        *_kv_values(shape, "present", "T", dtype),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "axis_1"], ["length"], keepdims=0),
        helper.make_node("Sub", ["length", "one"], ["last_index"]),
        helper.make_node("Cast", ["last_index"], ["seqlens_k"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["mask_length"], start=1, end=2),
        helper.make_node("Cast", ["mask_length"], ["mask_length_32"], to=TensorProto.INT32),
        helper.make_node("Squeeze", ["mask_length_32"], ["total_sequence_length"]),
    ]
    suffix = ".wide" if shape.half else ""
    kinds = [f"{n}.{kind}" for n in range(shape.layers) for kind in ("key", "value")]
    if shape.half:
        cast = [(f"past_key_values.{k}", f"past_key_values.{k}.wide", TensorProto.FLOAT) for k in kinds]
        nodes += [helper.make_node("Cast", [a], [b], to=to) for a, b, to in cast]
    nodes += _layers(shape, "", suffix)
    if shape.half:
        names = ["logits", *(f"present.{k}" for k in kinds)]
        nodes += [helper.make_node("Cast", [f"{n}.wide"], [n], to=TensorProto.FLOAT16) for n in names]
    constants: dict[str, NDArray[np.generic]] = dict(_weights(shape, seed))
    constants |= {"axis_1": np.array([1], np.int64), "one": np.array([1], np.int64)}
    _save(folder / "onnx" / "model.onnx", nodes, inputs, outputs, constants)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": shape.context}))
    write_tokenizer(folder / "tokenizer.json", shape.vocabulary)
    return folder


def half(shape: TinyShape) -> TinyShape:
    """The same sizes with float16 at the borders."""
    return replace(shape, half=True)
