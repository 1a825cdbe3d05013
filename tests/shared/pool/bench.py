"""A pool whose workers are the test itself: steps are taken, kept out, and answered in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.messages import Limits
from shared.policy.batching import FlatBudget, NodeBudget
from shared.pool import PoolPolicies, PoolScheduler, PrefillLimits
from shared.session.cloud import CloudEffect, CloudSession
from shared.step import Fact, ItemOutcome, Step, StepItem, StepOutcome
from tests.shared.session.builders import draft, facts_of, model_info, opening, writes

MS = 1_000_000
TEXT = tuple(range(10, 90))
ANSWER = writes(*TEXT)


def session(key: int, *, prompt: Sequence[int] = (1, 2, 3), now: int = 0, **fields: object) -> CloudSession:
    info = model_info(limits=Limits(max_live_nodes=4096), context=1 << 20)
    return CloudSession(key, key, opening(prompt, room=70, **fields), info, now=now)


def drafts(one: CloudSession, count: int, *, first: int = 1, now: int = 0) -> None:
    """A chain of right guesses below the end."""
    done = len(one.log.completion)
    one.draft(draft(first, TEXT[done : done + count], root=len(one.log)), now=now)


class Bench:
    """Workers that take `step_us` for a step, by the outcome's own word."""

    def __init__(
        self,
        workers: int,
        policies: PoolPolicies | None = None,
        *,
        prefill: PrefillLimits | None = None,
        kv_tokens: int | None = None,
        budget: Callable[[], NodeBudget] = FlatBudget,
    ) -> None:
        self.pool = PoolScheduler(budget, prefill, policies)
        for number in range(workers):
            self.pool.worker_joined(number, kv_tokens)
        self.out: dict[int, Step] = {}
        self.step_us = 30_000

    def join(self, *sessions: CloudSession) -> None:
        for one in sessions:
            self.pool.join(one)

    def begin(self, now: int) -> list[Step]:
        """Every step that begins now."""
        begun: list[Step] = []
        while (step := self.pool.next_step(now)) is not None:
            assert step.worker not in self.out
            self.out[step.worker] = step
            begun.append(step)
        return begun

    def end(
        self, worker: int, now: int, answer: Callable[[Sequence[int]], int] = ANSWER
    ) -> list[CloudEffect]:
        """The worker's step comes back."""
        return self.pool.complete(outcome(self.out.pop(worker), self.step_us, answer), now, worker)

    def lose(self, worker: int) -> int | None:
        self.out.pop(worker, None)
        return self.pool.worker_left(worker)

    def settle(self, now: int, step_ms: int = 30, most: int = 10_000) -> int:
        """Runs until nothing is due any more; returns when."""
        for _ in range(most):
            self.begin(now)
            if not self.out:
                return now
            now += step_ms * MS
            for worker in sorted(self.out):
                self.end(worker, now)
        raise AssertionError("no end")


def outcome(step: Step, duration_us: int, answer: Callable[[Sequence[int]], int] = ANSWER) -> StepOutcome:
    def answered(item: StepItem) -> ItemOutcome:
        facts = tuple((key, Fact(fact.token)) for key, fact in facts_of(item, answer))
        return ItemOutcome(item.session, facts, item.length, max(1, len(facts)))

    return StepOutcome(tuple(answered(item) for item in step.items), duration_us)
