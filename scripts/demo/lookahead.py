"""The best lookahead for the synchronous baseline: measure the pair, ask the simulator.

A baseline with a badly chosen lookahead would flatter Slipstream, and trying all of them live takes longer than the
demo may. The simulator runs the product's own machines under a virtual clock, so what it needs is four figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from edge_client.app import Client, GenerateOptions
from edge_client.policies import DEFAULT_PATIENCE_MS, DraftOptions, Mode, Shape, policies_for
from shared.policy.reconnect import Reconnect
from shared.profiled import Profile
from shared.sampling import SamplingParams
from shared.sim.predict import predict

LOOKAHEADS: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
UNMEASURED: Final = 4
"""Where no draft was judged, so that there is no acceptance to go by."""
PROBE: Final = 4
"""Lookahead of the generations that measure acceptance."""
SIMULATED_TOKENS: Final = 200
SEEDS: Final = 3
CONTEXT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """What the simulator is told."""

    acceptance: float | None
    """Share of judged drafts that were right in a chain; None: none was judged."""
    step_ms: float | None
    """Cloud alone, per token: a verify step as it is felt; None: fewer than two tokens."""
    cycle_ms: float | None
    """From one block's verdict to the next with a lookahead of `PROBE`, median; None: there was one verdict."""
    rtt_ms: float
    """As asked of the emulator; a few measured ones say less where there is jitter."""
    draft_floor_ms: float

    def figures(self) -> Figures | None:
        """What the simulator asks for; None: too little was measured."""
        if self.acceptance is None or self.step_ms is None or self.cycle_ms is None:
            return None
        # What a cycle takes beyond the network and the step counts as drafting of the block, hand-overs included.
        draft_ms = max(self.draft_floor_ms, (self.cycle_ms - self.rtt_ms - self.step_ms) / PROBE)
        return Figures(self.acceptance, self.step_ms, draft_ms, self.rtt_ms)


@dataclass(frozen=True, slots=True)
class Figures:
    """The simulator's idea of pair and network."""

    acceptance: float
    step_ms: float
    draft_ms: float
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A lookahead and why."""

    lookahead: int
    measured: Measured
    predicted_tpot_ms: dict[int, float]
    """By lookahead; empty: nothing was measured to predict from."""

    def describe(self) -> str:
        """For people."""
        figures = self.measured.figures()
        if figures is None:
            return (
                f"sync SI takes lookahead {self.lookahead}: too few tokens were drafted to measure the pair"
            )
        options = ", ".join(map(str, self.predicted_tpot_ms))
        return (
            f"sync SI takes lookahead {self.lookahead}, the best in the simulator of {options} "
            f"({self.predicted_tpot_ms[self.lookahead]:.1f} ms per token) at the measured acceptance "
            f"{figures.acceptance:.2f}, {figures.step_ms:.1f} ms per step, {figures.draft_ms:.1f} ms per draft and "
            f"{figures.rtt_ms:.1f} ms per round trip"
        )


async def measure(
    client: Client,
    prompts: Sequence[str],
    tokens: int,
    sampling: SamplingParams,
    *,
    rtt_ms: float,
    draft_floor_ms: float,
) -> Measured:
    """Measure on prompts that are not shown. Also warms up every code path of the arms."""
    probes = [
        GenerateOptions(prompt, tokens, sampling, draft=DraftOptions(mode=Mode.SYNC, lookahead=PROBE))
        for prompt in prompts
    ]
    sync = [(await client.generate(probe)).stats for probe in probes]
    short = max(2, tokens // 4)
    _, cloud = [
        (
            await client.generate(GenerateOptions(prompts[0], short, sampling, draft=DraftOptions(mode=mode)))
        ).stats
        for mode in (Mode.STREAM, Mode.CLOUD)
    ]
    return Measured(
        acceptance=_mean(one.acceptance_rate for one in sync),
        step_ms=cloud.tpot_ms,
        cycle_ms=_mean(one.commit_gap_ms.p50 for one in sync),
        rtt_ms=rtt_ms,
        draft_floor_ms=draft_floor_ms,
    )


def choose(measured: Measured) -> Choice:
    """The lookahead with the least predicted time per token."""
    figures = measured.figures()
    if figures is None:
        return Choice(UNMEASURED, measured, {})
    profile = Profile(acceptance=figures.acceptance, step_ms=figures.step_ms, draft_ms=figures.draft_ms)
    predicted = {lookahead: _tpot_ms(profile, lookahead, figures.rtt_ms) for lookahead in LOOKAHEADS}
    return Choice(min(predicted, key=lambda lookahead: predicted[lookahead]), measured, predicted)


def _tpot_ms(profile: Profile, lookahead: int, rtt_ms: float) -> float:
    draft = DraftOptions(mode=Mode.SYNC, lookahead=lookahead)
    return statistics.mean(
        predict(
            profile,
            policies_for(draft, Shape.CHAIN, Reconnect(), CONTEXT),
            rtt_ms=rtt_ms,
            tokens=SIMULATED_TOKENS,
            patience_us=round(DEFAULT_PATIENCE_MS * 1000),
            seed=seed,
        ).tpot_ms
        for seed in range(SEEDS)
    )


def _mean(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return statistics.mean(known) if known else None
