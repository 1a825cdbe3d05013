"""DSI (Timor et al. 2024, arXiv 2405.14105): its table, its heat map, its two theorems and its bound.

DSI is the product with chain drafting, independent acceptance, no network and several targets (SP). Times of a text run
from the request to its last token. Synchronous speculation (SI) is counted on the same texts (`texts`), honestly and in
the paper's own way, in which a block with a wrong draft pays one target forward too many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from edge_client.policies import DraftOptions, Shape
from scripts.bench_dsi.plan import WORKERS
from scripts.bench_dsi.rows import BRANCH_COST, PAPER_LOOKAHEADS, ROWS, Row
from scripts.reproduce.interruptible import CHAIN, text_ms
from scripts.reproduce.texts import best_si, hits
from shared.profiled import Profile

TARGET_MS: Final = 100.0
"""Of the heat map. Only the drafter's share of it matters."""
MANY_SERVERS: Final = 0.05
"""Drafters of a smaller share need so many targets, up to a hundred, that one text is all a cell is given."""
LOOKAHEADS: Final = (*range(1, 31), 40, 50, 75, 100)
"""Among which the honest SI takes its best one."""


@dataclass(frozen=True, slots=True)
class DsiSize:
    """How much is simulated."""

    shares: tuple[float, ...]
    """Drafter forward by target forward."""
    acceptances: tuple[float, ...]
    seeds: int
    """Texts of each cell; 1 where `MANY_SERVERS` says so."""
    tokens: int
    """Of a text."""
    rows: tuple[int, ...]
    row_seeds: int
    row_tokens: int


FULL: Final = DsiSize(
    shares=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    acceptances=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    seeds=2,
    tokens=60,
    rows=tuple(range(1, 11)),
    row_seeds=4,
    row_tokens=200,
)
QUICK: Final = DsiSize((0.1, 0.5, 1.0), (0.0, 0.5, 0.9), 1, 30, (3, 6), 1, 60)


@dataclass(frozen=True, slots=True)
class CellTask:
    """One cell of the heat map."""

    share: float
    acceptance: float
    seeds: int
    tokens: int

    @property
    def name(self) -> str:
        """In words."""
        return f"drafter {self.share:g} of the target, acceptance {self.acceptance:g}"

    @property
    def pair(self) -> Profile:
        """Every context is alike."""
        return Profile(
            acceptance=self.acceptance,
            step_ms=TARGET_MS,
            draft_ms=self.share * TARGET_MS,
            branch_cost=BRANCH_COST,
            iid=True,
        )


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One way of drafting in one cell. Times are in target forwards per token."""

    time: float
    """Mean over the texts."""
    worst_by_alone: float
    """The slowest text's time by that of the target alone."""
    worst_by_bound: float
    """Of any text, by Proposition 1's bound for it: a drafter forward for each right guess, a target forward for each
    wrong one and one more."""
    worst_by_rest: float
    """The same, where each wrong guess costs the rest of a drafter forward as well."""


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One cell. Times are in target forwards per token; the target alone takes 1."""

    share: float
    acceptance: float
    right: float
    """Share of the guesses that did come true in the texts."""
    si_lookahead: int
    si: float
    paper_lookahead: int
    paper_si: float
    """In the paper's way, at the best of the paper's lookaheads."""
    servers: int
    """SP of `ideal`: the rule for lookahead 1."""
    lookahead: int
    """The shortest for which `WORKERS` targets suffice by the rule."""
    ideal: ArmFigures
    """Chain, `servers` targets, a drafter that stops when its branch dies."""
    chain: ArmFigures
    """Chain as the product drafts it, `WORKERS` targets."""
    policy: ArmFigures
    """What the product does by itself, `WORKERS` targets."""

    @property
    def name(self) -> str:
        """In words."""
        return f"drafter {self.share:g} of the target, acceptance {self.acceptance:g}"


@dataclass(frozen=True, slots=True)
class RowFigures:
    """One row of the table; ms per token."""

    number: int
    step_ms: float
    draft_ms: float
    acceptance: float
    right: float
    lookahead: int
    """The shortest for which `WORKERS` targets suffice by the rule."""
    si_lookahead: int
    si_ms: float
    paper_lookahead: int
    paper_si_ms: float
    chain_ms: float
    policy_ms: float
    prototype: float
    claimed: float


def servers_for(pair: Profile, lookahead: int) -> int:
    """How many targets suffice, by the paper's rule: one of them is free whenever a block has been drafted."""
    return max(1, math.ceil(pair.step_ms / (lookahead * pair.draft_ms) - 1e-9))


