"""Write a Llama drafter as an ONNX graph of our own (the format is described in FORMAT.md).

The graph is built with onnx.helper around `com.microsoft.GroupQueryAttention`, whose keys and values live in a
buffer that the caller owns and binds to both past and present: a step copies nothing and a rollback is a smaller
`seqlens_k`. An additive `attention_bias` makes several branches of a draft tree one call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.pair.shape import Array, Shape, rotary_tables

FORMAT_NAME = "slipstream-drafter"
FORMAT_VERSION = 1
TOP_K = 64
QUANTISATION_BLOCK = 32
INT8_ZERO = 128

Storage = Literal["float32", "float16", "int8"]


class GraphBuilder:
    """Nodes and initialisers in the making. Matrices are kept as `storage` says; norms are always float32."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        """Add an initialiser as it is."""
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; returns its first output."""
        name = f"node_{len(self.nodes)}_{operator}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def fused(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Add one of onnxruntime's own operators."""
        return self.node(operator, inputs, outputs, domain="com.microsoft", **attributes)

    def linear(self, name: str, x: str, weight: Array) -> str:
        """Multiply x [1, S, in] by `weight` [out, in] (torch's layout), without bias."""
        if self.storage == "int8":
            return self._linear_int8(name, x, weight)
        stored = self.constant(f"{name}.weight", weight.T.astype(self.storage))
        if self.storage == "float16":  # onnxruntime folds the Cast when it loads the graph
            stored = self.node("Cast", [stored], [f"{name}.weight.float32"], to=TensorProto.FLOAT)
        return self.node("MatMul", [x, stored], [name])

    def _linear_int8(self, name: str, x: str, weight: Array) -> str:
        rows, columns = weight.shape
        quantised, scales = quantise_rows(weight)
        packed = self.constant(f"{name}.weight.int8", quantised.reshape(rows, -1, QUANTISATION_BLOCK))
        scale = self.constant(f"{name}.weight.scale", scales)
        return self.fused(
            "MatMulNBits",
            [x, packed, scale],
            [name],
            K=columns,
            N=rows,
            bits=8,
            block_size=QUANTISATION_BLOCK,
            accuracy_level=4,
        )

    def embedding(self, ids: str, table: Array) -> str:
        """Rows of `table` [vocabulary, hidden] as float32 [1, S, hidden]."""
        if self.storage == "float32":
            return self.node(
                "Gather", [self.constant("embedding", table.astype(np.float32)), ids], ["embedded"]
            )
        stored = self.constant("embedding", table.astype(np.float16))
        rows = self.node("Gather", [stored, ids], ["embedded.float16"])
        return self.node("Cast", [rows], ["embedded"], to=TensorProto.FLOAT)


