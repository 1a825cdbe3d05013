"""The list of machines that are broken on purpose, by the name of what is wrong with them.

Each of them must be caught: by the worlds of the fuzz, within `WORLDS` of them, or, where no law can see it since only
speed is lost, by a check that can. The other lists (`test_mutants`, `test_pool_mutants`, `test_company_mutants`) go on
into the corners. Run one by hand: `python -m tests.shared.sim.broken "lost commit" fuzz`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.drafter import onnx_drafter as drafter_module
from edge_client.drafter.onnx_drafter import OnnxDrafter
from shared.errors import ContractViolation, Status
from shared.messages import Draft
from shared.pool import PoolScheduler
from shared.sampling import SamplingParams, draw
from shared.session import stream as stream_module
from shared.session.cloud import CloudEffect, CloudSession
from shared.session.front import CloudFront
from shared.step import StepOutcome
from tests.shared.sim import test_company_mutants, test_mutants, test_pool_mutants

WORLDS = 150

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


# ---- those that are in no other list ----


def a_lost_stream_leaves_its_session_behind(patch: Patch) -> None:
    patch.setattr(CloudFront, "_release", lambda front, held: None)


def a_dead_parent_is_answered(patch: Patch) -> None:
    """Law 5 the wrong way round: the normal case of a link is taken for a violation."""
    resolve = stream_module.DraftStream._resolve

    def broken(stream: stream_module.DraftStream, draft: Draft, plan: stream_module._Plan) -> list[object]:
        places = resolve(stream, draft, plan)
        if any(isinstance(place, stream_module._Dead) for place in places):
            raise ContractViolation(Status.INVALID_ARGUMENT, "the parent of this node is not known")
        return places

    patch.setattr(stream_module.DraftStream, "_resolve", broken)


def run_ahead_is_ignored(patch: Patch) -> None:
    """The cloud decodes on for an edge that has stopped to say what it has seen."""
    due = CloudSession.end_due_at

    def broken(cloud: CloudSession) -> int | None:
        seen, cloud.drafts.seen = cloud.drafts.seen, len(cloud.log)
        try:
            return due(cloud)
        finally:
            cloud.drafts.seen = seen

    patch.setattr(CloudSession, "end_due_at", broken)


def facts_of_another_session_are_taken(patch: Patch) -> None:
    """Where a step has two sessions, each is told what the worker said of the other."""
    complete = PoolScheduler.complete

    def broken(pool: PoolScheduler, outcome: StepOutcome, now: int, worker: int = 0) -> list[CloudEffect]:
        items = list(outcome.items)
        if len(items) > 1:
            stated = [[fact for _, fact in item.facts] for item in items]
            stated = [*stated[1:], stated[0]]
            items = [
                dataclasses.replace(item, facts=tuple((key, (facts or [old])[0]) for key, old in item.facts))
                for item, facts in zip(items, stated, strict=True)
            ]
        return complete(pool, dataclasses.replace(outcome, items=tuple(items)), now, worker)

    patch.setattr(PoolScheduler, "complete", broken)


def the_noise_is_one_position_off(patch: Patch) -> None:
    for name in ("rank", "rank_all"):
        right = getattr(drafter_module, name)

        def broken(
            scores: object,
            sampling: SamplingParams,
            positions: Sequence[int],
            *more: object,
            right: Callable[..., object] = right,
        ) -> object:
            return right(scores, sampling, [one + 1 for one in positions], *more)

        patch.setattr(drafter_module, name, broken)


class _Logits:
    """A model whose logits follow from the prefix: the target and the drafter in one."""

    supports_trees = True

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def logits(
        self, log: Sequence[int], length: int, paths: Sequence[tuple[int, ...]]
    ) -> NDArray[np.float32]:
        prefixes = [(*log[:length], *path) for path in paths]
        rows = [np.random.default_rng(prefix).normal(size=self._vocabulary) for prefix in prefixes]
        return np.array(rows, np.float32)


def a_drafter_that_is_the_target_is_always_right() -> None:
    """Acceptance 1 at any temperature, or the noise of the two is not the same (design section 3)."""
    vocabulary = 200
    model = _Logits(vocabulary)
    drafter = OnnxDrafter(model, vocabulary, 1000, "")  # type: ignore[arg-type]
    sampling = SamplingParams(temperature=1.0, seed=11)
    log = [1, 2, 3]
    for _ in range(60):
        ((best, *_),) = drafter.forward(log, len(log), [()], sampling, 4)
        token = draw(model.logits(log, len(log), [()])[0], sampling, len(log)).token
        assert best.token == token
        log.append(token)


# ---- the list ----


@dataclass(frozen=True, slots=True)
class Broken:
    """One way to be broken."""

    mutant: Mutant
    check: Callable[[], None] | None = None
    """What catches it; None: the worlds of the fuzz do."""


BROKEN: dict[str, Broken] = {
    "settle order": Broken(test_mutants.the_heir_dies_with_its_siblings),
    "dropped correction": Broken(test_mutants.the_correction_is_dropped),
    "stale parent kept": Broken(test_mutants.a_stale_parent_is_kept),
    "dead node answered": Broken(a_dead_parent_is_answered),
    "contradicted node kept": Broken(test_mutants.a_contradicted_child_lives_on),
    "wrong parent offset": Broken(test_mutants.offsets_are_one_short),
    "wrong parent in a step": Broken(test_mutants.a_step_item_names_the_wrong_parent),
    "lost commit": Broken(test_mutants.a_commit_is_lost),
    "double commit": Broken(test_mutants.a_commit_is_sent_twice),
    "a token past the stop": Broken(test_mutants.tokens_follow_the_stop_token),
    "a budget that reopening extends": Broken(test_mutants.opening_again_extends_the_budget),
    "leak on reconnect": Broken(a_lost_stream_leaves_its_session_behind),
    "ids that survive a reconnect": Broken(test_mutants.ids_go_on_after_a_reconnect),
    "run-ahead ignored": Broken(run_ahead_is_ignored),
    "patience never ends": Broken(test_mutants.an_adaptive_patience_never_runs_out),
    "a fixed patience never ends": Broken(test_mutants.a_patience_never_runs_out),
    "facts of another session": Broken(facts_of_another_session_are_taken),
    "facts of a failed step kept": Broken(test_mutants.a_failed_step_is_not_given_back),
    "facts of a dead worker kept": Broken(test_pool_mutants.facts_of_a_dead_worker_are_not_given_back),
    "late facts committed": Broken(test_pool_mutants.late_facts_are_committed_twice),
    "KV never released": Broken(test_mutants.the_worker_is_not_told_who_left),
    "two streams with the same ids": Broken(test_company_mutants.drafts_of_all_streams_share_their_ids),
    "two servers write one log": Broken(test_company_mutants.what_the_old_server_says_counts),
    # No law sees it, since the text is the same; a drafter that is the target does.
    "wrong noise position": Broken(
        the_noise_is_one_position_off, a_drafter_that_is_the_target_is_always_right
    ),
}


if __name__ == "__main__":
    from scripts.simulate.__main__ import main

    BROKEN[sys.argv[1]].mutant(pytest.MonkeyPatch())
    sys.exit(main(sys.argv[2:]))
