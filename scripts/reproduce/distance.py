"""Speculation at a distance (arXiv 2606.25091): when does drafting at the edge pay, and against whom?

Its answer for synchronous drafting at the edge: against the cloud alone where
RTT < a / (1 - a) * t_target - lookahead * t_drafter, and never against a cloud that drafts by itself. The product's
drafting in flight, with and without an assistant near the cloud, is simulated beside it. Times are per token in the
steady state: what the first token waits for is the same link for everybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from edge_client.policies import DraftOptions, Mode, Shape, policies_for
from scripts.bench_latency.arms import PLAIN
from scripts.reproduce.texts import Blocks, best_si, blocks, hits
from shared.link import LinkProfile
from shared.messages import Limits
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import Request
from shared.sim.assistant import AssistPlan
from shared.sim.clock import MILLISECOND
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.predict import default_reconnect, model_info, pool_of, predict, random_prompt
from shared.sim.workers import FleetPlan, WorkerPlan
from shared.sim.world import World

STEP_MS: Final = 30.0
DRAFT_MS: Final = 3.0
NEAR_RTT_MS: Final = 1.0
"""Between the assistant and the cloud."""
LOOKAHEADS: Final = tuple(range(1, 25))
GRANTED_MS: Final = Limits().max_patience_us / 1000


@dataclass(frozen=True, slots=True)
class DistanceSize:
    """How much is simulated."""

    rtts_ms: tuple[float, ...]
    acceptances: tuple[float, ...]
    contexts: tuple[bool, ...]
    """True: independent acceptance, as in the paper; False: easy and hard contexts, and the drafter knows which."""
    seeds: int
    tokens: int
    counted_texts: int
    """For the break-even, which needs no simulation."""


FULL: Final = DistanceSize(
    rtts_ms=(0.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 300.0),
    acceptances=(0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95),
    contexts=(True, False),
    seeds=2,
    tokens=150,
    counted_texts=40,
)
QUICK: Final = DistanceSize((0.0, 50.0), (0.5, 0.8), (True, False), 1, 40, 4)


@dataclass(frozen=True, slots=True)
class CellTask:
    """One round trip and one acceptance."""

    rtt_ms: float
    acceptance: float
    iid: bool
    seeds: int
    tokens: int

    @property
    def pair(self) -> Profile:
        """See `Profile`."""
        return Profile(acceptance=self.acceptance, step_ms=STEP_MS, draft_ms=DRAFT_MS, iid=self.iid)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve, per token."""

    ms: float
    verifier_ms: float
    """Time that the verifier's device is held: its steps, and what is drafted on it."""
    drafting_ms: float = 0.0
    """Of that, on drafting."""
    lookahead: int | None = None


ARMS: Final = ("cloud", "colocated", "edge_si", "chain", "slipstream", "assisted")
NAMES: Final = {
    "cloud": "cloud alone",
    "colocated": "SI, both in the cloud",
    "edge_si": "SI from the edge",
    "chain": "drafting in flight, chain",
    "slipstream": "Slipstream",
    "assisted": "Slipstream, assistant near the cloud",
}


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One cell."""

    rtt_ms: float
    acceptance: float
    iid: bool
    cloud: Way
    colocated: Way
    edge_si: Way
    chain: Way
    slipstream: Way
    assisted: Way
    si_apart: float
    """How far SI from the edge as the product's machines do it is from what was counted, the worst text: in drafting
    times of a block. They draft their last block to its end, also where the text ends before it."""

    @property
    def name(self) -> str:
        """In words."""
        return (
            f"RTT {self.rtt_ms:g} ms, acceptance {self.acceptance:g}{'' if self.iid else ', easy and hard'}"
        )

    def way(self, arm: str) -> Way:
        """One of `ARMS`."""
        found: Way = getattr(self, arm)
        return found


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The round trip up to which synchronous drafting from the edge beats the cloud alone; below 0: never."""

    acceptance: float
    lookahead: int
    formula_ms: float
    """The paper's: a / (1 - a) * t_target - lookahead * t_drafter."""
    exact_ms: float
    """With the tokens that a block of this length brings: a (1 - a^lookahead) / (1 - a) in place of a / (1 - a)."""
    counted_ms: float
    """On the texts."""


def cell_tasks(size: DistanceSize) -> list[CellTask]:
    """Below 0.6 a profiled pair's contexts are all alike: there is one map of them."""
    return [
        CellTask(rtt_ms, acceptance, iid, size.seeds, size.tokens)
        for iid in size.contexts
        for acceptance in size.acceptances
        for rtt_ms in size.rtts_ms
        if iid or acceptance >= 0.6
    ]


def cell(task: CellTask) -> CellFigures:
    """Count and simulate one cell."""
    pair, seeds = task.pair, range(task.seeds)
    colocated, _ = best_si(pair, seeds, task.tokens, LOOKAHEADS)
    edge, _ = best_si(pair, seeds, task.tokens, LOOKAHEADS, rtt_ms=task.rtt_ms)
    return CellFigures(
        rtt_ms=task.rtt_ms,
        acceptance=task.acceptance,
        iid=task.iid,
        cloud=Way(pair.step_ms, pair.step_ms),
        colocated=_si(task, colocated, rtt_ms=0.0, drafts_in_cloud=True),
        edge_si=_si(task, edge, rtt_ms=task.rtt_ms, drafts_in_cloud=False),
        chain=_flying(task, DraftOptions(shape=Shape.CHAIN)),
        slipstream=_flying(task, DraftOptions()),
        assisted=_mean([_assisted(task, seed) for seed in seeds]),
        si_apart=max(_si_apart(task, edge, seed) for seed in seeds),
    )


