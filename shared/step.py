"""What a worker is asked and what it answers: one verify step over the pending nodes of many sessions.

A step names wanted paths, never cache operations (law 6): a worker finds the common prefix with its own KV
cache, computes what it lacks, and may drop what it holds at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Fact:
    """After a prefix the target's next token is `token`. Identity is the token alone (law 3)."""

    token: int
    margin: float = float("inf")
    """Distance between the best and second-best score of the decision, in nats; inf: no second candidate."""
    logprob: float = 0.0
    """ln of the filtered probability of `token`, in nats."""


@dataclass(frozen=True, slots=True)
class StepNode:
    """A draft node on the way to a wanted fact (or itself wanted)."""

    key: int
    """The session's own key of the node; comes back with its fact."""
    token: int
    parent: int
    """Index of the parent in the item's `nodes`, always smaller than the own index; -1: the end of the trunk."""
    wanted: bool
    """False: only an ancestor of a wanted node; its fact is known already."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """One session's share of a step."""

    session: int
    log: Sequence[int]
    """The session's log, by reference: append-only, so its first `length` tokens never change."""
    length: int
    """The trunk is `log[:length]`; at least 1. Nodes hang from its last token."""
    nodes: tuple[StepNode, ...]
    """In topological order."""
    end_key: int | None
    """Key under which the fact at the trunk's end is wanted; None: not wanted (a prefill chunk, or another worker has
    been asked for it)."""
    sampling: SamplingParams
    prompt_length: int

    @property
    def prefill_only(self) -> bool:
        """Whether the item asks for a longer cached prefix and no fact."""
        return self.end_key is None and not any(node.wanted for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward of the target over all items together."""

    number: int
    items: tuple[StepItem, ...]
    released: tuple[int, ...] = ()
    """Sessions that have ended since the last step on this worker: their KV may go."""
    worker: int = 0
    """Who is to perform it."""


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """The answer to one `StepItem`."""

    session: int
    facts: tuple[tuple[int, Fact], ...]
    """(key, fact) for the end, if wanted, and for each wanted node."""
    cached_length: int
    """Trunk tokens whose KV the worker now holds."""
    computed: int
    """Tokens that were forwarded for this item, ancestors that the cache lacked included."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The answer to a `Step`; items in the same order."""

    items: tuple[ItemOutcome, ...]
    duration_us: int
    """Measured by the worker around the forward, any emulated floor included."""
