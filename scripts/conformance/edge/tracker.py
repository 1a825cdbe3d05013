"""What a stream's drafts stand for, written from the contract alone, and every rule of a Draft that one breaks.

A node is the path of tokens from the prompt to it. While the log agrees with the path the node is alive, or committed;
else it is dead. So there is no tree to keep: the log decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that an edge has broken, and how."""

    rule: str
    what: str


@dataclass
class Tracker:
    """One stream that is open. Told of every Draft and every commit in the order in which they happen."""

    limits: pb.Limits
    vocabulary_size: int
    prompt_length: int
    log: list[int]
    """As far as this stream was sent it, or brought it."""
    began: float = field(default_factory=time.monotonic)
    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0
    """Drafted in all, which is the last id."""
    root_position: int = 0
    seen: int = 0
    _paths: dict[int, Path | None] = field(default_factory=dict)
    """Id -> node; None: it was dead on arrival."""
    _allowance: float = 0.0
    _heard_at: float = 0.0

    def __post_init__(self) -> None:
        self.root_position, self.seen = self.prompt_length, len(self.log)
        self._allowance, self._heard_at = float(self.limits.max_messages_per_second), self.began

    # ---- what happens ----

    def draft(self, draft: pb.Draft) -> None:
        """A Draft has come."""
        self._count_message()
        tokens = list(draft.tokens)
        self._check_form(draft)
        seen = draft.seen if draft.HasField("seen") else draft.root_position
        if not self.seen <= seen <= len(self.log):
            self._broken("seen-is-kept", f"seen {seen}, {self.seen} to {len(self.log)} is what it may be")
        self.seen = max(self.seen, seen)
        if not tokens:
            return
        if not self.root_position <= draft.root_position <= len(self.log):
            allowed = f"{self.root_position} to {len(self.log)}"
            self._broken(
                "root-position-is-kept", f"root_position {draft.root_position}, {allowed} is what it may be"
            )
        self.root_position = max(self.root_position, draft.root_position)
        offsets = list(draft.parent_offsets) or [0, *[1] * (len(tokens) - 1)]
        for offset, token in zip(offsets, tokens, strict=False):
            self._add(token, offset, draft.root_position)
        self._check_room()

    def committed(self, tokens: Sequence[int]) -> None:
        """Sent down this stream."""
        self.log += tokens

    def guesses(self) -> dict[int, Path]:
        """Each token that is drafted for the end of the log -> the path of drafts that goes on from it, the first of
        several.
        """
        end = self._completion()
        found: dict[int, Path] = {}
        for path in self._alive():
            ahead = path[len(end) :]
            known = found.get(ahead[0], ())
            if ahead[: len(known)] == known:
                found[ahead[0]] = ahead
        return found

    # ---- rules ----

    def _check_form(self, draft: pb.Draft) -> None:
        count, most = len(draft.tokens), self.limits.max_nodes_per_message
        expected = self.nodes + 1 if count else 0
        if draft.first_node != expected:
            self._broken("ids-are-dense", f"first_node {draft.first_node}, expected {expected}")
        for name in ("parent_offsets", "costs"):
            found = len(getattr(draft, name))
            if found not in (0, count):
                self._broken("arrays-belong-together", f"{found} {name} for {count} tokens")
        for index, offset in enumerate(draft.parent_offsets):
            if offset > self.nodes + index:
                self._broken("parents-are-known", f"offset {offset} of #{self.nodes + index + 1}")
        beyond = [token for token in draft.tokens if token >= self.vocabulary_size]
        if beyond:
            self._broken("drafted-tokens-are-tokens", f"tokens {beyond} of {self.vocabulary_size}")
        if count > most:
            self._broken("nodes-in-a-message-are-kept", f"{count} nodes in a message, at most {most}")

    def _count_message(self) -> None:
        now, most = time.monotonic(), self.limits.max_messages_per_second
        self._allowance = min(float(most), self._allowance + (now - self._heard_at) * most) - 1.0
        self._heard_at = now
        if self._allowance < 0.0:
            self._broken("the-message-rate-is-kept", f"more than {most} messages a second")

    def _check_room(self) -> None:
        held = len(self._completion())
        old = self.root_position - self.prompt_length
        alive = sum(1 for path in self._paths.values() if self._stands(path) and len(path or ()) > old)
        if alive > self.limits.max_live_nodes:
            self._broken("live-nodes-are-kept", f"{alive} live nodes, at most {self.limits.max_live_nodes}")
        deepest = max((len(path) - held for path in self._alive()), default=0)
        if deepest > self.limits.max_depth:
            self._broken("depth-is-kept", f"a node {deepest} below the end, at most {self.limits.max_depth}")

    def _broken(self, rule: str, what: str) -> None:
        self.problems.append(Problem(rule, what))

    # ---- nodes ----

    def _add(self, token: int, offset: int, root_position: int) -> None:
        parent: Path | None
        if offset:
            parent = self._paths.get(self.nodes + 1 - offset)
        else:
            parent = tuple(self.log[self.prompt_length : root_position])
        self.nodes += 1
        path = None if parent is None else (*parent, token)
        self._paths[self.nodes] = path if self._stands(path) else None

    def _stands(self, path: Path | None) -> bool:
        """Whether it is alive, or committed."""
        if path is None:
            return False
        known = self._completion()
        return path[: len(known)] == known[: len(path)]

    def _alive(self) -> Iterator[Path]:
        known = len(self._completion())
        return (
            path
            for path in self._paths.values()
            if path is not None and len(path) > known and self._stands(path)
        )

    def _completion(self) -> Path:
        return tuple(self.log[self.prompt_length :])
