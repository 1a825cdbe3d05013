"""The target's own text, in batches: what the drafter learns on, and what its acceptance is measured on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from scripts.pair.data import Mixture, Tokens
from scripts.pair.model import Llama


@torch.no_grad()
def generate(model: Llama, prompts: Tensor, total: int, sampled_rows: int) -> Tensor:
    """Continue `prompts` [rows, tokens] to `total` tokens each; the first `sampled_rows` at T = 1, the others greedily.

    Matrices are multiplied in bfloat16: this is training text, not a reference.
    """
    rows, prompt_length = prompts.shape
    text = torch.empty(rows, total, dtype=torch.int64)
    text[:, :prompt_length] = prompts
    caches = model.empty_caches(rows, total, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):  # one context for the whole loop: it casts each weight once
        logits = model.step(prompts, caches, 0)
        for position in range(prompt_length, total):
            scores = logits.float()
            # Dividing by exponential noise is adding Gumbel noise to the logarithm: an exact sample.
            scores[:sampled_rows] -= torch.empty_like(scores[:sampled_rows]).exponential_().log()
            text[:, position] = scores.argmax(-1)
            if position + 1 < total:
                logits = model.step(text[:, position : position + 1], caches, position)
    return text


def own_text(
    model: Llama,
    mixture: Mixture,
    minutes: float,
    total: int,
    prompt_lengths: Sequence[int],
    sampled_share: float,
    rows: int,
    seed: int,
    say: Callable[[str], None],
) -> Tokens:
    """uint16 [texts, total]: continuations of training text, batch after batch until `minutes` are over."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    batches: list[Tokens] = []
    began = time.monotonic()
    while not batches or time.monotonic() - began < 60 * minutes:
        length = prompt_lengths[len(batches) % len(prompt_lengths)]
        prompts = mixture.batch(rng, rows, length)
        batches.append(generate(model, prompts, total, round(rows * sampled_share)).numpy().astype(np.uint16))
        say(f"own text: {len(batches) * rows} texts of {total}, {time.monotonic() - began:.0f} s")
    return np.concatenate(batches)
