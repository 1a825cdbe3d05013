"""A profiled pair's texts, and what synchronous speculation needs for one: counted on the very text that is simulated.

Which of the drafter's guesses come true along the target's text is a function of the pair and the prompt. So
synchronous speculation needs no simulation: its blocks can be counted, for every lookahead, on the text that the other
arms write.
What chance made of that text is then the same for all arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from shared.profiled import Profile, ProfiledPair
from shared.sim.predict import random_prompt

PROMPT_TOKENS = 16
"""As many as `shared.sim.predict.predict` gives a session."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """What one text takes with synchronous speculation."""

    blocks: int
    drafts: int
    """Drafter forwards; the last block drafts no further than the text goes."""
    rejected: int
    """Blocks with a wrong draft."""

    def time_ms(self, pair: Profile, *, rtt_ms: float = 0.0, as_paper: bool = False) -> float:
        """From the request to the last token. `as_paper`: a target forward more for each block with a wrong draft."""
        forwards = self.blocks + (self.rejected if as_paper else 0)
        return self.drafts * pair.draft_ms + forwards * pair.step_ms + self.blocks * rtt_ms


@cache
def hits(pair: Profile, seed: int, tokens: int) -> tuple[bool, ...]:
    """Whether the drafter's likeliest guess at each position of the target's text is the target's token.

    `seed` is the number of the prompt, as in `shared.sim.predict.predict`.
    """
    facts = ProfiledPair(pair)
    state = facts.state(random_prompt(seed, PROMPT_TOKENS, pair.vocabulary_size))
    found = []
    for _ in range(tokens):
        target = facts.target(state)
        found.append(facts.candidates(state, 1)[0].token == target)
        state = facts.follow(state, target)
    return tuple(found)


def blocks(right: Sequence[bool], lookahead: int) -> Blocks:
    """The blocks of a text of `len(right)` tokens: the drafts up to the first wrong one, and one token more."""
    at = count = drafts = rejected = 0
    while at < len(right):
        size = min(lookahead, len(right) - at - 1)
        run = 0
        while run < size and right[at + run]:
            run += 1
        count += 1
        drafts += size
        rejected += run < size
        at += run + 1
    return Blocks(count, drafts, rejected)


def best_si(
    pair: Profile,
    seeds: Iterable[int],
    tokens: int,
    lookaheads: Iterable[int],
    *,
    rtt_ms: float = 0.0,
    as_paper: bool = False,
) -> tuple[int, float]:
    """(lookahead, mean ms of a text) of the lookahead that is best over all texts together."""
    texts = [hits(pair, seed, tokens) for seed in seeds]
    found = {
        length: sum(blocks(text, length).time_ms(pair, rtt_ms=rtt_ms, as_paper=as_paper) for text in texts)
        / len(texts)
        for length in lookaheads
    }
    best = min(found, key=lambda length: found[length])
    return best, found[best]