def quantise_rows(weight: Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Symmetric int8 in blocks along the input dimension: uint8 [out, in] with zero at 128, scales [out, blocks]."""
    rows, columns = weight.shape
    blocks = weight.astype(np.float32).reshape(rows, columns // QUANTISATION_BLOCK, QUANTISATION_BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=2) / 127.0, np.finfo(np.float32).tiny)
    steps = np.clip(np.rint(blocks / scales[:, :, None]), -127, 127)
    return (steps + INT8_ZERO).astype(np.uint8).reshape(rows, columns), scales.astype(np.float32)


def max_slots(shape: Shape) -> int:
    """Slots that a graph allows: branches of a tree share positions, so there are more of them than positions."""
    return 2 * shape.max_positions


def drafter_model(weights: Mapping[str, Array], shape: Shape, storage: Storage) -> onnx.ModelProto:
    """The graph of FORMAT.md. `weights` has transformers' names (`model.layers.0.self_attn.q_proj.weight`, ...)."""
    build = GraphBuilder(storage)
    for name, table in zip(("rotary.cos", "rotary.sin"), rotary_tables(shape, max_slots(shape)), strict=True):
        build.constant(name, table)
    vocabulary = weights["model.embed_tokens.weight"]
    residual = build.embedding("input_ids", vocabulary)
    normed = _norm(
        build, "layers.0.input_norm", residual, weights["model.layers.0.input_layernorm.weight"], shape
    )
    for layer in range(shape.layers):
        following = (
            weights[f"model.layers.{layer + 1}.input_layernorm.weight"]
            if layer + 1 < shape.layers
            else weights["model.norm.weight"]
        )
        normed, residual = _layer(build, layer, normed, residual, weights, following, shape)
    logits = build.node("Identity", [build.linear("lm_head", normed, vocabulary)], ["logits"])
    log_probabilities = build.node("LogSoftmax", [logits], ["log_probabilities"], axis=-1)
    top_k = build.constant("top_k", np.array([TOP_K], dtype=np.int64))
    build.node("TopK", [log_probabilities, top_k], ["topk_values", "topk_ids"], axis=-1)
    return _finish(build, shape)


def _norm(build: GraphBuilder, name: str, x: str, weight: Array, shape: Shape) -> str:
    gamma = build.constant(f"{name}.weight", weight.astype(np.float32))
    return build.node("SimplifiedLayerNormalization", [x, gamma], [name], axis=-1, epsilon=shape.norm_eps)


def _add_norm(
    build: GraphBuilder, name: str, branch: str, residual: str, weight: Array, shape: Shape
) -> tuple[str, str]:
    """(norm(branch + residual), branch + residual)."""
    gamma = build.constant(f"{name}.weight", weight.astype(np.float32))
    total = f"{name}.sum"
    build.fused(
        "SkipSimplifiedLayerNormalization",
        [branch, residual, gamma],
        [name, "", "", total],
        epsilon=shape.norm_eps,
    )
    return name, total


def _layer(
    build: GraphBuilder,
    layer: int,
    normed: str,
    residual: str,
    weights: Mapping[str, Array],
    following_norm: Array,
    shape: Shape,
) -> tuple[str, str]:
    """One decoder layer; returns the next norm's output and the residual stream."""
    ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
    packed = np.concatenate([weights[f"{theirs}.self_attn.{part}_proj.weight"] for part in "qkv"])
    qkv = build.linear(f"{ours}.qkv", normed, packed)
    past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    present = [f"present.{layer}.key", f"present.{layer}.value"]
    lengths = ["seqlens_k", "total_sequence_length"]
    attended = build.fused(
        "GroupQueryAttention",
        [qkv, "", "", *past, *lengths, "rotary.cos", "rotary.sin", "position_ids", "attention_bias"],
        [f"{ours}.attended", *present],
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        do_rotary=1,
        scale=shape.head_dim**-0.5,
    )
    mixed = build.linear(f"{ours}.o", attended, weights[f"{theirs}.self_attn.o_proj.weight"])
    normed, residual = _add_norm(
        build,
        f"{ours}.mlp_norm",
        mixed,
        residual,
        weights[f"{theirs}.post_attention_layernorm.weight"],
        shape,
    )
    gate_up = np.concatenate([weights[f"{theirs}.mlp.{part}_proj.weight"] for part in ("gate", "up")])
    halves = [f"{ours}.gate", f"{ours}.up"]
    build.node("Split", [build.linear(f"{ours}.gate_up", normed, gate_up)], halves, axis=-1, num_outputs=2)
    # QuickGelu is x * sigmoid(alpha * x): SiLU when alpha is 1.
    gated = build.fused("QuickGelu", [halves[0]], [f"{ours}.gated"], alpha=1.0)
    product = build.node("Mul", [gated, halves[1]], [f"{ours}.product"])
    down = build.linear(f"{ours}.down", product, weights[f"{theirs}.mlp.down_proj.weight"])
    return _add_norm(build, f"{ours}.next_norm", down, residual, following_norm, shape)


def _finish(build: GraphBuilder, shape: Shape) -> onnx.ModelProto:
    def value(name: str, kind: int, *dimensions: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(dimensions))

    cache: list[int | str] = [1, shape.kv_heads, "capacity", shape.head_dim]
    pairs = [(layer, part) for layer in range(shape.layers) for part in ("key", "value")]
    inputs = [
        value("input_ids", TensorProto.INT64, 1, "new"),
        value("position_ids", TensorProto.INT64, 1, "new"),
        value("attention_bias", TensorProto.FLOAT, 1, 1, "new", "total"),
        value("seqlens_k", TensorProto.INT32, 1),
        value("total_sequence_length", TensorProto.INT32),
        *(value(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, *cache) for layer, part in pairs),
    ]
    outputs = [
        value("logits", TensorProto.FLOAT, 1, "new", shape.vocabulary),
        value("topk_values", TensorProto.FLOAT, 1, "new", TOP_K),
        value("topk_ids", TensorProto.INT64, 1, "new", TOP_K),
        *(value(f"present.{layer}.{part}", TensorProto.FLOAT, *cache) for layer, part in pairs),
    ]
    graph = helper.make_graph(build.nodes, FORMAT_NAME, inputs, outputs, build.initialisers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name=FORMAT_NAME)


def metadata(shape: Shape, storage: Storage) -> dict[str, Any]:
    """What drafter.json says (FORMAT.md)."""
    return {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "architecture": "llama",
        "layers": shape.layers,
        "hidden_size": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocabulary_size": shape.vocabulary,
        "max_positions": shape.max_positions,
        "max_slots": max_slots(shape),
        "weights": storage,
        "top_k": TOP_K,
        "capabilities": {"tree": True, "shared_kv_buffer": True, "topk": True},
    }


def export_drafter(
    weights: Mapping[str, Array], shape: Shape, tokenizer_json: Path, folder: Path, storage: Storage
) -> None:
    """Write model.onnx, drafter.json and tokenizer.json (byte for byte the target's) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(drafter_model(weights, shape, storage), str(folder / "model.onnx"))
    (folder / "drafter.json").write_text(
        json.dumps(metadata(shape, storage), indent=2) + "\n", encoding="utf-8"
    )
    (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
