"""What one generation cost, measured on the edge's own clock. A figure that does not exist is None, never a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from shared.session.edge import EdgeCounts

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a set of durations in milliseconds, linear between neighbours; None of an empty set."""

    p50: float | None
    p95: float | None
    p99: float | None


def percentiles(values: Sequence[float]) -> Percentiles:
    """The percentiles of `values`, in their unit."""
    if not values:
        return Percentiles(None, None, None)
    return Percentiles(*(round(float(value), 3) for value in np.percentile(values, (50, 95, 99))))


@dataclass(slots=True)
class Timeline:
    """When which tokens became final here. Times are nanoseconds of one monotonic clock."""

    began_at: int
    commits: list[tuple[int, int]] = field(default_factory=list)
    """(time, number of tokens that count), in order; every number is at least 1."""

    def committed(self, at: int, tokens: int) -> None:
        """`tokens` became final together; none of them counting is no commit."""
        if tokens:
            self.commits.append((at, tokens))

    @property
    def tokens(self) -> int:
        """Tokens that count."""
        return sum(count for _, count in self.commits)

    @property
    def ttft_ms(self) -> float | None:
        """From the request to the first token; the connection stood and the model was loaded before."""
        return _ms(self.commits[0][0] - self.began_at) if self.commits else None

    @property
    def tpot_ms(self) -> float | None:
        """(last - first token) / (tokens - 1)."""
        if self.tokens < 2:
            return None
        return _ms((self.commits[-1][0] - self.commits[0][0]) / (self.tokens - 1))

    @property
    def itl_ms(self) -> Percentiles:
        """Between neighbouring tokens; those of one commit came together, so it is 0 within a commit."""
        gaps: list[float] = []
        before: int | None = None
        for at, count in self.commits:
            if before is not None:
                gaps.append((at - before) / NS_PER_MS)
            gaps.extend([0.0] * (count - 1))
            before = at
        return percentiles(gaps)

    @property
    def commit_gap_ms(self) -> Percentiles:
        """Between neighbouring commits."""
        times = [at for at, _ in self.commits]
        return percentiles([(b - a) / NS_PER_MS for a, b in pairwise(times)])


@dataclass(slots=True)
class Traffic:
    """Serialized message bodies, bytes; without the framing of gRPC, HTTP/2, TLS and TCP (some 100 a message)."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True)
class Emulation:
    """What was made slower, or up, on purpose."""

    draft_floor_ms: float
    """Every drafter forward lasted at least this long; 0: nothing was emulated."""
    profiled_drafter: str | None
    """The profile that stood in for a drafter."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one generation. Counts of the cloud reach up to its last commit; a reconnect does not reset them."""

    ttft_ms: float | None
    tpot_ms: float | None
    itl_ms: Percentiles
    commit_gap_ms: Percentiles
    rtt_ms: float | None
    """Shortest round trip seen: a `GetModel` on the standing connection, or `Open` to `Opened`."""
    acceptance_rate: float | None
    """Of the committed tokens for which the cloud held a draft, the share that a draft had right."""
    mean_accepted: float | None
    """Committed tokens that a draft had right, per verify step of this session."""
    drafted: int
    """Nodes that the drafter proposed."""
    sent: int
    """Nodes that went up, those sent again after a reconnect included."""
    verified: int
    """Facts that the cloud evaluated for this session."""
    stale: int
    """Nodes that were dead when they arrived."""
    bytes_up: int
    """Serialized messages of the session's streams, without framing (some 100 bytes a message)."""
    bytes_down: int
    mode: str
    """As it was: without a drafter every mode is cloud."""
    shape: str | None
    """None: nothing was drafted."""
    reconnects: int
    """Streams that were opened again after a loss."""
    steps: int
    """Verify steps that this session took part in."""
    self_decoded: int
    """Steps that the session took without any draft."""
    forwards: int
    """Drafter forwards."""
    emulation: Emulation
    moves: int = 0
    """Times that it went on at another server because its own was going away."""
    servers: tuple[str, ...] = ()
    """Where it was opened, one after another."""


def stats_of(
    timeline: Timeline,
    counts: EdgeCounts,
    traffic: Traffic,
    *,
    rtt_ns: int | None,
    mode: str,
    shape: str | None,
    emulation: Emulation,
    servers: Sequence[str] = (),
) -> Stats:
    """The figures of a generation that is over."""
    return Stats(
        ttft_ms=timeline.ttft_ms,
        tpot_ms=timeline.tpot_ms,
        itl_ms=timeline.itl_ms,
        commit_gap_ms=timeline.commit_gap_ms,
        rtt_ms=None if rtt_ns is None else _ms(rtt_ns),
        acceptance_rate=_ratio(counts.accepted, counts.judged),
        mean_accepted=_ratio(counts.accepted, counts.steps),
        drafted=counts.drafted,
        sent=counts.sent,
        verified=counts.verified,
        stale=counts.stale,
        bytes_up=traffic.up,
        bytes_down=traffic.down,
        mode=mode,
        shape=shape,
        reconnects=counts.reconnects,
        steps=counts.steps,
        self_decoded=counts.self_decoded,
        forwards=counts.forwards,
        emulation=emulation,
        moves=counts.moves,
        servers=tuple(servers),
    )


def _ms(nanoseconds: float) -> float:
    return round(nanoseconds / NS_PER_MS, 3)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
