"""CloudSession: what it asks for and when, and what facts do."""

from __future__ import annotations

import dataclasses

import pytest

from shared.errors import ContractViolation, Status
from shared.messages import Close, Commit, Finish, FinishReason, Limits, Opened
from shared.session.cloud import CloudSession, EndStream, Send, check_open
from shared.step import Fact
from tests.shared.session.builders import (
    MILLISECOND,
    PROMPT,
    VOCABULARY,
    at,
    commits,
    draft,
    facts_of,
    idle,
    model_info,
    opening,
    session,
    snapshot,
    verify,
    writes,
)

START = len(PROMPT)
TEXT = (10, 11, 12, 13, 14, 15)
PATIENCE_US = 50_000
PATIENCE = PATIENCE_US * 1000


# ---- Open ----

REFUSED: dict[str, tuple[dict[str, object], Status, str]] = {
    "another version": (
        {"protocol_version": 2},
        Status.FAILED_PRECONDITION,
        "protocol version 2, this server speaks 1",
    ),
    "another model": (
        {"model_fingerprint": "model-b"},
        Status.FAILED_PRECONDITION,
        "the session needs model model-b, this server holds model-a",
    ),
    "another tokenizer": (
        {"tokenizer_fingerprint": "tokenizer-b"},
        Status.FAILED_PRECONDITION,
        "the session needs tokenizer tokenizer-b, this server holds tokenizer-a",
    ),
    "an empty log": (
        {"tokens": (), "prompt_length": 0},
        Status.INVALID_ARGUMENT,
        "prompt_length 0 is outside 1..0",
    ),
    "an empty prompt": ({"prompt_length": 0}, Status.INVALID_ARGUMENT, "prompt_length 0 is outside 1..3"),
    "a prompt longer than the log": (
        {"prompt_length": 4},
        Status.INVALID_ARGUMENT,
        "prompt_length 4 is outside 1..3",
    ),
    "a token beyond the vocabulary": (
        {"tokens": (1, VOCABULARY), "prompt_length": 2},
        Status.INVALID_ARGUMENT,
        "token 100 is outside the vocabulary of 100",
    ),
    "a stop token beyond the vocabulary": (
        {"stop_tokens": (VOCABULARY,)},
        Status.INVALID_ARGUMENT,
        "token 100 is outside the vocabulary of 100",
    ),
    "a prompt that fills the context": (
        {"tokens": (1,) * 1000, "prompt_length": 1000, "max_length": 2000},
        Status.OUT_OF_RANGE,
        "the log of 1000 tokens fills the context of 1000: shorten the prompt",
    ),
    "a zero budget": (
        {"max_length": START},
        Status.INVALID_ARGUMENT,
        "max_length 3 leaves no room after 3 tokens: ask for at least one",
    ),
    "more patience than there is": (
        {"patience_us": 5_000_001},
        Status.INVALID_ARGUMENT,
        "patience_us 5000001 is outside 0..5000000",
    ),
    "more patience of its own than there is": (
        {"adaptive_patience_us": 5_000_001},
        Status.INVALID_ARGUMENT,
        "adaptive_patience_us 5000001 is outside 0..5000000",
    ),
    "negative patience": (
        {"patience_us": -1},
        Status.INVALID_ARGUMENT,
        "patience_us -1 is outside 0..5000000",
    ),
}


