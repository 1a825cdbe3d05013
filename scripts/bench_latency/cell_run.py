"""One cell, live: warm up, measure overheads on probes, choose lookaheads, then every unit by every arm in turn."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from edge_client.options import GenerateOptions
from edge_client.policies import DraftOptions, Mode, Shape
from scripts.bench_latency.peer_process import PeerAsk
from scripts.bench_latency.plan import Arm, Cell, Place, Unit
from scripts.bench_latency.prompts import probe, prompt
from scripts.bench_latency.records import CellFacts, ForwardCost, Lookahead, Overheads, Record, Run
from scripts.bench_latency.simulate import believed, best_lookahead, chosen_draft, simulated_link
from scripts.bench_latency.stations import Edge, Stations
from scripts.bench_latency.wire import Answer
from shared.errors import UserError
from shared.sampling import SamplingParams

WARM_UP_TOKENS: Final = 8
PROBE_TOKENS: Final = 48
PROBED_TEXTS: Final = 3
"""For the overheads of real models."""
MOST_LOOKAHEADS: Final = 6
"""Of those tried live."""
PICTURED: Final = ("slipstream", "tree", "chain")
"""The arm whose first run is recorded event by event is the first of these."""

Sink = Callable[[Record], None]


class Interrupted(Exception):
    """The user has had enough."""


class CellRun:
    """Runs in a thread of its own; `stop` ends it before its next generation."""

    def __init__(self, cell: Cell, stations: Stations, sink: Sink, stop: threading.Event) -> None:
        """`sink` takes what is found, in order."""
        self._cell = cell
        self._stations = stations
        self._sink = sink
        self._stop = stop

    def run(self) -> None:
        """To the end.

        Raises:
            Interrupted: `stop` was set.
            ChildError: something broke.
        """
        cell = self._cell
        self._warm_up()
        facts = self._facts()
        self._sink(facts)
        pictured = next((key for key in PICTURED if key in {arm.key for arm in cell.arms}), None)
        for number, unit in enumerate(cell.units):
            turn = number % len(cell.arms)  # none always meets the caches warm
            for arm in (*cell.arms[turn:], *cell.arms[:turn]):
                self._sink(self._play(arm, unit, facts, picture=number == 0 and arm.key == pictured))

    # ---- before ----

    def _warm_up(self) -> None:
        for arm in self._cell.arms:
            self._generate(arm, arm.draft, probe(self._cell, 0), WARM_UP_TOKENS)

    def _facts(self) -> CellFacts:
        cell, choice = self._cell, self._stations.choice
        overheads = self._overheads()
        facts = CellFacts(
            cell=cell.key,
            enforcer="none" if choice is None else choice.enforcer.value,
            reason="" if choice is None else choice.reason,
            cannot_show="" if choice is None else choice.cannot_show,
            overheads=overheads,
            believed=believed(cell.pair, overheads),
        )
        found = [self._lookahead(arm, facts) for arm in cell.arms if arm.seek_lookahead]
        return replace(facts, lookaheads=tuple(found))

    def _overheads(self) -> Overheads:
        """On the first arm's edge: behind the link where there is one."""
        arm, cell = self._cell.arms[0], self._cell
        texts = [
            probe(cell, number) for number in range(1 if cell.pair.profile is not None else PROBED_TEXTS)
        ]

        def probed(draft: DraftOptions) -> list[Answer]:
            return [self._generate(arm, draft, text, PROBE_TOKENS) for text in texts]

        alone = probed(DraftOptions(mode=Mode.CLOUD))
        chains = probed(DraftOptions(shape=Shape.CHAIN))
        trees = probed(DraftOptions())
        steps = [
            one.stats.tpot_ms for one in alone if one.stats is not None and one.stats.tpot_ms is not None
        ]
        if not steps:
            raise UserError(
                "the target ends its texts after one token: there is no time between tokens to measure"
            )
        answers = [*alone, *chains, *trees]
        rates = [one.stats.acceptance_rate for one in chains if one.stats is not None]
        known = [rate for rate in rates if rate is not None]
        return Overheads(
            step_ms=round(statistics.median(steps), 4),
            rtt_ms=min(one.stats.rtt_ms for one in answers if one.stats and one.stats.rtt_ms is not None),
            forwards=_merged([one.forwards for one in (*chains, *trees)]),
            acceptance=round(statistics.fmean(known), 4) if known else None,
        )

    def _lookahead(self, arm: Arm, facts: CellFacts) -> Lookahead:
        """The best in the simulator, then live: it, one more and one less, and on while an outer one is the best."""
        link = simulated_link(self._cell, arm, facts.overheads)
        predicted = best_lookahead(facts.believed, link)
        best = min(predicted, key=lambda length: predicted[length])
        live: dict[int, float] = {}
        while missing := [
            length for length in (best, best - 1, best + 1) if length >= 1 and length not in live
        ]:
            live |= {length: self._probed_tpot(arm, length) for length in missing}
            best = min(live, key=lambda length: live[length])
            if len(live) >= MOST_LOOKAHEADS:
                break
        rounded = [{length: round(ms, 3) for length, ms in one.items()} for one in (predicted, live)]
        return Lookahead(arm.key, best, rounded[0], dict(sorted(rounded[1].items())))

    def _probed_tpot(self, arm: Arm, lookahead: int) -> float:
        if arm.draft is None:
            raise AssertionError("a peer seeks no lookahead")
        draft = replace(arm.draft, lookahead=lookahead)
        timed = []
        for number in range(1, self._cell.pair.probes):
            stats = self._generate(arm, draft, probe(self._cell, number), PROBE_TOKENS).stats
            if stats is not None and stats.tpot_ms is not None:
                timed.append(stats.tpot_ms)
        return statistics.fmean(timed) if timed else float("inf")

    # ---- runs ----

    def _play(self, arm: Arm, unit: Unit, facts: CellFacts, *, picture: bool) -> Run:
        cell = self._cell
        edge = None if arm.place is Place.PEER else self._stations.edges[arm.key]
        load = os.getloadavg()[0]
        before = _traffic(edge)
        answer = self._generate(
            arm,
            None if arm.draft is None else chosen_draft(arm, facts),
            prompt(cell.pair, unit.prompt),
            cell.tokens,
            seed=unit.seed,
            picture=picture,
        )
        after = _traffic(edge)
        return Run(
            cell=cell.key,
            arm=arm.key,
            prompt=unit.prompt,
            seed=unit.seed,
            load=round(load, 2),
            tokens=answer.tokens,
            finish_reason=answer.finish_reason,
            commits=answer.commits,
            stats=answer.stats,
            link_bytes_up=None if after is None or before is None else after[0] - before[0],
            link_bytes_down=None if after is None or before is None else after[1] - before[1],
            verify_ms=answer.verify_ms,
            queue_ms=answer.queue_ms,
            picture=answer.picture,
            notes=answer.notes,
        )

    def _generate(
        self,
        arm: Arm,
        draft: DraftOptions | None,
        text: str | tuple[int, ...],
        tokens: int,
        *,
        seed: int = 0,
        picture: bool = False,
    ) -> Answer:
        if self._stop.is_set():
            raise Interrupted
        if draft is None:
            return self._ask_peer(arm, text, tokens)
        sampling = SamplingParams(temperature=self._cell.temperature, seed=seed)
        options = GenerateOptions(text, tokens, sampling, draft=draft)
        return self._stations.edges[arm.key].generate(options, picture=picture)

    def _ask_peer(self, arm: Arm, text: str | tuple[int, ...], tokens: int) -> Answer:
        if self._stations.peer is None or not isinstance(text, str):
            raise AssertionError("a peer has models of its own, and takes text")
        return self._stations.peer.generate(PeerAsk(text, tokens, assisted=arm.key == "assisted"))


def _traffic(edge: Edge | None) -> tuple[int, int] | None:
    """Bytes up and down so far; None: there is no link."""
    if edge is None or edge.link is None:
        return None
    traffic = edge.link.traffic()
    return traffic.bytes_up, traffic.bytes_down


def _merged(many: Sequence[Sequence[ForwardCost]]) -> tuple[ForwardCost, ...]:
    """The mean over several generations."""
    totals: dict[int, tuple[int, float]] = {}
    for cost in (cost for costs in many for cost in costs):
        count, total = totals.get(cost.nodes, (0, 0.0))
        totals[cost.nodes] = (count + cost.count, total + cost.count * cost.mean_ms)
    merged: Mapping[int, tuple[int, float]] = dict(sorted(totals.items()))
    return tuple(
        ForwardCost(nodes, count, round(total / count, 4)) for nodes, (count, total) in merged.items()
    )
