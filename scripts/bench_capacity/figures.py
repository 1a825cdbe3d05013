"""From what was measured to what it says: arms side by side, what must hold, and who is served within a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_capacity.records import Measured
from scripts.bench_capacity.setting import Arm, Setting

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
    cloud: Measured | None
    colocated: Measured | None
    slipstream: Measured | None

    @property
    def over_colocated(self) -> float | None:
        """Slipstream's rate by co-located SI's."""
        return _ratio(self.slipstream, self.colocated)

    @property
    def over_cloud(self) -> float | None:
        """Slipstream's rate by the cloud's alone."""
        return _ratio(self.slipstream, self.cloud)

    @property
    def asked(self) -> float:
        """What `over_colocated` must reach."""
        return FACTOR_FEW if self.setting.clients <= FEW_CLIENTS else FACTOR_MANY

    @property
    def arms(self) -> tuple[Measured, ...]:
        """Those that are there."""
        return tuple(one for one in (self.cloud, self.colocated, self.slipstream) if one is not None)


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that must hold."""

    text: str
    measured: str
    met: bool | None
    """None: nothing was measured that it is about."""


@dataclass(frozen=True, slots=True)
class Served:
    """How many clients an arm serves within each of `LIMITS_MS`, by one link and one drafter."""

    rtt_ms: float
    draft_ms: float
    arm: Arm
    clients: tuple[int | None, ...]
    """The most of those tried up to which the limit holds; None: not even the fewest."""
    tokens_per_s: tuple[float | None, ...]
    """Of all of them."""


def cells(measured: Sequence[Measured]) -> list[CellFigures]:
    """By link, drafter and clients. The cloud alone has no drafter: it is measured once for each link."""
    found = []
    settings = {
        (one.setting.rtt_ms, one.setting.draft_ms, one.setting.clients): one.setting
        for one in measured
        if one.arm is not Arm.CLOUD
    }
    for (rtt_ms, draft_ms, clients), setting in sorted(settings.items()):
        here = [one for one in measured if (one.setting.rtt_ms, one.setting.clients) == (rtt_ms, clients)]
        own = [one for one in here if one.setting.draft_ms == draft_ms]
        found.append(
            CellFigures(
                setting,
                _of(here, Arm.CLOUD),
                _of(own, Arm.COLOCATED),
                _of(own, Arm.SLIPSTREAM),
            )
        )
    return found


def aims(found: Sequence[CellFigures]) -> list[Aim]:
    """What must hold."""
    few = [one for one in found if one.setting.clients <= FEW_CLIENTS]
    many = [one for one in found if one.setting.clients > FEW_CLIENTS]
    wrong = sum(one.wrong for cell in found for one in cell.arms)
    return [
        Aim("all texts are the target's own", f"{wrong} others", wrong == 0 if found else None),
        _least(f"at least {FACTOR_FEW} times co-located SI's tokens/s, up to {FEW_CLIENTS} clients", few),
        _least(f"at least {FACTOR_MANY} times above", many),
        _never_below(found),
    ]


def served_within(measured: Sequence[Measured]) -> list[Served]:
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
                        if one.arm is arm
                        and one.setting.rtt_ms == rtt_ms
                        and (arm is Arm.CLOUD or one.setting.draft_ms == draft_ms)
                    ),
                    key=lambda one: one.setting.clients,
                )
                if tried:
                    most = [_most_within(tried, limit) for limit in LIMITS_MS]
                    found.append(
                        Served(
                            rtt_ms,
                            draft_ms,
                            arm,
                            tuple(None if one is None else one.setting.clients for one in most),
                            tuple(None if one is None else one.tokens_per_s.value for one in most),
                        )
                    )
    return found


def _most_within(tried: Sequence[Measured], limit_ms: float) -> Measured | None:
    best = None
    for one in tried:  # few clients first; beyond the first that is too slow none is counted
        if one.itl_p95_ms > limit_ms:
            break
        best = one
    return best


def _least(text: str, found: Sequence[CellFigures]) -> Aim:
    known = [(one, factor) for one in found if (factor := one.over_colocated) is not None]
    short = [(one, factor) for one, factor in known if factor < one.asked]
    if not known:
        return Aim(text, "-", None)
    return Aim(text, _cells(short) or f"least {min(factor for _, factor in known):.2f}", not short)


def _never_below(found: Sequence[CellFigures]) -> Aim:
    text = "never below the cloud alone"
    known = [(one, factor) for one in found if (factor := one.over_cloud) is not None]
    short = [(one, factor) for one, factor in known if factor < 1.0 - NOISE]
    if not known:
        return Aim(text, "-", None)
    return Aim(text, _cells(short) or f"least {min(factor for _, factor in known):.2f}", not short)


def _cells(short: Sequence[tuple[CellFigures, float]]) -> str:
    return "; ".join(f"{one.setting.key}: {factor:.2f}" for one, factor in short)


def _of(measured: Sequence[Measured], arm: Arm) -> Measured | None:
    return next((one for one in measured if one.arm is arm), None)


def _ratio(mine: Measured | None, other: Measured | None) -> float | None:
    if mine is None or other is None:
        return None
    return mine.tokens_per_s.value / other.tokens_per_s.value
