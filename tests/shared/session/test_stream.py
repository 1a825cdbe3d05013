"""The rules of `Draft` (design, section 4): each violation with its status and a message that says what to do, and
nothing changed by it; ids, aliases, and what is remembered of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from shared.errors import ContractViolation, Status
from shared.messages import Draft, Limits
from shared.session.cloud import CloudSession
from tests.shared.session.builders import (
    PROMPT,
    SECOND,
    VOCABULARY,
    at,
    draft,
    facts_of,
    idle,
    session,
    snapshot,
    verify,
    writes,
)

START = len(PROMPT)
TEXT = (10, 11, 12, 13, 14, 15)
TIGHT = Limits(max_nodes_per_message=4, max_live_nodes=6, max_depth=5, max_messages_per_second=50)


def _running(limits: Limits = TIGHT) -> CloudSession:
    """Two tokens committed (10, 11), `root_position` one behind them, two nodes (3 and 4) live below the end."""
    cloud = session(limits=limits)
    cloud.draft(draft(1, (10,)), now=0)
    verify(cloud, writes(*TEXT))
    assert cloud.log.completion == [10, 11]
    cloud.draft(draft(2, (11, 12, 13), root=START + 1, seen=START + 1), now=0)
    return cloud


NEXT = 5
"""The id that comes next in `_running`."""

VIOLATIONS: dict[str, tuple[Draft, Status, str]] = {
    "an id given out before": (
        draft(NEXT - 1, (20,), root=START + 2),
        Status.INVALID_ARGUMENT,
        "first_node 4, expected 5: ids are dense per stream from 1",
    ),
    "an id left out": (
        draft(NEXT + 1, (20,), root=START + 2),
        Status.INVALID_ARGUMENT,
        "first_node 6, expected 5",
    ),
    "id 0": (draft(0, (20,), root=START + 2), Status.INVALID_ARGUMENT, "first_node 0, expected 5"),
    "an offset to id 0": (
        draft(NEXT, (20,), root=START + 2, offsets=(NEXT,)),
        Status.INVALID_ARGUMENT,
        "node 5 has parent offset 5: 0 is the end, else 1 to 4",
    ),
    "an offset below id 0, in a later node": (
        draft(NEXT, (20, 21), root=START + 2, offsets=(0, NEXT + 2)),
        Status.INVALID_ARGUMENT,
        "node 6 has parent offset 7",
    ),
    "a negative offset": (
        draft(NEXT, (20, 21), root=START + 2, offsets=(0, -1)),
        Status.INVALID_ARGUMENT,
        "node 6 has parent offset -1",
    ),
    "root_position below the prompt": (
        draft(NEXT, (20,), root=START - 1, seen=START + 2),
        Status.INVALID_ARGUMENT,
        "root_position 2 is below 4",
    ),
    "root_position decreasing": (
        draft(NEXT, (20,), root=START, seen=START + 2),
        Status.INVALID_ARGUMENT,
        "root_position 3 is below 4: it starts at the prompt length and never decreases",
    ),
    "root_position beyond what was sent": (
        draft(NEXT, (20,), root=START + 3, seen=START + 2),
        Status.INVALID_ARGUMENT,
        "root_position 6 is beyond 5, the log length sent to this stream",
    ),
    "a token beyond the vocabulary": (
        draft(NEXT, (20, VOCABULARY), root=START + 2),
        Status.INVALID_ARGUMENT,
        "token 100 is outside the vocabulary of 100",
    ),
    "a negative token": (draft(NEXT, (-1,), root=START + 2), Status.INVALID_ARGUMENT, "token -1 is outside"),
    "fewer offsets than tokens": (
        draft(NEXT, (20, 21), root=START + 2, offsets=(0,)),
        Status.INVALID_ARGUMENT,
        "2 tokens with 1 parent_offsets and 2 costs: send as many",
    ),
    "more costs than tokens": (
        draft(NEXT, (20,), root=START + 2, costs=(1, 2)),
        Status.INVALID_ARGUMENT,
        "1 tokens with 1 parent_offsets and 2 costs",
    ),
    "offsets without tokens": (
        dataclasses.replace(idle(START + 2), parent_offsets=(0,)),
        Status.INVALID_ARGUMENT,
        "0 tokens with 1 parent_offsets",
    ),
    "a negative cost": (
        draft(NEXT, (20,), root=START + 2, costs=(-1,)),
        Status.INVALID_ARGUMENT,
        "cost -1 is negative: costs are in 1/16 nat from 0",
    ),
    "seen decreasing": (idle(START), Status.INVALID_ARGUMENT, "seen 3 is outside 4..5: it never decreases"),
    "seen decreasing, with nodes": (
        draft(NEXT, (20,), root=START + 2, seen=START),
        Status.INVALID_ARGUMENT,
        "seen 3 is outside 4..5",
    ),
    "seen beyond what was sent": (idle(START + 3), Status.INVALID_ARGUMENT, "seen 6 is outside 4..5"),
    "too deep": (
        draft(NEXT, (20, 21, 22, 23), root=START + 2, offsets=(1, 1, 1, 1)),
        Status.RESOURCE_EXHAUSTED,
        "a node 6 tokens below the end, at most 5: draft less far ahead",
    ),
    "too many nodes in a message": (
        draft(NEXT, (20, 21, 22, 23, 24), root=START + 2, offsets=(0,) * 5),
        Status.RESOURCE_EXHAUSTED,
        "5 nodes in one message, at most 4: split the Draft",
    ),
    "too many live nodes": (
        draft(NEXT, (20, 21, 22, 23), root=START + 1, offsets=(2, 2, 2, 2)),
        Status.RESOURCE_EXHAUSTED,
        "7 live nodes, at most 6: keep fewer nodes in flight",
    ),
    "too many ids of one live node": (
        draft(NEXT, (12, 12, 12, 12), root=START + 1, offsets=(3, 4, 5, 6)),
        Status.RESOURCE_EXHAUSTED,
        "7 live nodes, at most 6",
    ),
}


@pytest.mark.parametrize(("message", "status", "says"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_has_its_status_says_what_to_do_and_changes_nothing(
    message: Draft, status: Status, says: str
):
    cloud = _running()
    before = snapshot(cloud)
    with pytest.raises(ContractViolation) as caught:
        cloud.draft(message, now=SECOND)
    assert caught.value.status is status
    assert says in caught.value.message
    assert snapshot(cloud) == before
    # The stream is as it was: what it may say next, it may still say.
    cloud.draft(draft(NEXT, (20,), root=START + 2), now=SECOND)
    assert cloud.tree.live == 3


def test_the_snapshot_sees_what_a_draft_changes():
    """Negative control of the comparison above."""
    cloud = _running()
    before = snapshot(cloud)
    cloud.draft(draft(NEXT, (20,), root=START + 2), now=0)
    assert snapshot(cloud) != before


def test_the_message_rate_is_limited_and_a_refusal_changes_nothing():
    cloud = session(limits=Limits(max_messages_per_second=5))
    for _ in range(5):
        cloud.draft(idle(START), now=0)
    before = snapshot(cloud)
    for _ in range(3):
        with pytest.raises(ContractViolation) as caught:
            cloud.draft(idle(START), now=SECOND // 10)
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        assert "more than 5 messages a second: put the nodes of one drafter forward" in caught.value.message
        assert snapshot(cloud) == before
    cloud.draft(idle(START), now=SECOND // 5)  # the allowance grows back
    for _ in range(5):
        cloud.draft(idle(START), now=10 * SECOND)  # and never beyond one second's worth
    with pytest.raises(ContractViolation):
        cloud.draft(idle(START), now=10 * SECOND)


# ---- positions ----


def test_behind_the_log_an_equal_token_becomes_an_alias_and_another_is_dead():
    cloud = session()
    for _ in range(2):
        verify(cloud, writes(*TEXT))
    # The edge has seen nothing of it: 10 11 20 hang from the prompt; 11's sibling and its child are dead.
    cloud.draft(draft(1, (10, 11, 20, 30, 31), offsets=(0, 1, 1, 3, 1)), now=0)
    assert [node.token for node in cloud.tree.nodes()] == [20]
    assert cloud.tree.root.children[20].position == START + 2
    # A later message may hang from the alias, or from the dead; only the first is of use.
    cloud.draft(draft(6, (21, 22, 23), offsets=(4, 3, 1)), now=0)
    assert sorted(node.token for node in cloud.tree.nodes()) == [20, 21]
    effects = verify(cloud, writes(*TEXT))
    commit = effects[0].message
    assert commit.tokens == (12,)
    assert (commit.received, commit.stale) == (8, 4)
    assert (commit.judged, commit.accepted) == (1, 0)


def test_a_parent_that_was_committed_meanwhile_is_matched_the_same_way():
    cloud = session()
    cloud.draft(draft(1, (10, 11)), now=0)
    verify(cloud, writes(*TEXT))  # 10 11 12
    assert cloud.log.completion == [10, 11, 12]
    cloud.draft(
        draft(3, (12, 20), offsets=(1, 3)), now=0
    )  # below 11: right, an alias; below 10: 11 is not 20
    cloud.draft(draft(5, (13, 14), offsets=(2, 1)), now=0)  # below 12, the end
    assert [node.token for node in cloud.tree.nodes()] == [13, 14]
    verify(cloud, writes(*TEXT))
    assert cloud.log.completion == list(TEXT)


def test_a_draft_of_a_dead_parent_is_dropped_silently():
    cloud = session()
    cloud.draft(draft(1, (20, 21)), now=0)
    verify(cloud, writes(*TEXT))
    cloud.draft(draft(3, (22, 23, 24), offsets=(1, 1, 0)), now=0)
    assert cloud.tree.live == 0
    assert cloud.drafts.remembered == 0


def test_a_draft_that_a_known_fact_contradicts_is_dead_on_arrival():
    cloud = session()
    cloud.draft(draft(1, (10,)), now=0)
    item = cloud.take((), now=0)
    inner = cloud.take(cloud.missing_drafts(), now=0)
    # The fact after 10 comes before the fact at the end.
    key, fact = next(pair for pair in facts_of(inner, writes(*TEXT)) if pair[0] != inner.end_key)
    assert cloud.learn([(key, fact)], verify_us=0, now=0) == []
    cloud.draft(draft(2, (20, 11, 21), offsets=(1, 2, 2)), now=0)
    assert [node.token for node in cloud.tree.nodes()] == [10, 11]
    effects = cloud.learn(facts_of(item, writes(*TEXT)), verify_us=0, now=0)
    assert effects[0].message.tokens == (10, 11)
    assert effects[0].message.stale == 2


def test_no_node_is_kept_that_no_log_can_hold():
    cloud = session(room=2)
    cloud.draft(draft(1, (10, 11, 12, 13)), now=0)
    assert [node.token for node in cloud.tree.nodes()] == [10, 11]


# ---- ids ----


def test_ids_map_many_to_one_and_die_together():
    cloud = session()
    cloud.draft(draft(1, (10, 11), offsets=(0, 1)), now=0)
    cloud.draft(draft(3, (10, 11, 12, 10), offsets=(0, 3, 3, 0)), now=0)  # 10 again, 11 below 1, 12 below 2
    assert [node.token for node in cloud.tree.nodes()] == [10, 11, 12]
    assert cloud.drafts.live == 3
    assert cloud.drafts.remembered == 6
    cloud.draft(draft(7, (13,), offsets=(2,)), now=0)  # 13 below 5 (12)
    assert at(cloud.tree, (10, 11, 12, 13)).alive
    verify(cloud, lambda path: 10 if not path else 50)  # 10, then another
    assert cloud.tree.live == 0
    assert cloud.drafts.live == 0
    assert cloud.drafts.remembered == 3  # 1, 3 and 6 are the committed 10


def test_ids_below_root_position_are_forgotten():
    cloud = session()
    cloud.draft(draft(1, (10, 11)), now=0)
    verify(cloud, writes(*TEXT))
    assert cloud.drafts.remembered == 2
    cloud.draft(idle(START + 3), now=0)  # `seen` alone moves no root
    assert cloud.drafts.remembered == 2
    cloud.draft(draft(3, (20,), root=START + 1, seen=START + 3), now=0)
    assert cloud.drafts.remembered == 1  # 11's
    cloud.draft(draft(4, (13, 20, 21), root=START + 3, offsets=(0, 2, 4)), now=0)
    assert [node.token for node in cloud.tree.nodes()] == [13]  # ids 3 (dead) and 1 (forgotten) name nothing
    assert cloud.drafts.remembered == 1


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(
            lambda first: draft(first, (10,) * 4, offsets=(0,) * 4), id="of a token committed long ago"
        ),
        pytest.param(
            lambda first: draft(first, (20,) * 4, offsets=(0,) * 4, root=START + 1), id="of a live node"
        ),
    ],
)
def test_what_is_remembered_is_bounded_however_often_a_guess_is_repeated(again: Callable[[int], Draft]):
    cloud = session(limits=Limits(max_live_nodes=16))
    verify(cloud, writes(*TEXT))
    for turn in range(4):
        cloud.draft(again(1 + 4 * turn), now=0)
    assert cloud.drafts.remembered == 16
    assert cloud.tree.live <= 1
    with pytest.raises(ContractViolation, match="at most 16"):
        cloud.draft(again(17), now=0)
    assert cloud.drafts.remembered == 16


def test_memory_follows_the_live_tree_over_a_long_log():
    cloud = session(room=600, limits=Limits(run_ahead=10_000))
    text = tuple(4 + n % 50 for n in range(600))
    most = 0
    for _ in range(150):
        done = len(cloud.log.completion)
        drafted = (*text[done : done + 2], 77, 78)
        cloud.draft(draft(cloud.drafts._last_id + 1, drafted, root=len(cloud.log)), now=done * SECOND)
        verify(cloud, writes(*text))
        most = max(most, cloud.drafts.remembered, len(cloud._nodes), len(cloud._in_flight))
    assert len(cloud.log.completion) == 450
    assert most <= 4
