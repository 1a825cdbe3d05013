"""What is to be measured, as frozen values: a plan has cells, a cell plays its units by every arm in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from edge_client.policies import DraftOptions
from scripts.wan.profiles import WanProfile
from shared.profiled import Profile
from shared.session.front import CloudPolicies


class Place(StrEnum):
    """Where an arm's edge is."""

    EDGE = "edge"
    """Behind the link."""
    COLOCATED = "co-located"
    """On the server's host: no link between."""
    PEER = "peer"
    """Another program, on the server's host."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and a drafter."""

    name: str
    source: str
    """`profiled:...`, `demo`, or the names of two folders. Says nothing about where they lie."""
    profile: Profile | None = None
    """What a profiled pair is told to be; None: real models."""
    step_floor_ms: float = 0.0
    """Emulation: a verify step lasts at least this long."""
    draft_floor_ms: float = 0.0
    """Emulation: a drafter forward lasts at least this long, at the edge and co-located alike."""
    note: str = ""
    """Where the figures of a published setting are from, and what was claimed for it."""

    @property
    def probes(self) -> int:
        """Prompts besides the units', for warming up, measuring overheads and choosing lookaheads: texts differ."""
        return 3 if self.profile is not None else 6

    @property
    def nominal(self) -> Profile | None:
        """The profile with the floors applied."""
        if self.profile is None:
            return None
        return replace(
            self.profile,
            step_ms=max(self.profile.step_ms, self.step_floor_ms),
            draft_ms=max(self.profile.draft_ms, self.draft_floor_ms),
        )

    def describe(self) -> str:
        """With what is emulated about it."""
        floors = [
            f"at least {floor:g} ms per {what}"
            for floor, what in ((self.step_floor_ms, "verify step"), (self.draft_floor_ms, "drafter forward"))
            if floor
        ]
        return f"{self.name} ({', '.join(floors)})" if floors else self.name


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to write."""

    key: str
    name: str
    draft: DraftOptions | None
    """None: a peer, which has ways of its own."""
    place: Place = Place.EDGE
    seek_lookahead: bool = False
    """Whether the draft's lookahead is to be the best of all: predicted, then checked live."""
    link: WanProfile | None = None
    """Instead of the cell's."""
    cloud: CloudPolicies = CloudPolicies()  # noqa: RUF009 - a frozen value
    """Of its server. A server that is deployed already has its own, whatever is said here."""
    server: tuple[str, ...] = ()
    """Further options of its server, which the simulator knows nothing of."""

    @property
    def simulated(self) -> bool:
        """Whether the simulator knows what this arm does."""
        return self.draft is not None and not self.server


@dataclass(frozen=True, slots=True)
class Unit:
    """What every arm writes once. Figures are paired by it."""

    prompt: int
    """Number of the prompt, from 0."""
    seed: int
    """Of the sampling."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair, one link, all arms."""

    key: str
    pair: Pair
    link: WanProfile
    arms: tuple[Arm, ...]
    units: tuple[Unit, ...]
    tokens: int
    temperature: float = 0.0
    title: str = ""
    skipped: tuple[str, ...] = ()
    """Arms that do not apply here, each with its reason."""

    @property
    def reference(self) -> Arm:
        """Whose text the others' must be."""
        return self.arms[0]

    @property
    def runs(self) -> int:
        """Generations that count."""
        return len(self.units) * len(self.arms)

    @property
    def lossy(self) -> bool:
        """Whether segments are lost, which the simulator knows nothing of."""
        return any(self.link_of(arm).loss_percent for arm in self.arms)

    def link_of(self, arm: Arm) -> WanProfile:
        """Through which an arm writes. A co-located arm's has no part in its TPOT."""
        return arm.link if arm.link is not None else self.link


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything of one invocation."""

    cells: tuple[Cell, ...]
    name: str = "grid"
    """grid, ablation or check: how the report is headed."""
    seed: int = 0
    """Of the links' jitter."""

    @property
    def runs(self) -> int:
        """Generations that count."""
        return sum(cell.runs for cell in self.cells)


def units(prompts: int, seeds: Sequence[int]) -> tuple[Unit, ...]:
    """Every prompt with every seed."""
    return tuple(Unit(prompt, seed) for prompt in range(prompts) for seed in seeds)


def describe_link(link: WanProfile) -> str:
    """In words."""
    parts = [f"RTT {link.rtt_ms:g}" + (f" +-{link.jitter_ms:g}" if link.jitter_ms else "") + " ms"]
    parts += [
        f"{rate:g} kbit/s {way}" for rate, way in ((link.up_kbit, "up"), (link.down_kbit, "down")) if rate
    ]
    if link.loss_percent:
        parts.append(f"{link.loss_percent:g} % loss")
    if link.handover is not None:
        parts.append(f"+{link.handover.extra_rtt_ms:g} ms every {link.handover.every_s:g} s")
    return ", ".join(parts)
