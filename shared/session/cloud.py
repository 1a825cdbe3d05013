"""CloudSession: one session in the cloud. It owns the log and the tree, takes drafts and facts, sends commits.

Laws kept here:

1. The log is the truth: only `settle` extends it, and a commit is never retracted.
2. A draft can change when a token is committed, never which: drafts reach the tree, facts alone reach the log.
3. Facts are pure: first to arrive wins; a disagreement is counted, a near-tie apart from an incident.
4. Every step makes progress: while the log is open, the fact at its end is in flight, due (`end_due_at` <= now),
   or waiting out a finite patience. Facts that a failed step owed are missing again (`give_back`). The one
   exception is the contract's own: an edge that stops reporting `seen` stops self-decode after `run_ahead` tokens.
   What the cloud guesses itself neither ends a wait nor keeps a log going past it: only an edge's drafts do, and past
   it only those of the session's owner.
7. Pure: time is an argument (ns), effects are returned in the order in which they are to be performed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

from shared.errors import ContractViolation, Status
from shared.messages import Close, Draft, Finish, FinishReason, ModelInfo, Open
from shared.policy.lookup import PromptLookup
from shared.session.asking import step_nodes, with_ancestors
from shared.session.cloud_effects import CloudEffect, EndStream, Send
from shared.session.drafters import Drafter, Drafters, farewell
from shared.session.guesses import Guessed, Guesses
from shared.session.joining import attached, caught_up, check_detach, continues, opened
from shared.session.log import TokenLog
from shared.session.missing import MissingNodes
from shared.session.opening import check_open, patience_of
from shared.session.stream import DraftStream
from shared.session.tally import Disagreements, Tally
from shared.session.tree import DraftTree, Node, Settlement, likelihood, settle
from shared.step import Fact, StepItem

__all__ = ["CloudEffect", "CloudSession", "EndStream", "Send", "check_open"]

MICROSECOND = 1_000
MAX_DRAFTS = 1 << 30
"""More drafts than a session has."""
CROWD = 64
"""Drafts beside which the cloud adds no guess of its own: a step has hardly room for them."""


class CloudSession:
    """One open session. Calling order: `opened` once, then any of the others until `over`."""

    def __init__(
        self,
        key: int,
        stream: int,
        opening: Open,
        info: ModelInfo,
        *,
        now: int,
        lookup: PromptLookup | None = None,
        adaptive: bool = True,
    ) -> None:
        """`lookup`: where the cloud's own guesses come from; None: it makes none. `adaptive`: whether it waits where
        the edge leaves that to it.
        """
        check_open(opening, info)
        self.key = key
        self._info = info
        self._opening = opening
        self.log = TokenLog(
            opening.tokens,
            prompt_length=opening.prompt_length,
            max_length=opening.max_length,
            context_length=info.context_length,
            stop_tokens=opening.stop_tokens,
        )
        self.tree = DraftTree(self.log)
        self._drafters = Drafters(self._drafter(stream, now))
        self.disagreements = Disagreements()
        self.over = False
        """Nothing more will be sent; the session's KV may go."""
        self.accepted = 0
        self.judged = 0
        self.claimed = 0.0
        """How many of the judged tokens the drafts' costs said they would have right."""
        self._patience = patience_of(opening, adaptive=adaptive)
        self._nodes: dict[int, Node] = {self.tree.root.key: self.tree.root}
        self._in_flight: set[int] = set()
        self._missing = MissingNodes(self._in_flight)
        self._newest: tuple[Node, ...] = ()
        """The nodes of the latest message that brought any."""
        self._guesses = Guesses(lookup, self.log, self.tree, info.limits.max_depth) if lookup else None
        self._missing_since = now
        self._bare_since: int | None = now
        self._step_now = False
        self._advice = 0
        self._tally = Tally()
        self._logprobs: list[float] = []
        """Of what was committed here, if they are wanted."""

    @property
    def stream(self) -> int | None:
        """The stream of its owner; None: it was lost."""
        return self._drafters.stream

    @property
    def attached(self) -> tuple[int, ...]:
        """The streams that are attached."""
        return tuple(self._drafters.attached)

    @property
    def streams(self) -> tuple[int, ...]:
        """All of its streams, its owner's first."""
        return tuple(drafter.stream for drafter in self._drafters)

    @property
    def drafts(self) -> DraftStream:
        """What its owner has drafted."""
        return self._drafters.owner.drafts

    def drafts_of(self, stream: int) -> DraftStream:
        """What one of its streams has drafted."""
        return self._drafters[stream].drafts

    # ---- facts from the edge ----

    def opened(self, session_id: str, secret: str) -> list[CloudEffect]:
        """The first effect of a stream that owns it: what it was opened with."""
        said = opened(session_id, secret, self._opening, self._info)
        effects: list[CloudEffect] = [Send(self._drafters.owner.stream, said)]
        if self.log.closed is not None:  # a log that came back complete
            effects += self._finish(self.log.closed, len(self.log))
        return effects

    def attach(self, stream: int, *, now: int) -> list[CloudEffect]:
        """Another stream drafts for this session.

        Raises:
            ContractViolation: there are too many; the session is unchanged.
        """
        self._drafters.check_room(self.tree, self._info.limits)
        self._drafters.attached[stream] = self._drafter(stream, now)
        return [Send(stream, attached(self.log, self._opening, self._info))]

    def detach(self, stream: int, close: Close) -> list[CloudEffect]:
        """An attached stream has done what it wanted to; the session goes on.

        Raises:
            ContractViolation: it names a position, which is its owner's to name.
        """
        check_detach(close)
        self._drafters.leave(stream)
        prompt = self.log.prompt_length
        return farewell(stream, Finish(FinishReason.CLOSED, prompt, len(self.log) - prompt))

    def leave(self, stream: int) -> None:
        """One of its streams is gone, perhaps its owner's: what it has drafted stays as long as it can come true."""
        self._drafters.leave(stream)

    def continued_by(self, opening: Open) -> bool:
        """Whether the stream that sends this may own the session from now on."""
        overgrown = self._drafters.overgrown(self.tree, self._info.limits)
        return not overgrown and continues(opening, self._opening, self.log)

    def reopen(self, stream: int, opening: Open, session_id: str, secret: str, now: int) -> list[CloudEffect]:
        """It belongs to another stream, of which `continued_by` was asked: what it is told first."""
        owner = self._drafter(stream, now)
        owner.drafts.seen = len(opening.tokens)
        self._drafters.owned_by(owner)
        effects = self.opened(session_id, secret)
        commit = caught_up(self.log, len(opening.tokens), self._logprobs)
        return effects if commit is None else [*effects, Send(stream, commit)]

    def draft(self, draft: Draft, *, now: int, stream: int | None = None) -> None:
        """Hang an edge's nodes into the tree; without a fact nothing is committed, so there is no effect.

        `stream`: one of its streams; None: its owner's.

        Raises:
            ContractViolation: the message breaks a rule; the session is unchanged.
        """
        bare = self._bare_since is not None
        drafter = self._drafters.owner if stream is None else self._drafters[stream]
        applied = drafter.apply(draft, self.log, self.tree, now=now)
        self._step_now |= draft.step_now and drafter is self._drafters.owner
        for node in applied.created:
            self._nodes[node.key] = node
            self._missing.add(node)
        if applied.created:
            self._newest = applied.created
        if self._patience.adaptive and draft.tokens:
            mass = likelihood(applied.created, self.tree.root, self.honesty)
            self._patience.arrived(now, draft.root_position, bare=bare, mass=mass)
        self._note_bareness(now)

    def close(self, close: Close) -> list[CloudEffect]:
        """The edge has what it wants.

        Raises:
            ContractViolation: `position` is outside the completion.
        """
        position = len(self.log) if close.position is None else close.position
        if not self.log.prompt_length <= position <= len(self.log):
            raise ContractViolation(
                Status.INVALID_ARGUMENT,
                f"close position {position} is outside {self.log.prompt_length}..{len(self.log)}",
            )
        self.log.close(FinishReason.CLOSED)
        self._forget(settle(self.log, self.tree))
        return self._finish(FinishReason.CLOSED, position)

    def abandon(self) -> None:
        """Its owner is gone for good: free everything at once."""
        self.log.close(FinishReason.CLOSED)
        self._forget(settle(self.log, self.tree))
        self.over = True

    # ---- what the pool may ask for ----

    def end_due_at(self) -> int | None:
        """When the fact at the end is to be asked for; None: not at all for now (known, in flight, run ahead)."""
        if self.over or self.log.closed is not None or self.tree.root.key in self._in_flight:
            return None
        if self._step_now:
            return self._missing_since
        unseen = len(self.log) - self.drafts.seen
        if unseen >= self._info.limits.run_ahead and not self._drafters.owner_holds(self.tree.root.children):
            return None
        return self._patience.due_at(self._missing_since, self._bare_since)

    def end_wanted_at(self, due: int) -> int:
        """From when on a step that begins anyway is to take the end along that is `due` by itself.

        A wait of the cloud's own choice is for this session's speed, and a step that it would miss is slower than any.
        One that the edge asked for is waited out.
        """
        return self._missing_since if self._patience.adaptive else due

    @property
    def end_in_flight(self) -> bool:
        """Whether some worker has been asked for the fact at the end."""
        return self.tree.root.key in self._in_flight

    @property
    def in_flight(self) -> AbstractSet[int]:
        """Keys of the nodes whose facts are asked for, for tests and metrics: a view, not a copy."""
        return self._in_flight

    @property
    def honesty(self) -> float:
        """Judged tokens that the drafts had right for each that their costs claimed; at most 1."""
        return min(1.0, (self.accepted + 1) / (self.claimed + 1))

    def missing_drafts(self, most: int = MAX_DRAFTS) -> list[Node]:
        """The likeliest `most` live drafts whose facts are neither known nor in flight, parents before children."""
        return self._missing.first(most)

    def missing_guesses(self, asked: Collection[int]) -> list[Guessed]:
        """The cloud's own guesses that a step may ask for beside the drafts with the keys `asked`: a chain."""
        if self._guesses is None:
            return []
        # The fact at a guess gives one more token than the guess: what no edge drafted ends at the run-ahead.
        most = self.drafts.seen + self._info.limits.run_ahead
        guesses = self._guesses.missing(self._in_flight, asked, self.honesty)
        return [one for one in guesses if one.node.position + 2 <= most]

    def take(self, nodes: Iterable[Node], *, now: int) -> StepItem:
        """The item that asks for the facts at `nodes` and, unless another step does, at the end; all of them are in
        flight from now on.

        Ancestors come along, wanted or not, so that a worker can compute what its cache lacks (law 6).
        """
        end = self.tree.root
        wanted = {node.key for node in nodes}
        ordered = with_ancestors(nodes, end)
        asks_for_end = end.key not in self._in_flight
        if asks_for_end:
            due = self._patience.due_at(self._missing_since, self._bare_since)
            self._tally.queue_us = max(0, now - due) // MICROSECOND
            self._patience.waited(now - self._missing_since)
        self._in_flight |= wanted
        self._in_flight.add(end.key)
        if self._guesses is not None:
            self._guesses.taken(node for node in ordered if node.key in wanted)
        return StepItem(
            session=self.key,
            log=self.log.tokens,
            length=len(self.log),
            nodes=step_nodes(ordered, wanted, end),
            end_key=end.key if asks_for_end else None,
            sampling=self._opening.sampling,
            prompt_length=self.log.prompt_length,
        )

    def prefill(self, length: int) -> StepItem:
        """An item that asks for a longer cached prefix and no fact."""
        if self._guesses is not None:
            self._guesses.read(length)
        return StepItem(
            self.key, self.log.tokens, length, (), None, self._opening.sampling, self.log.prompt_length
        )

    def give_back(self, keys: Iterable[int]) -> None:
        """A step failed or is overdue: the facts it owed are missing again."""
        owed = list(keys)
        self._in_flight.difference_update(owed)
        if self._guesses is not None:
            self._guesses.answered(owed)
        for key in owed:
            node = self._nodes.get(key)
            if node is not None and node.drafted and node is not self.tree.root:
                self._missing.add(node)

    def advise(self, window: int) -> None:
        """How many nodes in flight are worth it now; travels with the next commit."""
        self._advice = window

    # ---- facts from the pool ----

    def learn(self, facts: Sequence[tuple[int, Fact]], *, verify_us: int, now: int) -> list[CloudEffect]:
        """Apply the facts of one step; a fact about a dead or committed node is dropped silently."""
        self._tally.steps += 1
        self._tally.facts += len(facts)
        own = 0 if self._guesses is None else self._guesses.answered(key for key, _ in facts)
        self._tally.self_decoded += len(facts) - own == 1 and any(
            key == self.tree.root.key for key, _ in facts
        )
        self._tally.verify_us = verify_us
        for key, fact in facts:
            self._in_flight.discard(key)
            node = self._nodes.get(key)
            if node is None:
                continue
            if node.fact is not None:
                self.disagreements.compare(node.fact, fact)
                continue
            killed = self.tree.learn(node, fact)
            self._drafters.contradicted(node, killed)
            self._forget_killed(killed)
        return self._settle(now)

    def _settle(self, now: int) -> list[CloudEffect]:
        position, end = len(self.log), self.tree.root
        done = settle(self.log, self.tree)
        if not done.tokens:
            return []
        del self._nodes[end.key]
        self._drafters.settled(end, done)
        self._forget(done)
        self._missing_since = now
        self._bare_since = None
        self._step_now = False
        self._note_bareness(now)
        self.accepted += done.accepted
        self.judged += done.judged
        self.claimed += done.claimed
        self._look_ahead(now, done)
        tally, self._tally = self._tally, Tally()
        logprobs = [fact.logprob for fact in done.facts] if self._opening.want_logprobs else []
        self._logprobs += logprobs
        commit = tally.commit(position, done.tokens, logprobs, self._advice)
        effects = self._drafters.told(commit, self.log, self._info.limits)
        if self.log.closed is not None:
            effects += self._finish(self.log.closed, len(self.log))
        return effects

    def _look_ahead(self, now: int, done: Settlement) -> None:
        """The log has grown: what is likely to follow, and what is worth waiting for."""
        if self._guesses is not None:
            for node in self._guesses.moved(done, crowded=self.tree.live - self.tree.looked_up >= CROWD):
                self._nodes[node.key] = node
        if self._patience.adaptive:
            # The step itself gives one token, and that too may be one that a draft had right.
            saved = min(done.accepted, len(done.tokens) - 1)
            duration = self._tally.verify_us * MICROSECOND
            self._patience.stepped(duration, judged=done.judged, accepted=done.accepted, saved=saved)
            bare = self._bare_since is not None
            mass = 0.0 if bare else likelihood(self._newest, self.tree.root, self.honesty)
            self._patience.moved(now, len(self.log), bare=bare, missed=done.missed, mass=mass)

    def _finish(self, reason: FinishReason, position: int) -> list[CloudEffect]:
        self.over = True
        prompt = self.log.prompt_length
        return self._drafters.finished(Finish(reason, prompt, position - prompt))

    # ---- books ----

    def _drafter(self, stream: int, now: int) -> Drafter:
        info = self._info
        return Drafter(stream, DraftStream(info.limits, info.vocabulary_size, self.log, now=now))

    def _note_bareness(self, now: int) -> None:
        if any(child.drafted for child in self.tree.root.children.values()):
            self._bare_since = None
        elif self._bare_since is None:
            self._bare_since = now

    def _forget(self, done: Settlement) -> None:
        for node in done.promoted:
            self._nodes.pop(node.key, None)
        self._forget_killed(done.killed)
        self._nodes[self.tree.root.key] = self.tree.root

    def _forget_killed(self, killed: list[Node]) -> None:
        self._drafters.killed(killed)
        for node in killed:
            self._nodes.pop(node.key, None)
            self._in_flight.discard(node.key)