@pytest.mark.parametrize(("changes", "status", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_an_open_that_is_refused(changes: dict[str, object], status: Status, says: str):
    with pytest.raises(ContractViolation) as caught:
        check_open(opening(**{"tokens": PROMPT} | changes), model_info())
    assert caught.value.status is status
    assert says in caught.value.message


def test_an_open_that_names_no_model_takes_any():
    check_open(opening(model_fingerprint="", tokenizer_fingerprint=""), model_info())
    check_open(opening(model_fingerprint="model-a", tokenizer_fingerprint="tokenizer-a"), model_info())


def test_a_tokenizer_that_the_server_does_not_name_is_another():
    with pytest.raises(ContractViolation) as caught:
        check_open(
            opening(tokenizer_fingerprint="x"), dataclasses.replace(model_info(), tokenizer_fingerprint="")
        )
    assert caught.value.status is Status.FAILED_PRECONDITION


def test_opened_tells_what_it_was_opened_with():
    cloud = session()
    assert cloud.opened("id", "secret") == [Send(7, Opened("id", "secret", 0, "model-a", Limits()))]


def test_a_log_that_comes_back_complete_is_finished_at_once():
    cloud = session(tokens=(1, 2, 3, 10, 50), prompt_length=START, stop_tokens=(50,))
    effects = cloud.opened("id", "secret")
    assert effects[1:] == [Send(7, Finish(FinishReason.STOP, 3, 2)), EndStream(7, Status.OK)]
    assert cloud.over
    assert cloud.end_due_at() is None


# ---- patience ----


def test_without_patience_the_end_is_due_at_once_and_again_after_each_commit():
    cloud = session(now=5)
    assert cloud.end_due_at() == 5
    verify(cloud, writes(*TEXT), now=9)
    assert cloud.end_due_at() == 9


def test_patience_runs_from_when_the_end_is_missing_with_no_live_node_below_it():
    cloud = session(patience_us=PATIENCE_US, now=5)
    assert cloud.end_due_at() == 5 + PATIENCE
    cloud.draft(draft(1, (10, 20)), now=30)
    assert cloud.end_due_at() == 5  # a draft is here: nothing to wait for, and it has waited since 5
    verify(cloud, writes(*TEXT), now=100)
    assert cloud.log.completion == [10, 11]
    assert cloud.end_due_at() == 100 + PATIENCE
    cloud.draft(
        draft(3, (20,), offsets=(2,)), now=110
    )  # below the committed 10: dead on arrival, no draft at all
    assert cloud.end_due_at() == 100 + PATIENCE
    verify(cloud, writes(*TEXT), now=200)
    assert cloud.end_due_at() == 200 + PATIENCE


def test_patience_never_depends_on_a_node_budget():
    """A node below the end that no step has had room for ends the waiting all the same."""
    cloud = session(patience_us=PATIENCE_US)
    cloud.draft(draft(1, (10, 11, 12)), now=0)
    item = cloud.take((), now=0)  # a step with room for the end alone
    cloud.learn(facts_of(item, writes(*TEXT)), verify_us=0, now=10)
    assert cloud.log.completion == [10]
    assert cloud.end_due_at() == 10


def test_step_now_asks_for_one_token_without_waiting():
    cloud = session(patience_us=PATIENCE_US)
    cloud.draft(idle(START, step_now=True), now=7)
    assert cloud.end_due_at() == 0
    verify(cloud, writes(*TEXT), now=10)
    assert cloud.end_due_at() == 10 + PATIENCE  # for one


def test_while_the_end_is_in_flight_it_is_not_due():
    cloud = session()
    item = cloud.take((), now=0)
    assert cloud.end_due_at() is None
    cloud.draft(draft(1, (10,)), now=0)
    assert cloud.end_due_at() is None
    assert item.end_key is not None
    cloud.give_back([item.end_key])
    assert cloud.end_due_at() == 0


# ---- run-ahead ----


def test_self_decode_stops_a_bounded_number_of_tokens_past_seen():
    cloud = session(limits=Limits(run_ahead=3))
    for _ in range(3):
        verify(cloud, writes(*TEXT))
    assert cloud.end_due_at() is None
    cloud.draft(idle(START + 1), now=50)
    assert cloud.end_due_at() is not None
    verify(cloud, writes(*TEXT), now=60)
    assert cloud.end_due_at() is None


@pytest.mark.parametrize("message", [draft(1, (13,), root=START + 3, seen=START), idle(START, step_now=True)])
def test_a_live_draft_or_a_request_goes_on_past_it(message):
    cloud = session(limits=Limits(run_ahead=3))
    for _ in range(3):
        verify(cloud, writes(*TEXT))
    cloud.draft(message, now=50)
    assert cloud.end_due_at() == 0


# ---- steps ----


def test_an_item_names_wanted_paths_with_their_ancestors():
    cloud = session()
    cloud.draft(draft(1, (10, 11, 20, 12), offsets=(0, 1, 2, 2)), now=0)
    first = cloud.take(cloud.missing_drafts()[:1], now=0)
    assert [(node.token, node.parent, node.wanted) for node in first.nodes] == [(10, -1, True)]
    rest = cloud.missing_drafts()
    assert sorted(node.token for node in rest) == [11, 12, 20]
    second = cloud.take([at(cloud.tree, (10, 11, 12))], now=0)
    assert [(node.token, node.parent, node.wanted) for node in second.nodes] == [
        (10, -1, False),
        (11, 0, False),
        (12, 1, True),
    ]
    assert (tuple(second.log[: second.length]), second.prompt_length) == (PROMPT, START)


def test_missing_drafts_come_likeliest_first_and_parents_before_children():
    cloud = session()
    cloud.draft(draft(1, (10, 11, 20, 30), offsets=(0, 1, 0, 0), costs=(16, 0, 8, 40)), now=0)
    assert [node.token for node in cloud.missing_drafts()] == [20, 10, 11, 30]


def test_a_node_that_does_not_hang_from_the_end_is_refused():
    cloud = session()
    cloud.draft(draft(1, (20,)), now=0)
    node = at(cloud.tree, (20,))
    verify(cloud, writes(*TEXT))
    with pytest.raises(ValueError, match="does not hang"):
        cloud.take([node], now=0)


def test_facts_of_the_dead_and_of_the_past_are_dropped():
    cloud = session()
    cloud.draft(draft(1, (20, 21)), now=0)
    item = cloud.take(cloud.missing_drafts(), now=0)
    facts = facts_of(item, writes(*TEXT))
    cloud.learn(facts[:1], verify_us=0, now=0)  # the end's: kills both nodes
    assert cloud.learn(facts[1:], verify_us=0, now=0) == []
    assert cloud.learn(facts[:1], verify_us=0, now=0) == []
    assert cloud.log.completion == [10]


@pytest.mark.parametrize(
    ("margins", "token", "near_ties", "incidents"),
    [((1.0, 1.0), 10, 0, 0), ((1.0, 1.0), 50, 0, 1), ((1.0, 1e-6), 50, 1, 0), ((1e-6, 1.0), 50, 1, 0)],
)
def test_a_disagreement_is_counted_and_the_first_fact_stands(margins, token, near_ties, incidents):
    cloud = session()
    cloud.draft(draft(1, (4,)), now=0)
    key = at(cloud.tree, (4,)).key
    cloud.learn([(key, Fact(10, margins[0]))], verify_us=0, now=0)
    cloud.learn([(key, Fact(token, margins[1]))], verify_us=0, now=0)
    assert (cloud.disagreements.near_ties, cloud.disagreements.incidents) == (near_ties, incidents)
    verify(cloud, lambda path: 4)
    assert cloud.log.completion == [4, 10]


def test_a_commit_says_what_it_cost():
    cloud = session(want_logprobs=True, now=0)
    cloud.draft(draft(1, (10, 20, 30), offsets=(0, 1, 0)), now=2 * MILLISECOND)
    item = cloud.take(cloud.missing_drafts(), now=3 * MILLISECOND)
    facts = [(key, Fact(fact.token, logprob=-0.5)) for key, fact in facts_of(item, writes(*TEXT))]
    cloud.advise(17)
    (commit,) = commits(cloud.learn(facts, verify_us=800, now=4 * MILLISECOND))
    assert commit == Commit(
        position=START,
        tokens=(10, 11),
        logprobs=(-0.5, -0.5),
        queue_us=3000,
        verify_us=800,
        steps=1,
        facts=4,
        judged=2,
        accepted=1,
        received=3,
        stale=0,
        self_decoded=0,
        advised_window=17,
    )
    (commit,) = commits(verify(cloud, writes(*TEXT), now=9 * MILLISECOND))
    assert (commit.queue_us, commit.received, commit.judged, commit.self_decoded) == (5000, 0, 0, 1)


def test_the_end_of_the_log_is_told_with_its_reason_and_ends_the_stream():
    cloud = session(stop_tokens=(12,))
    cloud.draft(draft(1, (10, 11, 12, 13)), now=0)
    effects = verify(cloud, writes(*TEXT))
    assert commits(effects)[0].tokens == (10, 11, 12)
    assert effects[1:] == [Send(7, Finish(FinishReason.STOP, 3, 3)), EndStream(7, Status.OK)]
    assert cloud.over
    assert (cloud.end_due_at(), cloud.missing_drafts(), cloud.drafts.live) == (None, [], 0)


# ---- Close ----


@pytest.mark.parametrize("position", [START - 1, START + 3])
def test_a_close_outside_the_completion_is_refused_and_changes_nothing(position: int):
    cloud = _with_two()
    before = snapshot(cloud)
    with pytest.raises(ContractViolation, match=rf"close position {position} is outside 3\.\.5") as caught:
        cloud.close(Close(position))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert snapshot(cloud) == before


@pytest.mark.parametrize(("position", "counted"), [(None, 2), (START, 0), (START + 1, 1), (START + 2, 2)])
def test_a_close_counts_the_tokens_before_its_position(position: int | None, counted: int):
    cloud = _with_two()
    effects = cloud.close(Close(position))
    assert effects == [Send(7, Finish(FinishReason.CLOSED, 3, counted)), EndStream(7, Status.OK)]
    assert cloud.over
    assert cloud.tree.live == cloud.drafts.live == 0


def test_an_abandoned_session_holds_nothing_and_asks_for_nothing():
    cloud = _with_two()
    cloud.abandon()
    assert cloud.over
    assert (cloud.end_due_at(), cloud.missing_drafts(), cloud.tree.live) == (None, [], 0)


def _with_two() -> CloudSession:
    cloud = session()
    verify(cloud, writes(*TEXT))
    verify(cloud, writes(*TEXT))
    cloud.draft(draft(1, (20,), root=START + 2), now=0)
    return cloud
