"""Muon for the hidden matrices, AdamW for embeddings and norms.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") replaces a matrix's momentum
by its nearest semi-orthogonal matrix; the update's size is matched to AdamW's as in Liu et al. 2025 (arXiv
2502.16982). On the few hundred steps that fit here it is worth its cost, which stacking equal shapes and half
precision keep near a sixth of a step.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ADAM_RMS = 0.2  # the usual root-mean-square of an AdamW update, in learning rates


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz on [count, rows, columns], rows <= columns; singular values end near 1."""
    x: Tensor = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.float()


class Optimizer:
    """One step for a whole model: `step(factor)` uses the gradients and clears them."""

    def __init__(self, model: nn.Module, muon_rate: float, adam_rate: float, weight_decay: float) -> None:
        self.muon_rate, self.adam_rate, self.weight_decay = muon_rate, adam_rate, weight_decay
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                by_shape[parameter.shape].append(parameter)
            else:
                others.append(parameter)
        self.stacks = list(by_shape.values())
        self.momenta = [torch.zeros(len(stack), *stack[0].shape) for stack in self.stacks]
        self.adam = torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Apply one update with all learning rates multiplied by `factor`; gradients are cleared."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor
        self.adam.step()
        self.adam.zero_grad()
        for stack, momentum in zip(self.stacks, self.momenta, strict=True):
            gradient = torch.stack([parameter.grad for parameter in stack if parameter.grad is not None])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = gradient.lerp(momentum, MOMENTUM)  # Nesterov
            rows, columns = update.shape[-2:]
            update = orthogonalise(update) if rows <= columns else orthogonalise(update.mT).mT
            rate = self.muon_rate * factor
            for parameter, change in zip(stack, update, strict=True):
                parameter.mul_(1 - rate * self.weight_decay)
                parameter.sub_(change, alpha=rate * ADAM_RMS * max(rows, columns) ** 0.5)
                parameter.grad = None
