"""How much is measured: chosen once on the command line and handed to every section."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DEMO_PAIR = Path(__file__).resolve().parents[2] / "models" / "demo"


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """Sizes of a run. The defaults are those of the documentation's figures; `quick` only shows the direction."""

    pair: Path = DEMO_PAIR
    """Folder with `target` (transformers) and `drafter` (ONNX)."""
    threads: int = len(os.sched_getaffinity(0))
    """Torch threads of both sides, where a section does not say otherwise."""
    rounds: int = 15
    """Times that each side has its turn."""
    steps: int = 8
    """Timed verify steps of one turn."""
    drafter_steps: int = 32
    """Timed drafter steps of one turn."""
    past: int = 128
    """Tokens before the middle one of a turn's steps."""
    session_counts: tuple[int, ...] = (1, 8, 32)
    prompts: int = 8
    """Held-out prompts of the decoding sections: one round each; at least 2."""
    tokens: int = 128
    """New tokens per prompt."""
    live_tokens: int = 400
    live_rounds: int = 2
    step_ms: float = 30.0
    draft_ms: float = 3.0
    rtt_ms: float = 50.0
    acceptance: float = 0.8

    def quick(self) -> BenchSettings:
        """A minute or two in all."""
        return BenchSettings(
            pair=self.pair,
            threads=self.threads,
            rounds=5,
            steps=4,
            prompts=4,
            tokens=64,
            live_tokens=100,
            live_rounds=1,
        )
