"""A lean decoder for the Llama family in float32 on a CPU: the same sums as transformers' own, half the overhead.

A verify step of a small target spends most of its time between the products: per layer transformers makes about
forty small operator calls. Here it is fifteen, since projections that share an input are one product, and a rotation
is one complex multiplication. For that the pairs (i, i + D/2) that RoPE rotates are laid side by side: the same
permutation of queries and keys leaves their products as they were. `cloud_server.target` compares the outcome with
the stock model before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, rms_norm
from transformers import PreTrainedModel

from cloud_server.attention import RaggedBatch, attend
from cloud_server.packed_linear import packed_if_right

FAMILY: Final = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Pre-norm, rotary, gated decoders that differ only in biases and in norms of queries and keys."""

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Qwen3 normalises each query and key; weights [D], in the rotated order."""

    query: Tensor
    key: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class LeanLayer:
    """One layer's weights, fused."""

    first_norm: Tensor
    second_norm: Tensor
    eps: float
    queries_keys_values: Product
    head_norm: HeadNorm | None
    attention_out: Product
    gates_ups: Product
    activation: Callable[[Tensor], Tensor]
    down: Product


class LeanDecoder:
    """Calls are as cheap as torch allows. Holds packed copies of the model's weights, not the model."""

    def __init__(self, module: PreTrainedModel) -> None:
        """`module`: one that `is_lean` accepts."""
        model: Any = module
        attention = model.model.layers[0].self_attn
        self._size: int = attention.head_dim
        self._heads: int = attention.q_proj.out_features // self._size
        self._kv_heads: int = attention.k_proj.out_features // self._size
        self._scale: float = attention.scaling
        self._embedding: Tensor = model.model.embed_tokens.weight.detach()
        self._frequencies: Tensor = model.model.rotary_emb.inv_freq.clone()
        self._amplitude: float = model.model.rotary_emb.attention_scaling
        self._layers = [self._fuse(layer) for layer in model.model.layers]
        self._norm: Tensor = model.model.norm.weight.detach()
        self._norm_eps: float = model.model.norm.variance_epsilon
        self._head = packed_if_right(model.lm_head).forward

    def logits(self, tokens: Tensor, positions: Tensor, rows: Tensor, batch: RaggedBatch) -> Tensor:
        """Tokens and positions [T], rows [R] to logits [R, V]; writes keys and values into the pool."""
        heads, kv_heads, size, total = self._heads, self._kv_heads, self._size, len(tokens)
        group, width = heads // kv_heads, [self._embedding.shape[1]]
        angles = positions[:, None, None] * self._frequencies
        turn = torch.polar(torch.full_like(angles, self._amplitude), angles)
        x = embedding(tokens, self._embedding)
        for number, layer in enumerate(self._layers):
            h = layer.queries_keys_values(rms_norm(x, width, layer.first_norm, layer.eps))
            h = h.view(total, heads + 2 * kv_heads, size)
            qk, value = h.split([heads + kv_heads, kv_heads], dim=1)
            if layer.head_norm is not None:
                qk = self._normed(qk, layer.head_norm)
            turned = torch.view_as_complex(qk.unflatten(2, (-1, 2))) * turn
            query, key = torch.view_as_real(turned).flatten(2).split([heads, kv_heads], dim=1)
            folded = (
                query.unflatten(1, (kv_heads, group))
                .transpose(0, 1)
                .reshape(1, kv_heads, total * group, size)
            )
            out = attend(folded, key.transpose(0, 1), value.transpose(0, 1), number, self._scale, batch)
            out = out.view(kv_heads, total, group * size).transpose(0, 1).reshape(total, -1)
            x = x + layer.attention_out(out)
            gate, up = layer.gates_ups(rms_norm(x, width, layer.second_norm, layer.eps)).chunk(2, dim=1)
            x = x + layer.down(layer.activation(gate) * up)
        logits: Tensor = self._head(rms_norm(x.index_select(0, rows), width, self._norm, self._norm_eps))
        return logits

    def _normed(self, qk: Tensor, norm: HeadNorm) -> Tensor:
        query, key = qk.split([self._heads, self._kv_heads], dim=1)
        size = [self._size]
        return torch.cat(
            (rms_norm(query, size, norm.query, norm.eps), rms_norm(key, size, norm.key, norm.eps)), 1
        )

    def _fuse(self, layer: Any) -> LeanLayer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            head_norm = HeadNorm(
                self._paired(attention.q_norm.weight),
                self._paired(attention.k_norm.weight),
                attention.q_norm.variance_epsilon,
            )
        queries, keys = (
            _linear(self._paired(part.weight), None if part.bias is None else self._paired(part.bias))
            for part in (attention.q_proj, attention.k_proj)
        )
        return LeanLayer(
            first_norm=layer.input_layernorm.weight.detach(),
            second_norm=layer.post_attention_layernorm.weight.detach(),
            eps=layer.input_layernorm.variance_epsilon,
            queries_keys_values=_side_by_side(queries, keys, attention.v_proj),
            head_norm=head_norm,
            attention_out=packed_if_right(attention.o_proj).forward,
            gates_ups=_side_by_side(mlp.gate_proj, mlp.up_proj),
            activation=mlp.act_fn,
            down=packed_if_right(mlp.down_proj).forward,
        )

    def _paired(self, weight: Tensor) -> Tensor:
        """Rows in the order 0, D/2, 1, D/2 + 1, ... within each head."""
        halves = weight.detach().unflatten(0, (-1, 2, self._size // 2))
        paired: Tensor = halves.transpose(1, 2).flatten(0, 2).contiguous()
        return paired


def is_lean(module: PreTrainedModel) -> bool:
    """Whether `LeanDecoder` covers this model."""
    model: Any = module
    if type(module).__name__ not in FAMILY:
        return False
    whole_head: bool = 2 * len(model.model.rotary_emb.inv_freq) == model.model.layers[0].self_attn.head_dim
    return whole_head


def drop_layers(module: PreTrainedModel) -> None:
    """Free the weights of a model that a `LeanDecoder` has taken copies of; it computes nothing from then on."""
    model: Any = module
    model.model.layers = nn.ModuleList()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _side_by_side(*parts: nn.Linear) -> Product:
    """One product for linear layers of one input, which in these families all have a bias or none has."""
    weight = torch.cat([part.weight.detach() for part in parts])
    biases: list[Tensor | None] = [part.bias for part in parts]
    present = [bias.detach() for bias in biases if bias is not None]
    bias = torch.cat(present) if present else None
    return packed_if_right(_linear(weight, bias)).forward
