"""From what was measured to what it says: arms side by side, what must hold, and who is served within a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_capacity.colocated import best_within, tokens_per_s
from scripts.bench_capacity.records import Found
from scripts.bench_capacity.setting import BATCHING, NAMES, Arm, Batching, Setting

LIMITS_MS: Final = (32.0, 40.0, 60.0)
"""For the 95th percentile of the time between tokens."""
FEW_CLIENTS: Final = 16
FACTOR_FEW: Final = 1.05
"""Slipstream's rate by co-located SI's that must be reached up to `FEW_CLIENTS`."""
FACTOR_MANY: Final = 1.0
NOISE: Final = 0.01
"""A full verifier gives every client a token a step in both arms: what the ends of a window do to the two rates."""


@dataclass(frozen=True, slots=True)
class CellFigures:
    """The arms of one cell that were measured."""

    setting: Setting
    by_arm: Mapping[Arm, Found]

    def over(self, arm: Arm) -> float | None:
        """Slipstream's rate by that of another arm."""
        return _ratio(self.by_arm.get(Arm.SLIPSTREAM), self.by_arm.get(arm))

    @property
    def asked(self) -> float:
        """What the rate by co-located SI's must reach."""
        return FACTOR_FEW if self.setting.clients <= FEW_CLIENTS else FACTOR_MANY

    @property
    def arms(self) -> tuple[Found, ...]:
        """Those that are there."""
        return tuple(self.by_arm.values())


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that must hold."""

    text: str
    measured: str
    met: bool | None
    """None: nothing was measured that it is about."""


@dataclass(frozen=True, slots=True)
class Most:
    """The most clients, of those tried, up to which a limit holds."""

    clients: int
    tokens_per_s: float
    """Of all of them."""
    lookahead: int | None


@dataclass(frozen=True, slots=True)
class Served:
    """How many clients an arm serves within each of `LIMITS_MS`, by one link and one drafter."""

    rtt_ms: float
    draft_ms: float
    arm: Arm
    most: tuple[Most | None, ...]
    """None: not even the fewest."""
    computed: bool = False
    """Co-located SI by its formula, with the block that is best within each limit: what runs is the one that is best
    for the rate."""


def cells(measured: Sequence[Found]) -> list[CellFigures]:
    """By link, drafter and clients.

    The cloud alone has no drafter: it is measured once for each link. A batch of one client is none: whatever further
    sequences cost, it is measured once.
    """
    found = []
    settings = {
        (one.setting.rtt_ms, one.setting.draft_ms, one.setting.clients): one.setting
        for one in measured
        if one.arm is not Arm.CLOUD
    }
    for (rtt_ms, draft_ms, clients), setting in sorted(settings.items()):
        here = [one for one in measured if (one.setting.rtt_ms, one.setting.clients) == (rtt_ms, clients)]
        own = [one for one in here if one.setting.draft_ms == draft_ms]
        arms = {arm: _of(here if arm is Arm.CLOUD else own, twin(arm, clients)) for arm in Arm}
        found.append(CellFigures(setting, {arm: one for arm, one in arms.items() if one is not None}))
    return found


def aims(found: Sequence[CellFigures]) -> list[Aim]:
    """What must hold."""
    few = [one for one in found if one.setting.clients <= FEW_CLIENTS]
    many = [one for one in found if one.setting.clients > FEW_CLIENTS]
    wrong = sum(one.wrong for cell in found for one in cell.arms)
    return [
        Aim("all texts are the target's own", f"{wrong} others", wrong == 0 if found else None),
        *(
            _least(f"at least {factor} times the tokens/s of {NAMES[arm]}, {which}", arm, some)
            for arm in BATCHING
            for factor, which, some in (
                (FACTOR_FEW, f"up to {FEW_CLIENTS} clients", few),
                (FACTOR_MANY, "with more", many),
            )
        ),
        _never_below(found),
    ]


def served_within(measured: Sequence[Found]) -> list[Served]:
    """For each link, drafter and arm."""
    found = []
    drafts = sorted({one.setting.draft_ms for one in measured if one.arm is not Arm.CLOUD})
    for rtt_ms in sorted({one.setting.rtt_ms for one in measured}):
        for draft_ms in drafts:
            for arm in Arm:
                tried = sorted(
                    (
                        one
                        for one in measured
                        if one.arm is twin(arm, one.setting.clients)
                        and one.setting.rtt_ms == rtt_ms
                        and (arm is Arm.CLOUD or one.setting.draft_ms == draft_ms)
                    ),
                    key=lambda one: one.setting.clients,
                )
                if tried:
                    most = tuple(_most_within(tried, limit) for limit in LIMITS_MS)
                    found.append(Served(rtt_ms, draft_ms, arm, most))
                if tried and arm in BATCHING:
                    settings = [one.setting for one in tried]
                    most = tuple(_computed_within(settings, BATCHING[arm], limit) for limit in LIMITS_MS)
                    found.append(Served(rtt_ms, draft_ms, arm, most, computed=True))
    return found


def _most_within(tried: Sequence[Found], limit_ms: float) -> Most | None:
    best = None
    for one in tried:  # few clients first; beyond the first that is too slow none is counted
        if one.itl_p95_ms > limit_ms:
            break
        best = Most(one.setting.clients, one.rate, one.lookahead)
    return best


def _computed_within(settings: Sequence[Setting], batching: Batching, limit_ms: float) -> Most | None:
    best = None
    for one in settings:
        lookahead = best_within(one.pair, one.clients, batching, limit_ms)
        if lookahead is None:
            break
        best = Most(one.clients, tokens_per_s(one.pair, lookahead, one.clients, batching), lookahead)
    return best


def _least(text: str, arm: Arm, found: Sequence[CellFigures]) -> Aim:
    known = [(one, factor) for one in found if (factor := one.over(arm)) is not None]
    short = [(one, factor) for one, factor in known if factor < one.asked]
    if not known:
        return Aim(text, "-", None)
    return Aim(text, _cells(short) or f"least {min(factor for _, factor in known):.2f}", not short)


def _never_below(found: Sequence[CellFigures]) -> Aim:
    text = "never below the cloud alone"
    known = [(one, factor) for one in found if (factor := one.over(Arm.CLOUD)) is not None]
    short = [(one, factor) for one, factor in known if factor < 1.0 - NOISE]
    if not known:
        return Aim(text, "-", None)
    return Aim(text, _cells(short) or f"least {min(factor for _, factor in known):.2f}", not short)


def _cells(short: Sequence[tuple[CellFigures, float]]) -> str:
    return "; ".join(f"{one.setting.key}: {factor:.2f}" for one, factor in short)


def twin(arm: Arm, clients: int) -> Arm:
    """The arm that is measured in place of this one, where both are the same."""
    return Arm.COLOCATED if arm is Arm.COLOCATED_PAID and clients == 1 else arm


def _of(measured: Sequence[Found], arm: Arm) -> Found | None:
    return next((one for one in measured if one.arm is arm), None)


def _ratio(mine: Found | None, other: Found | None) -> float | None:
    if mine is None or other is None:
        return None
    return mine.rate / other.rate
