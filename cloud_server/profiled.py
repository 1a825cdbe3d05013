"""A worker with the facts of a profiled pair: puts any published pair on the wire without its weights."""

from __future__ import annotations

import time

from shared.messages import Limits, ModelInfo
from shared.profiled import PrefixStates, Profile, ProfiledPair
from shared.step import Fact, ItemOutcome, Step, StepItem, StepOutcome


class ProfiledWorker:
    """States the facts of a profiled target; a step lasts by a sleep in the model's thread. See `Worker`."""

    def __init__(self, profile: Profile, *, step_floor_ms: float = 0.0, limits: Limits | None = None) -> None:
        self._pair = ProfiledPair(profile)
        self._step_ns = round(max(profile.step_ms, step_floor_ms) * 1e6)
        self._states: dict[int, PrefixStates] = {}
        self._info = ModelInfo(
            name="profiled",
            model_fingerprint=f"profiled-{profile.seed}-{profile.vocabulary_size}",
            tokenizer_fingerprint="",
            vocabulary_size=profile.vocabulary_size,
            context_length=profile.context_length,
            stop_tokens=(),
            limits=limits if limits is not None else Limits(),
        )

    @property
    def info(self) -> ModelInfo:
        """How the profiled target introduces itself."""
        return self._info

    @property
    def kv_tokens(self) -> int | None:
        """See `Worker.kv_tokens`."""
        return None

    def step(self, step: Step) -> StepOutcome:
        """See `Worker.step`."""
        began = time.perf_counter_ns()
        for session in step.released:
            self._states.pop(session, None)
        items = tuple(self._item(item) for item in step.items)
        if items:
            remaining = self._step_ns - (time.perf_counter_ns() - began)
            time.sleep(max(remaining, 0) / 1e9)
        return StepOutcome(items, (time.perf_counter_ns() - began) // 1000)

    def close(self) -> None:
        """See `Worker.close`."""
        self._states.clear()

    def _item(self, item: StepItem) -> ItemOutcome:
        end = self._states.setdefault(item.session, PrefixStates(self._pair)).at(item.log, item.length)
        facts = [] if item.end_key is None else [(item.end_key, Fact(self._pair.target(end)))]
        states: list[int] = []
        for node in item.nodes:
            state = self._pair.follow(end if node.parent < 0 else states[node.parent], node.token)
            states.append(state)
            if node.wanted:
                facts.append((node.key, Fact(self._pair.target(state))))
        return ItemOutcome(item.session, tuple(facts), item.length, len(item.nodes) + 1)
