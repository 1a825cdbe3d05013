"""Who drafts for a session in the cloud: the stream that owns it, and those that are attached to it.

Laws kept here:

2. Attached drafters change when a token is committed, never which: they reach the tree through `DraftStream`, as the
   owner does, and nothing here reaches the log.
5. Each stream has ids and limits of its own, and figures of its own: a node that two have proposed is one node and
   counts for both. A stream that leaves takes its ids along; its nodes stay until settling or a fact decides them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from shared.errors import ContractViolation, Status
from shared.messages import Commit, Draft, Finish, Limits
from shared.session.cloud_effects import CloudEffect, EndStream, Send
from shared.session.log import TokenLog
from shared.session.stream import Applied, DraftStream
from shared.session.tree import DraftTree, Node, Settlement


class Drafter:
    """One stream that drafts, and what became of its drafts since its last commit."""

    __slots__ = ("_judged", "_right", "_wrong", "drafts", "received", "stale", "stream")

    def __init__(self, stream: int, drafts: DraftStream) -> None:
        self.stream = stream
        self.drafts = drafts
        self.received = 0
        self.stale = 0
        self._judged = 0
        self._right = 0
        self._wrong: set[int] = set()
        """Keys of live nodes whose fact has contradicted a draft of this stream."""

    def apply(self, draft: Draft, log: TokenLog, tree: DraftTree, *, now: int) -> Applied:
        """See `DraftStream.apply`."""
        applied = self.drafts.apply(draft, log, tree, now=now)
        self.received += applied.received
        self.stale += applied.stale
        return applied

    def contradicted(self, node: Node, killed: Sequence[Node]) -> None:
        """The fact at `node` has killed these; some of them hang from it directly."""
        if any(one.parent is node and self.drafts.holds(one) for one in killed):
            self._wrong.add(node.key)

    def settled(self, end: Node, done: Settlement) -> None:
        """The log has grown from `end` on. To be called before the ids of what was promoted are given up."""
        # Each token was drawn at an end: the first at `end`, every other at the heir of the one before it.
        for index, at in enumerate((end, *done.promoted)[: len(done.tokens)]):
            right = index < len(done.promoted) and self.drafts.holds(done.promoted[index])
            self._judged += right or at.key in self._wrong
            self._right += right
            self._wrong.discard(at.key)
        self.drafts.promoted(done.promoted)

    def killed(self, nodes: Sequence[Node]) -> None:
        """These nodes are dead."""
        self.drafts.killed(nodes)
        if self._wrong:
            self._wrong.difference_update(node.key for node in nodes)

    def told(self, commit: Commit, length: int) -> Send:
        """The commit as this stream is sent it; the log has `length` tokens with it."""
        own = Commit(  # not `replace`, which goes through the fields by name: once per step and stream
            position=commit.position,
            tokens=commit.tokens,
            logprobs=commit.logprobs,
            queue_us=commit.queue_us,
            verify_us=commit.verify_us,
            steps=commit.steps,
            facts=commit.facts,
            judged=self._judged,
            accepted=self._right,
            received=self.received,
            stale=self.stale,
            self_decoded=commit.self_decoded,
            advised_window=commit.advised_window,
        )
        self._judged = self._right = self.received = self.stale = 0
        self.drafts.sent_length = length
        return Send(self.stream, own)


class Drafters:
    """All streams of one session. `owner` is the last one that owned it; `stream` says whether it still does."""

    def __init__(self, owner: Drafter) -> None:
        self.owner = owner
        self.stream: int | None = owner.stream
        """The owner's stream; None: it was lost."""
        self.attached: dict[int, Drafter] = {}

    def __iter__(self) -> Iterator[Drafter]:
        """Those that stand, the owner first."""
        if self.stream is not None:
            yield self.owner
        yield from self.attached.values()

    def __getitem__(self, stream: int) -> Drafter:
        return self.owner if stream == self.stream else self.attached[stream]

    def leave(self, stream: int) -> None:
        """The stream drafts no more, whoever's it is."""
        if stream == self.stream:
            self.stream = None
        else:
            self.attached.pop(stream, None)

    def owned_by(self, owner: Drafter) -> None:
        """Another stream owns the session from now on."""
        self.owner, self.stream = owner, owner.stream

    def owner_holds(self, nodes: Mapping[int, Node]) -> bool:
        """Whether one of these live nodes is a draft of the owner, and it still stands."""
        return self.stream is not None and any(map(self.owner.drafts.holds, nodes.values()))

    # ---- what happens to nodes ----

    def contradicted(self, node: Node, killed: Sequence[Node]) -> None:
        """See `Drafter.contradicted`; their ids die too."""
        if killed:
            for drafter in self:
                drafter.contradicted(node, killed)

    def settled(self, end: Node, done: Settlement) -> None:
        """See `Drafter.settled`."""
        for drafter in self:
            drafter.settled(end, done)

    def killed(self, nodes: Sequence[Node]) -> None:
        """See `Drafter.killed`."""
        for drafter in self:
            drafter.killed(nodes)

    # ---- what they are told ----

    def told(self, commit: Commit, log: TokenLog, limits: Limits) -> list[CloudEffect]:
        """The commit for each of them; who is attached and too far behind is told to go."""
        effects: list[CloudEffect] = []
        for drafter in tuple(self):
            attached = drafter.stream != self.stream
            shown = replace(commit, logprobs=()) if attached and commit.logprobs else commit
            effects.append(drafter.told(shown, len(log)))
            behind = len(log) - drafter.drafts.seen
            if attached and behind > limits.run_ahead:
                effects.append(_laggard(drafter.stream, behind, limits))
                self.leave(drafter.stream)
        return effects

    def finished(self, finish: Finish) -> list[CloudEffect]:
        """The farewell to all of them."""
        effects: list[CloudEffect] = []
        for drafter in self:
            effects += farewell(drafter.stream, finish)
        return effects

    # ---- rules ----

    def check_room(self, tree: DraftTree, limits: Limits) -> None:
        """Whether one more may be attached.

        Raises:
            ContractViolation: there are as many as there may be, or those that left have filled the tree.
        """
        if limits.max_attached and len(self.attached) >= limits.max_attached:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"{limits.max_attached} streams are attached to this session: do without, or try later",
            )
        if self.overgrown(tree, limits):
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                "drafts whose streams have gone fill the tree: attach again in a moment",
            )

    def overgrown(self, tree: DraftTree, limits: Limits) -> bool:
        """Whether streams that left have filled the tree: those that come and go must not grow it without bound."""
        standing = 1 + len(self.attached)
        return tree.live - tree.looked_up > (1 + standing) * limits.max_live_nodes


def farewell(stream: int, finish: Finish) -> list[CloudEffect]:
    """The last things on a stream."""
    return [Send(stream, finish), EndStream(stream, Status.OK)]


def _laggard(stream: int, behind: int, limits: Limits) -> EndStream:
    return EndStream(
        stream,
        Status.RESOURCE_EXHAUSTED,
        f"seen is {behind} tokens behind the log, at most {limits.run_ahead}: read, and report what was seen",
    )
