"""What a worker with a profiled pair states and forwards, without a clock: the server sleeps by it, the simulator by
its own clock.

Law 6: facts follow from the item alone. What is held decides only how many tokens a step has to forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.hardware import StepLoad
from shared.profiled import PrefixStates, ProfiledPair
from shared.step import Fact, ItemOutcome, Step, StepItem


@dataclass(slots=True)
class _Held:
    """What a verifier would hold of one session."""

    prefix: PrefixStates
    length: int = 0
    """Trunk tokens."""
    drafts: dict[int, int] = field(default_factory=dict)
    """Positions of draft tokens, by the state that ends with them."""


class ProfiledFacts:
    """Establishes the facts of a profiled pair, and says what a verifier would have forwarded for them."""

    def __init__(self, pair: ProfiledPair) -> None:
        self._pair = pair
        self._held: dict[int, _Held] = {}
        self.stated = 0
        """Facts stated so far."""

    @property
    def sessions(self) -> int:
        """Sessions of which something is held."""
        return len(self._held)

    def load(self, step: Step) -> StepLoad:
        """What `establish` would have to forward for the step; changes nothing."""
        rows = [self._rows(item, held, *self._states(item, held)) for item, held in self._asked(step)]
        lengths = [item.length for item in step.items]
        return StepLoad(sum(rows), len(rows), sum(lengths) / len(lengths) if lengths else 0.0)

    def establish(self, step: Step) -> tuple[ItemOutcome, ...]:
        """The facts of each item; sessions that the step releases go first."""
        for session in step.released:
            self.forget(session)
        return tuple(self._item(item) for item in step.items)

    def forget(self, session: int) -> None:
        """Drop what is held of a session."""
        self._held.pop(session, None)

    def length_of(self, session: int) -> int:
        """Trunk tokens that are held of a session."""
        held = self._held.get(session)
        return held.length if held is not None else 0

    def hold(self, session: int, length: int) -> None:
        """So many trunk tokens of a session have come from another worker."""
        held = self._held.setdefault(session, _Held(PrefixStates(self._pair)))
        held.length = max(held.length, length)

    def forget_all(self) -> None:
        """Drop what is held of every session."""
        self._held.clear()

    def _asked(self, step: Step) -> list[tuple[StepItem, _Held]]:
        return [(item, self._of(item)) for item in step.items]

    def _of(self, item: StepItem) -> _Held:
        return self._held.get(item.session) or _Held(PrefixStates(self._pair))

    def _item(self, item: StepItem) -> ItemOutcome:
        held = self._held[item.session] = self._of(item)
        end, states = self._states(item, held)
        target = self._pair.target
        facts = [] if item.end_key is None else [(item.end_key, Fact(target(end)))]
        facts += [
            (node.key, Fact(target(state)))
            for node, state in zip(item.nodes, states, strict=True)
            if node.wanted
        ]
        computed = self._rows(item, held, end, states)
        self._hold(item, held, states)
        self.stated += len(facts)
        return ItemOutcome(item.session, tuple(facts), item.length, computed)

    def _states(self, item: StepItem, held: _Held) -> tuple[int, list[int]]:
        """Of the trunk, and of the prefix that ends with each node."""
        end = held.prefix.at(item.log, item.length)
        states: list[int] = []
        for node in item.nodes:
            states.append(self._pair.follow(end if node.parent < 0 else states[node.parent], node.token))
        return end, states

    def _rows(self, item: StepItem, held: _Held, end: int, states: list[int]) -> int:
        """Tokens to forward: those of the trunk and nodes that are not held, and all whose fact is wanted."""
        named = {*held.prefix.between(item.log, held.length + 1, item.length), *states}
        wanted = {state for node, state in zip(item.nodes, states, strict=True) if node.wanted}
        if item.end_key is not None:
            wanted.add(end)
        return len(wanted.union(named.difference(held.drafts)))

    def _hold(self, item: StepItem, held: _Held, states: list[int]) -> None:
        positions: list[int] = []
        for node in item.nodes:
            positions.append(item.length if node.parent < 0 else positions[node.parent] + 1)
        held.length = max(held.length, item.length)
        held.drafts.update(zip(states, positions, strict=True))
        # Below the trunk's end a draft is either in the trunk or dead; so what is held is bounded by the tree's depth.
        held.drafts = {state: at for state, at in held.drafts.items() if at >= held.length}
