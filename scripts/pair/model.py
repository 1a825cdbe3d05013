"""A Llama written for training: transformers' weight names, an optional early exit, batched cached generation.

Only the training uses it. What is shipped is loaded by transformers (target) or onnxruntime (drafter), and tests
hold all three to the same logits.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.pair.shape import Shape, rotary_tables

NO_EXIT = "the model has no early exit"

KeyValues = tuple[Tensor, Tensor]
"""One layer's key and value buffers, each [batch, kv_heads, capacity, head_dim]."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves convention: x [batch, heads, tokens, head_dim], tables [..., tokens, head_dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed: Tensor = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        return normed


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KeyValues | None = None, start: int = 0
    ) -> Tensor:
        """Attend; with a cache, x [batch, tokens, hidden] is a whole prompt (start 0) or one token at `start`."""
        batch, tokens, _ = x.shape
        head_dim, kv_heads = self.shape.head_dim, self.shape.kv_heads
        groups = self.shape.heads // kv_heads
        q = rotate(self.q_proj(x).view(batch, tokens, -1, head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(batch, tokens, -1, head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, tokens, -1, head_dim).transpose(1, 2)
        if cache is not None:
            cache[0][:, :, start : start + tokens] = k
            cache[1][:, :, start : start + tokens] = v
        if cache is not None and start:
            # A group's query heads become rows of one head, so that no key is copied for them.
            keys, values = (buffer[:, :, : start + 1] for buffer in cache)
            folded = q.reshape(batch, kv_heads, groups, head_dim)
            mixed = functional.scaled_dot_product_attention(folded, keys, values).reshape(batch, 1, -1)
        else:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(batch, tokens, -1)
        out: Tensor = self.o_proj(mixed)
        return out


class FeedForward(nn.Module):
    """Gated feed-forward (SiLU)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KeyValues | None = None, start: int = 0
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, start)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Stack(nn.Module):
    """Embedding, layers and last norm, under the name that transformers gives them (`model.`)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.norm_eps)


class Llama(nn.Module):
    """The model. With `exit_layer` it also has an early exit: a norm of its own after that many layers.

    The exit shares the (tied) output embedding. Training it along with the target gives the drafter its first
    weights for nothing (Elhoushi et al. 2024, LayerSkip, arXiv 2404.16710).
    """

    def __init__(self, shape: Shape, exit_layer: int | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.exit_layer = exit_layer
        self.model = Stack(shape)
        self.exit_norm = RMSNorm(shape.hidden, shape.norm_eps) if exit_layer else None
        cos, sin = rotary_tables(shape)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", torch.from_numpy(cos), persistent=False)
        self.register_buffer("sin", torch.from_numpy(sin), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = 0.02
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std /= (2 * self.shape.layers) ** 0.5
                nn.init.normal_(parameter, std=std)

    def residuals(self, ids: Tensor) -> list[Tensor]:
        """The residual stream [batch, tokens, hidden] after each layer, causal, no cache."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        streams: list[Tensor] = []
        for layer in self.model.layers:
            x = layer(x, cos, sin)
            streams.append(x)
        return streams

    def both_logits(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the last layer and of the early exit. Raises ValueError if there is no exit."""
        if self.exit_layer is None or self.exit_norm is None:
            raise ValueError(NO_EXIT)
        streams = self.residuals(ids)
        early = self.exit_norm(streams[self.exit_layer - 1])
        return self.project(self.model.norm(streams[-1])), self.project(early)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] from normed hidden states."""
        return functional.linear(hidden, self.model.embed_tokens.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary], causal, no cache."""
        return self.project(self.model.norm(self.residuals(ids)[-1]))

    @property
    def drafter_shape(self) -> Shape:
        """The shape of the model that the early exit is."""
        if self.exit_layer is None:
            raise ValueError(NO_EXIT)
        return replace(self.shape, layers=self.exit_layer)

    def step(self, ids: Tensor, caches: list[KeyValues], start: int) -> Tensor:
        """Logits [batch, vocabulary] after the last of `ids` [batch, tokens]: a prompt at 0 or one token at `start`."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[start : start + ids.shape[1]], self.sin[start : start + ids.shape[1]]
        for layer, cache in zip(self.model.layers, caches, strict=True):
            x = layer(x, cos, sin, cache, start)
        return self.project(self.model.norm(x[:, -1]))

    def empty_caches(self, batch: int, capacity: int, dtype: torch.dtype) -> list[KeyValues]:
        """Buffers for `step`."""
        sizes = (batch, self.shape.kv_heads, capacity, self.shape.head_dim)
        return [(torch.empty(sizes, dtype=dtype), torch.empty(sizes, dtype=dtype)) for _ in self.model.layers]


def exit_as_drafter(target: Llama) -> Llama:
    """A model of its own made of copies of the target's embedding, first layers and exit norm."""
    if target.exit_norm is None:
        raise ValueError(NO_EXIT)
    drafter = Llama(target.drafter_shape)
    drafter.model.embed_tokens.load_state_dict(target.model.embed_tokens.state_dict())
    for ours, theirs in zip(drafter.model.layers, target.model.layers, strict=False):
        ours.load_state_dict(theirs.state_dict())
    drafter.model.norm.load_state_dict(target.exit_norm.state_dict())
    return drafter
