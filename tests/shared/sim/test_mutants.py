"""Negative controls: machines broken on purpose, each of which the fuzz or the progress checks must catch.

A mutant that nothing catches is a law that nothing keeps. `WORLDS` bounds how long the search may take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import pytest

from shared.messages import Commit, Draft, Limits, ModelInfo, Open, Opened
from shared.policy.expansion import Candidate
from shared.policy.lookup import SuffixIndex
from shared.policy.patience import AdaptivePatience, FixedPatience
from shared.pool import PoolScheduler
from shared.pool.packing import Packing
from shared.session import cloud as cloud_module
from shared.session import stream as stream_module
from shared.session import uplink as uplink_module
from shared.session.cloud import CloudEffect, CloudSession, Send
from shared.session.edge import EdgeEffect, EdgeSession, SendUp
from shared.session.log import TokenLog
from shared.session.request import Request
from shared.session.stream import DraftStream
from shared.session.tree import DraftTree, Node, Settlement, settle
from shared.session.uplink import Uplink
from shared.sim.fuzz import make_world
from shared.step import Fact, StepItem
from tests.shared.sim import progress

WORLDS = 150

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


# ---- settling ----


def the_heir_dies_with_its_siblings(patch: Patch) -> None:
    """The order of settling: children are dropped before the right one is taken."""
    advance = DraftTree.advance

    def broken(tree: DraftTree, token: int) -> tuple[Node | None, list[Node]]:
        killed = tree.clear()
        heir, more = advance(tree, token)
        return heir, [*killed, *more]

    patch.setattr(DraftTree, "advance", broken)


def the_correction_is_dropped(patch: Patch) -> None:
    """After a rejection the fact that rejected is thrown away, and asked for again."""

    def broken(log: TokenLog, tree: DraftTree) -> Settlement:
        fact = tree.root.fact
        if fact is not None and tree.root.claimed is not None and fact.token not in tree.root.children:
            tree.root.fact = None
            return Settlement()
        done = Settlement()
        while log.closed is None and tree.root.fact is not None:
            if tree.root.claimed is not None and tree.root.fact.token not in tree.root.children:
                tree.root.fact = None
                break
            one = _settle_one(log, tree)
            for name in ("tokens", "facts", "promoted", "killed"):
                getattr(done, name).extend(getattr(one, name))
            done.judged += one.judged
            done.accepted += one.accepted
        return done

    patch.setattr(cloud_module, "settle", broken)


def one_token_is_settled_at_a_time(patch: Patch) -> None:
    patch.setattr(cloud_module, "settle", _settle_one)


def _settle_one(log: TokenLog, tree: DraftTree) -> Settlement:
    """The right loop, stopped after one token: the heir's own fact is hidden from it."""
    fact = tree.root.fact
    heir = tree.root.children.get(fact.token) if fact is not None else None
    if heir is None:
        return settle(log, tree)
    known, heir.fact = heir.fact, None
    done = settle(log, tree)
    heir.fact = known
    return done


def tokens_follow_the_stop_token(patch: Patch) -> None:
    close = TokenLog._close_if_due

    def broken(log: TokenLog) -> None:
        stop, log.stop_tokens = log.stop_tokens, frozenset()
        close(log)
        log.stop_tokens = stop

    patch.setattr(TokenLog, "_close_if_due", broken)


def a_contradicted_child_lives_on(patch: Patch) -> None:
    def broken(tree: DraftTree, node: Node, fact: Fact) -> list[Node]:
        node.fact, node.claimed = fact, 1.0 if node.children else None
        return []

    patch.setattr(DraftTree, "learn", broken)
    patch.setattr(DraftTree, "_kill", lambda tree, top: [])


# ---- ids and positions ----


def a_stale_parent_is_kept(patch: Patch) -> None:
    patch.setattr(DraftStream, "killed", lambda stream, nodes: None)


def any_alias_is_right(patch: Patch) -> None:
    child = stream_module._Plan.child

    def broken(plan: stream_module._Plan, parent: object, token: int, cost: float) -> object:
        if isinstance(parent, stream_module._Alias) and parent.position + 1 < len(plan._log):
            return stream_module._Alias(parent.position + 1)
        return child(plan, parent, token, cost)

    patch.setattr(stream_module._Plan, "child", broken)


