"""An EdgeSession with its effects kept, answered by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from shared.errors import Status
from shared.messages import (
    CloudMessage,
    Commit,
    Draft,
    Limits,
    Opened,
)
from shared.policy.expansion import Candidate, Expansion, chain
from shared.policy.pacing import Pacing, Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.window import FixedWindow
from shared.sampling import SamplingParams
from shared.session.edge import (
    Connect,
    EdgeEffect,
    EdgePolicies,
    EdgeSession,
    Forward,
    Request,
    SendUp,
)
from tests.shared.session.builders import PROMPT, model_info

START = len(PROMPT)
TEXT = (10, 11, 12, 13, 14, 15)


class Bench:
    """An EdgeSession whose effects are kept, and answered by hand."""

    def __init__(
        self,
        *,
        window: int = 4,
        expansion: Expansion | None = None,
        pacing: Pacing | None = None,
        drafts: bool = True,
        room: int = 20,
        stop: tuple[int, ...] = (),
        limits: Limits | None = None,
        draft_context: int = 1000,
        patience_us: int = 0,
        reconnect: Reconnect | None = None,
        prompt: Sequence[int] = PROMPT,
    ) -> None:
        self.policies = EdgePolicies(
            FixedWindow(window),
            pacing or Streaming(),
            (expansion or chain()) if drafts else None,
            reconnect or Reconnect(),
            draft_context,
        )
        request = Request(tuple(prompt), room, SamplingParams(), stop, patience_us)
        self.session = EdgeSession(request, model_info(limits=limits), self.policies)
        self.limits = limits or Limits()
        self.effects: list[EdgeEffect] = []
        self.stream = 0
        self.forwards: list[Forward] = []
        self.widest = 0

    def apply(self, effects: Iterable[EdgeEffect]) -> list[EdgeEffect]:
        news = list(effects)
        self.effects += news
        for effect in news:
            if isinstance(effect, Connect):
                self.stream = effect.stream
            if isinstance(effect, Forward):
                self.forwards.append(effect)
        self.widest = max(self.widest, self.session.in_flight)
        return news

    def start(self, now: int = 0) -> Bench:
        self.apply(self.session.start(now))
        return self

    def open(self, now: int = 0) -> Bench:
        """Start, connect and be opened."""
        self.start(now)
        self.connected(now)
        self.receive(Opened("s", "x", 0, "model-a", self.limits), now)
        return self

    def connected(self, now: int = 0) -> list[EdgeEffect]:
        return self.apply(self.session.connected(self.stream, now))

    def receive(self, message: CloudMessage, now: int = 0) -> list[EdgeEffect]:
        return self.apply(self.session.receive(self.stream, message, now))

    def commit(self, *tokens: int, now: int = 0) -> list[EdgeEffect]:
        return self.receive(Commit(len(self.session.log), tokens), now)

    def lost(self, status: Status = Status.UNAVAILABLE, now: int = 0) -> list[EdgeEffect]:
        return self.apply(self.session.lost(self.stream, status, "gone", now))

    def drafted(self, *tokens: int | tuple[int, ...], now: int = 0) -> list[EdgeEffect]:
        """Answer the forward that is out: for each key its candidates."""
        results = [[Candidate(one, 1.0) for one in ([t] if isinstance(t, int) else t)] for t in tokens]
        return self.apply(self.session.drafted(results, now))

    def chain(self, *tokens: int) -> list[EdgeEffect]:
        return list(itertools.chain.from_iterable(self.drafted(token) for token in tokens))


def sent(effects: Iterable[EdgeEffect]) -> list[Draft]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, SendUp) and isinstance(effect.message, Draft)
    ]


def forwards(effects: Iterable[EdgeEffect]) -> list[Forward]:
    return [effect for effect in effects if isinstance(effect, Forward)]


def triple(draft: Draft) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    return draft.first_node, draft.root_position, draft.tokens, draft.parent_offsets


def ids(draft: Draft) -> range:
    return range(draft.first_node, draft.first_node + len(draft.tokens))


def next_tokens(session: EdgeSession, count: int) -> list[int]:
    """What a chain has drafted next: a cloud that agrees."""
    tokens, node = [], session.tree.root
    while node.children and len(tokens) < count:
        (node,) = node.children.values()
        tokens.append(node.token)
    return tokens