def lookahead_for(pair: Profile, servers: int) -> int:
    """The shortest block for which so many targets suffice."""
    return max(1, math.ceil(pair.step_ms / (servers * pair.draft_ms) - 1e-9))


def cell(task: CellTask) -> CellFigures:
    """Simulate one cell of the heat map."""
    pair, seeds = task.pair, range(task.seeds)
    unit = task.tokens * pair.step_ms
    paper = [one for one in PAPER_LOOKAHEADS if one <= task.tokens]
    si_lookahead, si_ms = best_si(pair, seeds, task.tokens, LOOKAHEADS)
    paper_lookahead, paper_ms = best_si(pair, seeds, task.tokens, paper, as_paper=True)
    servers = servers_for(pair, 1)
    texts = [hits(pair, seed, task.tokens) for seed in seeds]
    return CellFigures(
        share=task.share,
        acceptance=task.acceptance,
        right=sum(map(sum, texts)) / (task.seeds * task.tokens),
        si_lookahead=si_lookahead,
        si=si_ms / unit,
        paper_lookahead=paper_lookahead,
        paper_si=paper_ms / unit,
        servers=servers,
        lookahead=lookahead_for(pair, WORKERS),
        ideal=_arm(
            task, [text_ms(pair, CHAIN, servers, task.tokens, seed, interruptible=True)[-1] for seed in seeds]
        ),
        chain=_arm(task, [text_ms(pair, CHAIN, WORKERS, task.tokens, seed)[-1] for seed in seeds]),
        policy=_arm(task, [text_ms(pair, DraftOptions(), WORKERS, task.tokens, seed)[-1] for seed in seeds]),
    )


def row(task: tuple[Row, DsiSize]) -> RowFigures:
    """Simulate one row of the table."""
    one, size = task
    pair = one.pair.nominal
    if pair is None:
        raise AssertionError("every row is a profiled pair")
    seeds, tokens = range(size.row_seeds), size.row_tokens
    si_lookahead, si_ms = best_si(pair, seeds, tokens, LOOKAHEADS)
    paper_lookahead, paper_ms = best_si(pair, seeds, tokens, PAPER_LOOKAHEADS, as_paper=True)
    texts = [hits(pair, seed, tokens) for seed in seeds]
    chain, policy = (
        sum(text_ms(pair, draft, WORKERS, tokens, seed)[-1] for seed in seeds) / len(seeds)
        for draft in (DraftOptions(shape=Shape.CHAIN), DraftOptions())
    )
    return RowFigures(
        number=one.number,
        step_ms=pair.step_ms,
        draft_ms=pair.draft_ms,
        acceptance=pair.acceptance,
        right=sum(map(sum, texts)) / (size.row_seeds * tokens),
        lookahead=lookahead_for(pair, WORKERS),
        si_lookahead=si_lookahead,
        si_ms=si_ms / tokens,
        paper_lookahead=paper_lookahead,
        paper_si_ms=paper_ms / tokens,
        chain_ms=chain / tokens,
        policy_ms=policy / tokens,
        prototype=one.prototype,
        claimed=one.claimed,
    )


def row_tasks(size: DsiSize) -> list[tuple[Row, DsiSize]]:
    """Those that `size` asks for."""
    return [(one, size) for one in ROWS if one.number in size.rows]


def cell_tasks(size: DsiSize) -> list[CellTask]:
    """The heat map's cells, the fastest drafters first: they take longest to simulate."""
    return [
        CellTask(share, acceptance, size.seeds, size.tokens)
        if share >= MANY_SERVERS
        else CellTask(share, acceptance, 1, size.tokens)
        for share in size.shares
        for acceptance in size.acceptances
    ]


def _arm(task: CellTask, times_ms: list[float]) -> ArmFigures:
    pair, by_bound, by_rest = task.pair, [], []
    for seed, time_ms in enumerate(times_ms):
        # What the last guess comes to, no token depends on.
        guesses = hits(pair, seed, task.tokens)[:-1]
        wrong = len(guesses) - sum(guesses)
        bound_ms = sum(guesses) * pair.draft_ms + (wrong + 1) * pair.step_ms
        by_bound.append(time_ms / bound_ms)
        by_rest.append(time_ms / (bound_ms + wrong * pair.draft_ms))
    alone_ms = task.tokens * pair.step_ms
    return ArmFigures(
        time=sum(times_ms) / len(times_ms) / alone_ms,
        worst_by_alone=max(times_ms) / alone_ms,
        worst_by_bound=max(by_bound),
        worst_by_rest=max(by_rest),
    )
