"""The table at the end, and the same as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich import box
from rich.table import Table

from scripts.demo.arms import Arm, Sample
from scripts.demo.compare import Difference
from scripts.demo.lookahead import Choice

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Emulated:
    """What stands for something that is not here. Named beside every figure."""

    rtt_ms: float
    jitter_ms: float
    up_kbit: float
    down_kbit: float
    step_floor_ms: float
    draft_floor_ms: float

    def describe(self) -> str:
        """For people."""
        jitter = f" +-{self.jitter_ms:g}" if self.jitter_ms else ""
        rates = [
            f"{rate:g} kbit/s {way}" for rate, way in ((self.up_kbit, "up"), (self.down_kbit, "down")) if rate
        ]
        parts = [
            f"network {', '.join([f'{self.rtt_ms:g}{jitter} ms round trip', *rates])} (TCP proxy)",
            f"at least {self.step_floor_ms:g} ms per verify step (step floor: stands for a larger target)",
        ]
        if self.draft_floor_ms:
            parts.append(
                f"at least {self.draft_floor_ms:g} ms per drafter forward (stands for a slower device)"
            )
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Row:
    """One arm over all prompts."""

    arm: str
    name: str
    ttft_ms: float
    """Median over prompts."""
    tpot_ms: float | None
    """All time after first tokens by all tokens after first tokens."""
    speed: float | None
    """The baseline's time per token by this one's."""
    acceptance_rate: float | None
    """Mean over prompts, each weighted by its tokens."""
    link_bytes_per_token_up: float
    link_bytes_per_token_down: float
    message_bytes_per_token_up: float
    message_bytes_per_token_down: float
    steps_per_token: float
    verified_per_token: float
    identical: bool


def rows(ways: Sequence[Arm], samples: Sequence[Sample], found: Sequence[Difference]) -> list[Row]:
    """One row per arm, compared with the first."""
    made: list[Row] = []
    different = {one.arm for one in found}
    for arm in ways:
        own = [sample for sample in samples if sample.arm == arm.key]
        total = sum(len(sample.tokens) for sample in own)
        tpot = _tpot_ms(own)
        baseline = made[0].tpot_ms if made else tpot
        made.append(
            Row(
                arm=arm.key,
                name=arm.name,
                ttft_ms=statistics.median(sample.ttft_ms for sample in own),
                tpot_ms=tpot,
                speed=baseline / tpot if baseline is not None and tpot else None,
                acceptance_rate=_acceptance(own),
                link_bytes_per_token_up=sum(sample.link_bytes_up for sample in own) / total,
                link_bytes_per_token_down=sum(sample.link_bytes_down for sample in own) / total,
                message_bytes_per_token_up=sum(sample.message_bytes_up for sample in own) / total,
                message_bytes_per_token_down=sum(sample.message_bytes_down for sample in own) / total,
                steps_per_token=sum(sample.steps for sample in own) / total,
                verified_per_token=sum(sample.verified for sample in own) / total,
                identical=arm.key not in different,
            )
        )
    return made


def table(lines: Sequence[Row], emulated: Emulated) -> Table:
    """For a terminal of 80 columns. Bytes are TCP payload."""
    made = Table(
        box=box.SIMPLE_HEAD, padding=0, caption=f"Emulated: {emulated.describe()}.", caption_justify="left"
    )
    made.add_column("", no_wrap=True)
    for column in (
        "TTFT\nms",
        "TPOT\nms",
        "speed",
        "accep-\ntance",
        "B/token\nup",
        "B/token\ndown",
        "same\ntokens",
    ):
        made.add_column(column, justify="right")
    for line in lines:
        made.add_row(
            line.name,
            f"{line.ttft_ms:.0f}",
            _figure(line.tpot_ms, 1),
            f"{_figure(line.speed, 2)}x",
            _figure(line.acceptance_rate, 2),
            f"{line.link_bytes_per_token_up:.0f}",
            f"{line.link_bytes_per_token_down:.0f}",
            "yes" if line.identical else "NO",
        )
    return made


def as_json(
    *,
    emulated: Emulated,
    settings: dict[str, Any],
    choice: Choice,
    lines: Sequence[Row],
    samples: Sequence[Sample],
    found: Sequence[Difference],
) -> dict[str, Any]:
    """Everything, as plain values. Keys of settings are the options' names."""
    return {
        "format_version": FORMAT_VERSION,
        "emulated": asdict(emulated),
        "settings": settings,
        "lookahead": asdict(choice),
        "arms": [asdict(line) for line in lines],
        "identical": not found,
        "differences": [asdict(one) for one in found],
        "samples": [asdict(sample) for sample in samples],
    }


def _tpot_ms(samples: Sequence[Sample]) -> float | None:
    timed = [(sample.tpot_ms, len(sample.tokens) - 1) for sample in samples if sample.tpot_ms is not None]
    return sum(tpot * count for tpot, count in timed) / sum(count for _, count in timed) if timed else None


def _acceptance(samples: Sequence[Sample]) -> float | None:
    known = [
        (sample.acceptance_rate, len(sample.tokens))
        for sample in samples
        if sample.acceptance_rate is not None
    ]
    return sum(rate * count for rate, count in known) / sum(count for _, count in known) if known else None


def _figure(figure: float | None, digits: int) -> str:
    return "-" if figure is None else f"{figure:.{digits}f}"