def ids_go_on_after_a_reconnect(patch: Patch) -> None:
    connected = EdgeSession.connected

    def broken(edge: EdgeSession, stream: int, now: int, **more: str) -> list[EdgeEffect]:
        shift = edge._uplink._next_id - 1
        effects = connected(edge, stream, now, **more)
        edge._uplink._next_id += shift
        return [_shifted(effect, shift) for effect in effects]

    patch.setattr(EdgeSession, "connected", broken)


def _shifted(effect: EdgeEffect, shift: int) -> EdgeEffect:
    if isinstance(effect, SendUp) and isinstance(effect.message, Draft) and effect.message.tokens:
        message = dataclasses.replace(effect.message, first_node=effect.message.first_node + shift)
        return SendUp(effect.stream, message)
    return effect


def offsets_are_one_short(patch: Patch) -> None:
    right = Uplink._offset
    patch.setattr(Uplink, "_offset", lambda uplink, node: max(0, right(uplink, node) - 1))


def the_root_never_moves(patch: Patch) -> None:
    draft = Uplink.draft
    patch.setattr(
        Uplink,
        "draft",
        lambda uplink, nodes, **more: dataclasses.replace(
            draft(uplink, nodes, **more), root_position=uplink._log.prompt_length
        ),
    )


def ids_of_the_past_are_never_forgotten(patch: Patch) -> None:
    patch.setattr(DraftStream, "_advance_root", lambda stream, root: None)


# ---- commits ----


def _tampered(patch: Patch, tamper: Callable[[Sequence[CloudEffect], int], Iterable[CloudEffect]]) -> None:
    settled = CloudSession._settle

    def broken(cloud: CloudSession, now: int) -> list[CloudEffect]:
        return list(tamper(settled(cloud, now), len(cloud.log)))

    patch.setattr(CloudSession, "_settle", broken)


def _is_commit(effect: CloudEffect) -> bool:
    return isinstance(effect, Send) and isinstance(effect.message, Commit)


def a_commit_is_lost(patch: Patch) -> None:
    _tampered(patch, lambda effects, length: [one for one in effects if length % 11 or not _is_commit(one)])


def a_commit_is_sent_twice(patch: Patch) -> None:
    def twice(effects: Sequence[CloudEffect], length: int) -> Iterable[CloudEffect]:
        for effect in effects:
            yield effect
            if _is_commit(effect) and length % 11 == 0:
                yield effect

    _tampered(patch, twice)


def opening_again_extends_the_budget(patch: Patch) -> None:
    openings = Request.openings

    def broken(
        request: Request, log: TokenLog, info: ModelInfo, limits: Limits, before: Opened | None = None
    ) -> list[Open]:
        most = len(log) + request.max_new_tokens
        parts = openings(request, log, info, limits, before)
        return [dataclasses.replace(part, max_length=most) for part in parts]

    patch.setattr(Request, "openings", broken)


# ---- steps ----


def a_patience_never_runs_out(patch: Patch) -> None:
    due = FixedPatience.due_at

    def broken(patience: FixedPatience, missing_since: int, bare_since: int | None) -> int:
        waits = bare_since is not None and patience.duration > 0
        return 1 << 60 if waits else due(patience, missing_since, bare_since)

    patch.setattr(FixedPatience, "due_at", broken)


def an_adaptive_patience_never_runs_out(patch: Patch) -> None:
    patch.setattr(AdaptivePatience, "due_at", lambda patience, missing_since, bare_since: 1 << 60)


def a_wait_is_not_paid_for(patch: Patch) -> None:
    """Waits a whole step for whatever may come, on credit."""
    patch.setattr(AdaptivePatience, "_answer_at", lambda patience, since: since + patience._step)
    patch.setattr(AdaptivePatience, "waited", lambda patience, duration: None)
    stepped = AdaptivePatience.stepped

    def broken(patience: AdaptivePatience, duration: int, *, judged: int, accepted: int, saved: int) -> None:
        stepped(patience, duration, judged=judged, accepted=accepted, saved=saved)
        patience.credit = 1e12

    patch.setattr(AdaptivePatience, "stepped", broken)


def the_cloud_waits_whenever_it_can_pay(patch: Patch) -> None:
    """No mutant of a law: the worst that the policy could decide, within its means."""
    patch.setattr(AdaptivePatience, "_answer_at", lambda patience, since: since + patience._step)
    patch.setattr(AdaptivePatience, "_more_at", lambda patience: 1e18)


