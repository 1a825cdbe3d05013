"""Train the target, with the early exit from which the drafter begins."""

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
from scripts.pair.model import Llama
from scripts.pair.optimizer import Optimizer
from scripts.pair.shape import Shape

TARGET_SHAPE = Shape(layers=6, hidden=288, intermediate=768, heads=6, kv_heads=2, head_dim=48)
DRAFTER_LAYERS = 2


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """How the target is trained. Time, not a number of steps, sets the schedule: the machine may be shared."""

    minutes: float
    shape: Shape = TARGET_SHAPE
    exit_layer: int = DRAFTER_LAYERS
    exit_weight: float = 0.3  # of the early exit's loss, beside the target's own
    tokens_per_batch: int = 4096
    window: int = 512
    long_window: int = 1024  # for the last part of the training, so that long prompts work
    long_share: float = 0.15
    muon_rate: float = 5e-3
    adam_rate: float = 3e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    library_share: float = 0.7
    resume: bool = False  # go on from the checkpoint, on other windows and with lower rates
    resume_factor: float = 0.6
    seed: int = 20

    @property
    def rate_factor(self) -> float:
        """What both learning rates are multiplied by."""
        return self.resume_factor if self.resume else 1.0


def schedule(progress: float, step: int, warmup_steps: int) -> float:
    """The learning rate's factor: linear warm-up by steps, then linear to zero by elapsed time."""
    return min(1.0, (step + 1) / warmup_steps) * max(0.0, 1.0 - progress)


@torch.no_grad()
def held_out_loss(model: Llama, stream: Tokens, window: int = 512, rows: int = 8) -> float:
    """Mean nats per token over the stream's consecutive windows, in float32."""
    total, count = 0.0, 0
    for batch in consecutive_windows(stream, window).split(rows):
        logits = model(batch[:, :-1])
        total += float(
            functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        )
        count += batch[:, 1:].numel()
    return total / count


def train_target(
    plan: TargetPlan, mixture: Mixture, held_out: Tokens, checkpoint: Path, say: Callable[[str], None]
) -> Llama:
    """Train for `plan.minutes`; the model is saved to `checkpoint` every 200 steps and at the end."""
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng([plan.seed, plan.resume])
    model = Llama(plan.shape, plan.exit_layer)
    if plan.resume:
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    muon_rate, adam_rate = plan.muon_rate * plan.rate_factor, plan.adam_rate * plan.rate_factor
    optimizer = Optimizer(model, muon_rate, adam_rate, plan.weight_decay)

    def losses(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        flat = targets.flatten()
        with torch.autocast("cpu", torch.bfloat16):
            last, early = model.both_logits(inputs)
            main = functional.cross_entropy(last.float().flatten(0, 1), flat)
            side = functional.cross_entropy(early.float().flatten(0, 1), flat)
        return main, side

    compiled = torch.compile(losses, dynamic=False)
    began = time.monotonic()
    step = 0
    while (progress := (time.monotonic() - began) / (60 * plan.minutes)) < 1.0:
        window = plan.window if progress < 1.0 - plan.long_share else plan.long_window
        batch = mixture.batch(rng, plan.tokens_per_batch // window, window + 1)
        factor = schedule(progress, step, plan.warmup_steps)
        main, side = compiled(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        (main + plan.exit_weight * side).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(factor)
        step += 1
        if step % 20 == 0:
            seconds = time.monotonic() - began
            say(
                f"target step {step} loss {main.item():.3f} exit {side.item():.3f} lr {factor:.3f} {seconds:.0f} s"
            )
        if step % 200 == 0:
            torch.save(model.state_dict(), checkpoint)
            say(f"target step {step} held-out {held_out_loss(model, held_out[: 40 * 512]):.3f}")
    torch.save(model.state_dict(), checkpoint)
    tokens = step * plan.tokens_per_batch
    say(f"target done: {step} steps, {tokens} tokens, held-out {held_out_loss(model, held_out):.4f}")
    return model
