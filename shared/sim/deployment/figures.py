"""The figures of a run: plain numbers over the time after the warm-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from shared.sim.deployment.record import Counts, DeploymentRecord, Ending, GenerationRecord, WorkerRecord

NANOSECONDS_PER_MS = 1e6
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread. A percentile is the smallest value that so many of them do not exceed."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Of some users. What there was nothing to measure of is None."""

    users: int
    generations: int
    """That ended well."""
    failed: int
    refused: int
    """That were never let in."""
    refusals: int
    """Times that a server said it was full, those of generations that were let in later among them."""
    unfinished: int
    """That still ran, or still waited to be let in, when the time was over."""
    tokens: int
    """That came to the edges."""
    tokens_per_s: float
    """Of all these users together."""
    user_tokens_per_s: Spread | None
    """Tokens by the time from asking to the last: of generations that began after the warm-up and ended well."""
    ttft_ms: Spread | None
    """From asking, refusals included, to the first token: of generations that began after the warm-up."""
    tpot_ms: Spread | None
    """(last - first token) / (N - 1): of generations that began after the warm-up and ended well."""
    itl_ms: Spread | None
    """Between tokens of one generation at the edge; tokens that come together are 0 apart."""
    acceptance_rate: float
    """Of committed tokens for which there was a draft."""
    accepted_per_step: float
    """Drafts that came true, per verify step of a session."""
    facts_per_token: float
    steps_per_token: float
    self_decoded_share: float
    """Of a session's steps, those without any draft."""
    drafted_per_token: float
    stale_share: float
    """Of the nodes that went up, those that were dead on arrival."""
    drafting_ms_per_token: float
    """Time that the drafter worked."""
    bytes_per_token_up: float
    bytes_per_token_down: float


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker, while it was there."""

    server: int
    number: int
    kind: str
    present_ms: float
    busy_share: float
    steps: int
    nodes_per_step: float


@dataclass(frozen=True, slots=True)
class RunFigures:
    """A run, as numbers. JSON-ready by `dataclasses.asdict`."""

    total: Figures
    groups: dict[str, Figures]
    workers: tuple[WorkerFigures, ...]
    utilisation: float
    """Share of the workers' time with a step out."""
    facts_per_token: float
    """That workers stated, those that nobody needed any more among them."""
    duration_ms: float
    warm_up_ms: float
    events: int
    checked: int
    """Generations whose text was compared with the target's own."""
    trace_hash: str


def figures_of(record: DeploymentRecord) -> RunFigures:
    """What the time after the warm-up looked like."""
    by_group: dict[str, list[GenerationRecord]] = {group: [] for group in record.groups}
    for one in record.generations:
        by_group[one.group].append(one)
    total = _figures(record.generations, record)
    present = sum(worker.present_ns for worker in record.workers)
    return RunFigures(
        total=total,
        groups={group: _figures(found, record) for group, found in by_group.items()},
        workers=tuple(_worker(worker) for worker in record.workers),
        utilisation=_ratio(sum(worker.busy_ns for worker in record.workers), present),
        facts_per_token=_ratio(sum(worker.facts for worker in record.workers), total.tokens),
        duration_ms=record.duration_ns / NANOSECONDS_PER_MS,
        warm_up_ms=record.warm_up_ns / NANOSECONDS_PER_MS,
        events=record.events,
        checked=record.checked,
        trace_hash=record.trace_hash,
    )


def _figures(generations: Sequence[GenerationRecord], record: DeploymentRecord) -> Figures:
    begin = record.warm_up_ns
    counts = reduce(add, (one.counts for one in generations), Counts())
    tokens = sum(_tokens_after(one, begin) for one in generations)
    seen = [one for one in generations if one.ended >= begin]
    fresh = [one for one in generations if one.started >= begin]
    whole = [one for one in fresh if one.ending is Ending.DONE]
    ended = [one.ending for one in seen]
    return Figures(
        users=len({one.user for one in generations}),
        generations=ended.count(Ending.DONE),
        failed=ended.count(Ending.FAILED),
        refused=ended.count(Ending.REFUSED),
        refusals=sum(one.refusals for one in generations),
        unfinished=ended.count(Ending.CUT),
        tokens=tokens,
        tokens_per_s=tokens / (record.measured_ns / 1e9),
        user_tokens_per_s=_spread(_values(map(_rate, whole))),
        ttft_ms=_spread(_values(one.ttft_ms for one in fresh)),
        tpot_ms=_spread(_values(one.tpot_ms for one in whole)),
        itl_ms=_spread(gaps_of(generations, begin)),
        acceptance_rate=_ratio(counts.accepted, counts.judged),
        accepted_per_step=_ratio(counts.accepted, counts.steps),
        facts_per_token=_ratio(counts.facts, tokens),
        steps_per_token=_ratio(counts.steps, tokens),
        self_decoded_share=_ratio(counts.self_decoded, counts.steps),
        drafted_per_token=_ratio(counts.drafted, tokens),
        stale_share=_ratio(counts.stale, counts.sent),
        drafting_ms_per_token=_ratio(counts.drafting_ns, tokens) / NANOSECONDS_PER_MS,
        bytes_per_token_up=_ratio(counts.bytes_up, tokens),
        bytes_per_token_down=_ratio(counts.bytes_down, tokens),
    )


def _worker(worker: WorkerRecord) -> WorkerFigures:
    return WorkerFigures(
        server=worker.server,
        number=worker.number,
        kind=worker.kind,
        present_ms=worker.present_ns / NANOSECONDS_PER_MS,
        busy_share=_ratio(worker.busy_ns, worker.present_ns),
        steps=worker.steps,
        nodes_per_step=_ratio(worker.nodes, worker.steps),
    )


def _tokens_after(one: GenerationRecord, begin: int) -> int:
    if not one.times or one.times[0] >= begin:
        return one.tokens
    return sum(size for at, size in zip(one.times, one.sizes, strict=True) if at >= begin)


def _rate(one: GenerationRecord) -> float | None:
    """Tokens per second, as its user felt it."""
    return (
        one.tokens * 1e9 / (one.times[-1] - one.started)
        if one.times and one.times[-1] > one.started
        else None
    )


def gaps_of(generations: Sequence[GenerationRecord], begin: int) -> Array:
    """Between tokens, ms: of every pair whose later one came after `begin`."""
    parts: list[Array] = []
    for one in generations:
        if not one.times or one.times[-1] < begin:
            continue
        times = np.frombuffer(one.times, dtype=np.int64)
        sizes = np.frombuffer(one.sizes, dtype=np.uint32)
        waited = np.diff(times) / NANOSECONDS_PER_MS
        together = int(sizes[times >= begin].sum()) - int((times >= begin).sum())
        parts += [waited[times[1:] >= begin], np.zeros(together)]
    return np.concatenate(parts) if parts else np.empty(0)


def _values(found: Iterable[float | None]) -> Array:
    return np.array([one for one in found if one is not None], dtype=np.float64)


def _spread(values: Array) -> Spread | None:
    if not len(values):
        return None
    ordered = np.sort(values)
    p50, p95, p99 = (
        float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) for share in (0.5, 0.95, 0.99)
    )
    return Spread(float(ordered.mean()), p50, p95, p99)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