def the_cloud_never_waits(patch: Patch) -> None:
    patch.setattr(AdaptivePatience, "due_at", lambda patience, missing_since, bare_since: missing_since)


# ---- the cloud's own guesses ----


def a_guess_is_taken_for_a_draft(patch: Patch) -> None:
    add = DraftTree.add
    patch.setattr(
        DraftTree, "add", lambda tree, parent, token, cost, drafted=True: add(tree, parent, token, cost)
    )


def a_guess_stays_a_guess_when_an_edge_drafts_it(patch: Patch) -> None:
    patch.setattr(DraftTree, "adopt", lambda tree, node, cost: None)


def guesses_are_never_asked_for(patch: Patch) -> None:
    patch.setattr(CloudSession, "missing_guesses", lambda cloud, asked: [])


def the_log_is_read_one_token_off(patch: Patch) -> None:
    match = SuffixIndex.match

    def broken(index: SuffixIndex, log: Sequence[int], length: int) -> tuple[int, int] | None:
        found = match(index, log, length)
        return found and (found[0] - 1, found[1])

    patch.setattr(SuffixIndex, "match", broken)


def the_first_of_a_broken_step_is_blamed(patch: Patch) -> None:
    """The first session of a step that broke the worker ends, whoever broke it."""

    def broken(pool: PoolScheduler, worker: int = 0) -> int | None:
        left = pool.failed(worker)
        return left[0] if left else None

    patch.setattr(PoolScheduler, "broken", broken)


def a_draft_does_not_end_the_waiting(patch: Patch) -> None:
    def broken(cloud: CloudSession, now: int) -> None:
        if cloud._bare_since is None:
            cloud._bare_since = now

    patch.setattr(CloudSession, "_note_bareness", broken)


def a_failed_step_is_not_given_back(patch: Patch) -> None:
    patch.setattr(CloudSession, "give_back", lambda cloud, keys: None)


def a_step_item_names_the_wrong_parent(patch: Patch) -> None:
    take = CloudSession.take

    def broken(cloud: CloudSession, nodes: Iterable[Node], *, now: int) -> StepItem:
        item = take(cloud, nodes, now=now)
        wrong = [
            dataclasses.replace(node, parent=max(node.parent, index - 1))
            for index, node in enumerate(item.nodes)
        ]
        return dataclasses.replace(item, nodes=tuple(wrong))

    patch.setattr(CloudSession, "take", broken)


def ancestors_are_left_out_of_a_step_item(patch: Patch) -> None:
    take = CloudSession.take

    def broken(cloud: CloudSession, nodes: Iterable[Node], *, now: int) -> StepItem:
        item = take(cloud, nodes, now=now)
        flat = [dataclasses.replace(node, parent=-1) for node in item.nodes]
        return dataclasses.replace(item, nodes=tuple(flat))

    patch.setattr(CloudSession, "take", broken)


def long_prompts_are_never_prefilled(patch: Patch) -> None:
    patch.setattr(Packing, "_prefills", lambda packing, books, served: [])


def the_worker_is_not_told_who_left(patch: Patch) -> None:
    leave = PoolScheduler.leave

    def broken(pool: PoolScheduler, key: int) -> None:
        leave(pool, key)
        for books in pool._workers.values():
            books.released.clear()

    patch.setattr(PoolScheduler, "leave", broken)


# ---- the edge ----


def seen_is_never_reported(patch: Patch) -> None:
    draft = Uplink.draft
    patch.setattr(
        Uplink,
        "draft",
        lambda uplink, nodes, **more: dataclasses.replace(
            draft(uplink, nodes, **more), seen=uplink._log.prompt_length
        ),
    )


def the_window_is_forgotten(patch: Patch) -> None:
    patch.setattr(EdgeSession, "capacity", property(lambda edge: 100_000))


def the_message_rate_is_forgotten(patch: Patch) -> None:
    patch.setattr(uplink_module, "RATE_SHARE", 1e6)


def what_the_edge_sent_stays_in_flight(patch: Patch) -> None:
    patch.setattr(Uplink, "forget", lambda uplink, nodes: None)


