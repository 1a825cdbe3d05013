"""What a token costs under synchronous speculation, counted honestly and as DSI's authors count it.

A block of k drafts takes k drafter forwards and one target forward, and brings the drafts up to the first wrong one and
one token more: the correction, or the bonus after k right ones. The paper's own simulation lets SI pay a further target
forward for each block with a wrong draft, although the one that found it out has named the correction as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scripts.bench_latency.records import Commit
from shared.profiled import Profile


def si_tpot_ms(pair: Profile, lookahead: int, *, as_paper: bool = False) -> float:
    """Expected ms per token of synchronous speculation at RTT 0; every context is alike.

    `as_paper`: a target forward more for each block with a wrong draft.
    """
    right = pair.acceptance
    tokens = sum(right**drafts for drafts in range(lookahead + 1))
    rejected = 1.0 - right**lookahead
    forwards = 1.0 + (rejected if as_paper else 0.0)
    return (lookahead * pair.draft_ms + forwards * pair.step_ms) / tokens


def best_si_ms(pair: Profile, lookaheads: Iterable[int], *, as_paper: bool = False) -> tuple[int, float]:
    """(lookahead, ms per token) of the best one."""
    found = {length: si_tpot_ms(pair, length, as_paper=as_paper) for length in lookaheads}
    best = min(found, key=lambda length: found[length])
    return best, found[best]


def recounted_ms(commits: Sequence[Commit], lookahead: int, step_ms: float) -> float | None:
    """TPOT of a live run of synchronous speculation with the paper's further target forwards of `step_ms` each.

    A block whose drafts were all right brought `lookahead` + 1 tokens; the last block is none, since the text's end cut
    it short. None: fewer than two tokens.
    """
    tokens = sum(count for _, count in commits)
    if tokens < 2:
        return None
    rejections = sum(count <= lookahead for _, count in commits[1:-1])
    return (commits[-1][0] - commits[0][0] + rejections * step_ms) / (tokens - 1)
