"""Distil the drafter: it begins as the target's early exit and learns on the target's own text.

On-policy text of the *target* is what counts: drafts are accepted along what the target writes, not along the
corpus (Agarwal et al. 2024, arXiv 2306.13649, and Zhou et al. 2024, DistillSpec, arXiv 2310.08461, on which
divergence and whose text).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scripts.pair.data import Mixture, Tokens, consecutive_windows
from scripts.pair.generate import generate, own_text
from scripts.pair.model import Llama, exit_as_drafter
from scripts.pair.optimizer import Optimizer
from scripts.pair.target import schedule


@dataclass(frozen=True, slots=True)
class DistilPlan:
    """How the drafter is distilled."""

    minutes: float
    generation_share: float = 0.2  # of the minutes, for writing the target's own text
    text_length: int = 512  # tokens of each such text, prompt included; windows of the corpus are as long
    prompt_lengths: tuple[int, ...] = (32, 64, 128, 256)
    sampled_share: float = 0.4  # of the texts drawn at T = 1; the others are greedy
    generation_rows: int = 128
    rows: int = 8  # texts per step
    corpus_every: int = 6  # one step in so many is on the corpus
    sharpened_weight: float = 0.5  # of the divergence at T = 1/2, which stresses the first choice
    muon_rate: float = 3e-3
    adam_rate: float = 1.5e-3
    warmup_steps: int = 20
    weight_decay: float = 0.02
    seed: int = 21


def distillation_loss(student: Tensor, teacher: Tensor, sharpened_weight: float) -> Tensor:
    """KL(target || drafter) + total variation, both at T = 1, + the KL at T = 1/2; logits [..., vocabulary]; a mean."""
    teacher, student = teacher.float(), student.float()
    log_p, log_q = functional.log_softmax(teacher, -1), functional.log_softmax(student, -1)
    p, q = log_p.exp(), log_q.exp()
    divergence = (p * (log_p - log_q)).sum(-1)
    variation = 0.5 * (p - q).abs().sum(-1)
    sharp_p, sharp_q = functional.log_softmax(2 * teacher, -1), functional.log_softmax(2 * student, -1)
    sharpened = (sharp_p.exp() * (sharp_p - sharp_q)).sum(-1)
    return (divergence + variation + sharpened_weight * sharpened).mean()


@torch.no_grad()
def greedy_agreement(target: Llama, drafter: Llama, texts: Tensor, prompt_length: int) -> float:
    """Share of positions after the prompt at which both models' first choices are equal; texts [rows, tokens]."""
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = drafter(texts[:, :-1]).argmax(-1), target(texts[:, :-1]).argmax(-1)
    return float((ours == theirs)[:, prompt_length - 1 :].float().mean())


def distil(
    plan: DistilPlan,
    target: Llama,
    mixture: Mixture,
    held_out: Tokens,
    checkpoint: Path,
    say: Callable[[str], None],
) -> Llama:
    """Write own text, then distil until `plan.minutes` are over; the drafter is saved to `checkpoint`."""
    began = time.monotonic()
    target.eval().requires_grad_(requires_grad=False)
    drafter = exit_as_drafter(target)
    probe_prompts = consecutive_windows(held_out, 128)[:: max(1, len(held_out) // 128 // 48)][:48]
    probe = generate(target, probe_prompts, 256, 0)
    say(
        f"distil: early exit agrees on {greedy_agreement(target, drafter, probe, 128):.3f} of held-out own text"
    )
    texts = own_text(
        target,
        mixture,
        plan.minutes * plan.generation_share,
        plan.text_length,
        plan.prompt_lengths,
        plan.sampled_share,
        plan.generation_rows,
        plan.seed,
        say,
    )
    rng = np.random.default_rng(plan.seed)
    optimizer = Optimizer(drafter, plan.muon_rate, plan.adam_rate, plan.weight_decay)

    @torch.no_grad()
    def teach(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = target(ids)
        return logits

    def learn(ids: Tensor, teacher: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            student = drafter(ids)
        return distillation_loss(student, teacher, plan.sharpened_weight)

    fast_teach, fast_learn = torch.compile(teach, dynamic=False), torch.compile(learn, dynamic=False)
    start, step = time.monotonic() - began, 0
    while (seconds := time.monotonic() - began) < 60 * plan.minutes:
        if step % plan.corpus_every == plan.corpus_every - 1:
            batch = mixture.batch(rng, plan.rows, plan.text_length)
        else:
            batch = torch.from_numpy(texts[rng.integers(0, len(texts), plan.rows)].astype(np.int64))
        loss = fast_learn(batch, fast_teach(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
        factor = schedule((seconds - start) / (60 * plan.minutes - start), step, plan.warmup_steps)
        optimizer.step(factor)
        step += 1
        if step % 20 == 0:
            say(f"distil step {step} loss {loss.item():.3f} lr {factor:.3f} {seconds:.0f} s")
        if step % 100 == 0:
            torch.save(drafter.state_dict(), checkpoint)
            say(f"distil step {step} greedy agreement {greedy_agreement(target, drafter, probe, 128):.3f}")
    torch.save(drafter.state_dict(), checkpoint)
    say(f"distil done: {step} steps, greedy agreement {greedy_agreement(target, drafter, probe, 128):.3f}")
    return drafter
