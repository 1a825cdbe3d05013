"""A worker with the facts of a profiled pair: puts any published pair on the wire without its weights."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final

from cloud_server.worker import StateError
from shared.messages import Limits, ModelInfo
from shared.profiled import Profile, ProfiledPair
from shared.profiled_facts import ProfiledFacts
from shared.step import Step, StepOutcome

FORMAT: Final = "slipstream-profiled-state-1"


class ProfiledWorker:
    """States the facts of a profiled target; a step lasts by a sleep in the model's thread. See `Worker`."""

    def __init__(self, profile: Profile, *, step_floor_ms: float = 0.0, limits: Limits | None = None) -> None:
        self._profile = profile
        self._floor_ms = step_floor_ms
        self._facts = ProfiledFacts(ProfiledPair(profile))
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
        load = self._facts.load(step)
        items = self._facts.establish(step)
        if items:
            step_ns = round(max(self._profile.duration_ms(load), self._floor_ms) * 1e6)
            remaining = step_ns - (time.perf_counter_ns() - began)
            time.sleep(max(remaining, 0) / 1e9)
        return StepOutcome(items, (time.perf_counter_ns() - began) // 1000)

    def export_state(self, session: int) -> bytes | None:
        """See `Movable.export_state`. There are no keys and values: it says how many tokens they would be of."""
        length = self._facts.length_of(session)
        return json.dumps([FORMAT, self._info.model_fingerprint, length]).encode() if length else None

    def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """See `Movable.import_state`."""
        try:
            form, model, length = json.loads(state)
        except ValueError as error:
            raise StateError(f"not a state of a profiled model ({error})") from error
        if (form, model) != (FORMAT, self._info.model_fingerprint) or not 0 < length <= len(log):
            raise StateError(f"a state of {form} {model} with {length} tokens, the log has {len(log)}")
        self._facts.hold(session, length)
        return int(length)

    def close(self) -> None:
        """See `Worker.close`."""
        self._facts.forget_all()
