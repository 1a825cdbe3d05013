"""Linear layers with weights packed for oneDNN, for float32 on a CPU.

torch packs a float32 weight anew in every matrix product. Packed once, products of a few rows, which is what a verify
step consists of, then take about half the time. The operators are private to torch, so they are used only where they
exist and agree with `torch.nn.Linear` on the layer at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WORTH_PACKING = 1 << 18
"""Rows times weights from which a packed product is faster: below, the operator's fixed cost of 10 us decides."""
TOLERANCE = 1e-4
"""Greatest difference to `nn.Linear` on standard normal input, relative to the greatest output."""


class PackedLinear(nn.Module):
    """y = x W^T + b with a packed W; the plain W is kept only for layers that are small enough to do without."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self._count = weight.numel()
        self._plain = weight if self._count < WORTH_PACKING else None
        bias: Tensor | None = linear.bias  # torch says Parameter, and None if there is none
        self._bias = None if bias is None else bias.detach()
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001
        self._product: Any = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if self._plain is not None and x.numel() // self.in_features * self._count < WORTH_PACKING:
            return nn.functional.linear(x, self._plain, self._bias)
        packed: Tensor = self._product(x, self._packed, self._bias, "none", [], "")
        return packed


def pack_linear_layers(module: nn.Module) -> int:
    """Replace the linear layers of a float32 CPU module, in place, wherever packing is available and right.

    Returns:
        how many layers were replaced; 0 if this build of torch or this processor cannot.
    """
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            # Exactly nn.Linear: a subclass may compute something else.
            if type(child) is nn.Linear and isinstance(packed := packed_if_right(child), PackedLinear):
                setattr(parent, name, packed)
                count += 1
    return count


def packed_if_right(linear: nn.Linear) -> nn.Module:
    """The layer packed; itself if packing is not available, not for it, or does not agree with it."""
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return linear
    if linear.weight.dtype != torch.float32 or linear.weight.device.type != "cpu":
        return linear
    packed = PackedLinear(linear)
    return packed if _agree(linear, packed) else linear


def _agree(linear: nn.Linear, packed: PackedLinear) -> bool:
    generator = torch.Generator().manual_seed(0)
    rows = max(2, WORTH_PACKING // linear.weight.numel() + 1)
    x = torch.randn(rows, linear.in_features, generator=generator)
    right, ours = linear(x), packed(x)
    return bool((right - ours).abs().max() <= TOLERANCE * right.abs().max().clamp_min(1e-6))