def break_evens(size: DistanceSize) -> list[BreakEven]:
    """For each acceptance and each lookahead, on texts of independent acceptance."""
    found = []
    for acceptance in size.acceptances:
        task = CellTask(0.0, acceptance, True, size.counted_texts, size.tokens)
        pair = task.pair
        for lookahead in LOOKAHEADS:
            counted = _counted(task, lookahead)
            # Against the cloud alone: what a text takes beyond its drafting, divided among its round trips.
            most = task.seeds * task.tokens * pair.step_ms - counted.drafts * pair.draft_ms
            drafting_ms = lookahead * pair.draft_ms
            odds = acceptance / (1.0 - acceptance)
            found.append(
                BreakEven(
                    acceptance,
                    lookahead,
                    formula_ms=odds * pair.step_ms - drafting_ms,
                    exact_ms=odds * (1.0 - acceptance**lookahead) * pair.step_ms - drafting_ms,
                    counted_ms=most / counted.blocks - pair.step_ms,
                )
            )
    return found


def winner(cell_figures: CellFigures, arms: tuple[str, ...] = ARMS) -> str:
    """The fastest; of those within 1 % of it the simplest, which stands first in `ARMS`."""
    best = min(cell_figures.way(arm).ms for arm in arms)
    return next(arm for arm in arms if cell_figures.way(arm).ms <= 1.01 * best)


def _counted(task: CellTask, lookahead: int) -> Blocks:
    texts = [blocks(hits(task.pair, seed, task.tokens), lookahead) for seed in range(task.seeds)]
    return Blocks(
        sum(one.blocks for one in texts), sum(one.drafts for one in texts), sum(one.rejected for one in texts)
    )


def _si(task: CellTask, lookahead: int, *, rtt_ms: float, drafts_in_cloud: bool) -> Way:
    pair, counted, tokens = task.pair, _counted(task, lookahead), task.seeds * task.tokens
    drafting_ms = counted.drafts * pair.draft_ms / tokens if drafts_in_cloud else 0.0
    return Way(
        counted.time_ms(pair, rtt_ms=rtt_ms) / tokens,
        counted.blocks * pair.step_ms / tokens + drafting_ms,
        drafting_ms,
        lookahead,
    )


def _si_apart(task: CellTask, lookahead: int, seed: int) -> float:
    pair, draft = task.pair, DraftOptions(mode=Mode.SYNC, lookahead=lookahead)
    one = predict(
        pair,
        policies_for(draft, draft.shape_for(), default_reconnect(), pair.context_length),
        rtt_ms=task.rtt_ms,
        tokens=task.tokens,
        patience_us=round(draft.patience_for(GRANTED_MS)[0] * 1000),
        cloud=PLAIN,
        seed=seed,
    )
    simulated_ms = one.ttft_ms + (task.tokens - 1) * one.tpot_ms
    counted = blocks(hits(pair, seed, task.tokens), lookahead)
    return abs(simulated_ms - counted.time_ms(pair, rtt_ms=task.rtt_ms)) / (lookahead * pair.draft_ms)


def _flying(task: CellTask, draft: DraftOptions) -> Way:
    _, adaptive_ms = draft.patience_for(GRANTED_MS)
    found = []
    for seed in range(task.seeds):
        one = predict(
            task.pair,
            policies_for(draft, draft.shape_for(), default_reconnect(), task.pair.context_length),
            rtt_ms=task.rtt_ms,
            tokens=task.tokens,
            adaptive_patience_us=round(adaptive_ms * 1000),
            seed=seed,
        )
        found.append(Way(one.tpot_ms, one.steps_per_token * STEP_MS))
    return _mean(found)


def _assisted(task: CellTask, seed: int) -> Way:
    """An edge that does not draft, and a device near the cloud that drafts for it."""
    pair = ProfiledPair(task.pair)
    limits = Limits(max_live_nodes=4096, max_depth=4096, max_nodes_per_message=1024)
    info = model_info(task.pair, limits)
    silent, drafting = DraftOptions(mode=Mode.CLOUD), DraftOptions()
    context = task.pair.context_length
    link, near = LinkProfile(delay_ms=task.rtt_ms / 2), LinkProfile(delay_ms=NEAR_RTT_MS / 2)
    plan = EdgePlan(
        Request(random_prompt(seed, 16, task.pair.vocabulary_size), task.tokens, SamplingParams()),
        policies_for(silent, None, default_reconnect(), context),
        None,
        up=link,
        down=link,
    )
    assistant = AssistPlan(
        lambda: policies_for(drafting, drafting.shape_for(), default_reconnect(), context),
        SyntheticDrafter(pair),
        up=near,
        down=near,
    )
    world = World(
        pair,
        replace(info, sp_degree=1),
        pool_of(),
        [plan],
        seed=seed,
        near=lambda _: assistant,
        fleet=FleetPlan((WorkerPlan(),)),
    )
    world.run()
    times = [at for at, count in world.edges[0].emitted for _ in range(count)]
    return Way(
        (times[-1] - times[0]) / (len(times) - 1) / MILLISECOND, world.server.steps * STEP_MS / task.tokens
    )


def _mean(ways: list[Way]) -> Way:
    return Way(
        math.fsum(one.ms for one in ways) / len(ways), math.fsum(one.verifier_ms for one in ways) / len(ways)
    )