def a_late_forward_is_adopted(patch: Patch) -> None:
    def broken(edge: EdgeSession, results: Sequence[Sequence[Candidate]], now: int) -> list[EdgeEffect]:
        assert edge._forwarding is not None
        nodes, edge._forwarding = list(edge._forwarding.values()), None
        if edge.over:
            return []
        for node, candidates in zip(nodes, results, strict=True):
            edge._drafting.adopt(node, candidates)
        return edge._pump(now)

    patch.setattr(EdgeSession, "drafted", broken)


def after_a_correction_nothing_is_drafted(patch: Patch) -> None:
    right = EdgeSession._commit

    def broken(edge: EdgeSession, commit: Commit, now: int) -> list[EdgeEffect]:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(edge._drafting._frontier, "push", lambda node: None)
            return right(edge, commit, now)

    patch.setattr(EdgeSession, "_commit", broken)


def drafts_are_ignored(patch: Patch) -> None:
    right = CloudSession.draft
    patch.setattr(
        CloudSession,
        "draft",
        lambda cloud, draft, *, now, stream=None: right(
            cloud, dataclasses.replace(draft, tokens=(), parent_offsets=(), costs=()), now=now, stream=stream
        ),
    )


def an_exhausted_drafter_keeps_silent(patch: Patch) -> None:
    patch.setattr(EdgeSession, "_waited_for_in_vain", lambda edge, exhausted: False)


BY_FUZZ: tuple[Mutant, ...] = (
    ancestors_are_left_out_of_a_step_item,
    long_prompts_are_never_prefilled,
    seen_is_never_reported,
    the_window_is_forgotten,
    the_message_rate_is_forgotten,
    what_the_edge_sent_stays_in_flight,
    a_late_forward_is_adopted,
    ids_of_the_past_are_never_forgotten,
    a_guess_is_taken_for_a_draft,
    a_guess_stays_a_guess_when_an_edge_drafts_it,
    the_first_of_a_broken_step_is_blamed,
)
"""Beside those of `broken.BROKEN`."""

BY_PROGRESS: dict[Mutant, Callable[[], None]] = {
    the_heir_dies_with_its_siblings: progress.synchronous_speculation_is_exact,
    the_correction_is_dropped: progress.synchronous_speculation_is_exact,
    one_token_is_settled_at_a_time: progress.synchronous_speculation_is_exact,
    any_alias_is_right: progress.the_acceptance_counted_is_the_profiles,
    offsets_are_one_short: progress.speculation_is_as_fast_as_the_reference,
    the_root_never_moves: progress.synchronous_speculation_is_exact,
    a_draft_does_not_end_the_waiting: progress.synchronous_speculation_is_exact,
    after_a_correction_nothing_is_drafted: progress.synchronous_speculation_is_exact,
    a_patience_never_runs_out: progress.a_silent_drafter_costs_the_patience_and_no_more,
    drafts_are_ignored: progress.a_chain_that_is_always_right_runs_at_the_drafters_pace,
    a_wait_is_not_paid_for: progress.waiting_never_costs_time,
    the_cloud_never_waits: progress.waiting_for_a_fast_drafter_pays,
    guesses_are_never_asked_for: progress.a_text_that_repeats_itself_needs_no_drafter,
    the_log_is_read_one_token_off: progress.a_text_that_repeats_itself_needs_no_drafter,
    an_exhausted_drafter_keeps_silent: progress.an_exhausted_drafter_does_not_cost_the_patience,
}


def _fuzz() -> None:
    for seed in range(WORLDS):
        make_world(seed).run(max_events=50_000)


@pytest.mark.parametrize("mutant", BY_FUZZ, ids=lambda mutant: mutant.__name__)
def test_the_fuzz_catches(mutant: Mutant, monkeypatch: pytest.MonkeyPatch):
    mutant(monkeypatch)
    with pytest.raises(Exception) as caught:  # a broken law, or a state that it excludes
        _fuzz()
    assert not isinstance(caught.value, TypeError | AttributeError), (
        "the mutant does not fit the code any more"
    )


@pytest.mark.parametrize(("mutant", "check"), BY_PROGRESS.items(), ids=lambda one: one.__name__)
def test_the_progress_checks_catch(
    mutant: Mutant, check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_the_worst_that_a_patience_could_decide_is_still_not_slower_than_the_cloud_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    the_cloud_waits_whenever_it_can_pay(monkeypatch)
    progress.waiting_never_costs_time()
    with pytest.raises(AssertionError):  # it did wait
        progress.waiting_for_a_fast_drafter_pays()
