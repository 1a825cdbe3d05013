"""EdgeSession with several servers: whatever order things happen in, the text is the target's own and comes once."""

from __future__ import annotations

from random import Random

import pytest

from shared.errors import Status
from shared.messages import Close, CloudMessage, Commit, Drain, Finish, FinishReason, Open
from shared.policy.reconnect import Reconnect
from shared.session.edge import Connect, Done, EdgeEffect, Emit, Failed, Leave, SendUp
from tests.shared.session.edge_bench import START
from tests.shared.session.test_edge_moving import OPENED, REFUSALS, Moving

TRUTH = tuple(100 + index % 7 for index in range(60))


class Cloud:
    """One stream of a server that knows what the target writes. It says one thing at a time."""

    def __init__(self, opening: Open) -> None:
        self.length = len(opening.tokens)
        self.opened = False

    def next(self, random: Random) -> CloudMessage:
        if not self.opened:
            self.opened = True
            return OPENED
        if self.length == START + len(TRUTH):
            return Finish(FinishReason.LENGTH, START, len(TRUTH))
        if random.random() < 0.1:
            return Drain()
        at = self.length - START
        tokens = TRUTH[at : at + random.randint(1, 3)]
        self.length += len(tokens)
        return Commit(START + at, tokens)


class World:
    """Servers that drain, refuse and die; messages of two streams in any order."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bench = Moving(room=len(TRUTH), drafts=False, reconnect=Reconnect(patience=1e9))
        self.clouds: dict[int, Cloud] = {}
        self.asked: Connect | None = None
        self.text: list[int] = []
        self.done = False

    def run(self) -> None:
        self.perform(self.bench.apply(self.bench.session.start(0)))
        for now in range(1, 3000):
            if self.done:
                return
            if self.asked is not None and self.random.random() < 0.3:
                self.perform(self.dial(self.asked, now))
            elif self.clouds:
                self.perform(self.happen(self.random.choice(sorted(self.clouds)), now))
        pytest.fail(f"it did not end: {len(self.text)} tokens")

    def perform(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self.asked = effect
                case SendUp(stream, Open() as opening):
                    self.clouds[stream] = Cloud(opening)
                case SendUp(stream, Close()) | Leave(stream):
                    assert stream in self.clouds, "to a stream that is gone"
                    if isinstance(effect, Leave):
                        del self.clouds[stream]
                case Emit(position, tokens):
                    assert position == START + len(self.text)
                    self.text += tokens
                case Done() | Failed():
                    assert (type(effect), tuple(self.text)) == (Done, TRUTH), effect
                    self.done = True
                case _:
                    pass

    def dial(self, connect: Connect, now: int) -> list[EdgeEffect]:
        self.asked = None
        if not connect.elsewhere:
            self.clouds.clear()
        if self.random.random() < 0.2:
            ready = now if self.random.random() < 0.5 else None
            return self.bench.gone(connect.stream, now=now, retry_at=ready)
        return self.bench.connected(now)

    def happen(self, stream: int, now: int) -> list[EdgeEffect]:
        if self.random.random() >= 0.08:
            return self.bench.say(stream, self.clouds[stream].next(self.random), now)
        cloud = self.clouds.pop(stream)
        refusals = () if cloud.opened else REFUSALS
        return self.bench.gone(stream, self.random.choice((Status.UNAVAILABLE, *refusals)), now, now)


@pytest.mark.parametrize("seed", range(100))
def test_any_order_of_events(seed: int):
    World(seed).run()


def test_the_orders_are_not_all_easy():
    """What the one above is worth: moves, moves that came to nothing and losses all happen."""
    worlds = [World(seed) for seed in range(100)]
    for world in worlds:
        world.run()
    counts = [world.bench.session.counts for world in worlds]
    asked = sum(isinstance(one, Connect) and one.elsewhere for world in worlds for one in world.bench.effects)
    moves = sum(one.moves for one in counts)
    assert moves > 100
    assert asked - moves > 50
    assert sum(one.reconnects for one in counts) > 100
