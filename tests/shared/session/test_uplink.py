"""One stream's way up: ids, offsets, what was reported, and the message rate."""

from __future__ import annotations

import pytest

from shared.messages import Limits
from shared.session.tree import DraftTree, settle
from shared.session.uplink import Uplink
from shared.step import Fact
from tests.shared.session.builders import PROMPT, SECOND, at, grow, new_log

START = len(PROMPT)


def half(**limits: int) -> tuple[DraftTree, Uplink]:
    """A tree over the prompt, and a fresh uplink."""
    log = new_log()
    tree = DraftTree(log)
    return tree, Uplink(log, tree, Limits(**limits), now=0)


def test_ids_are_dense_from_1_and_parents_come_first():
    tree, uplink = half()
    grow(tree, (10, 11), (20,))
    later = [at(tree, (20,)), at(tree, (10, 11)), at(tree, (10,))]
    draft = uplink.draft(later, now=0)
    assert (draft.first_node, draft.tokens, draft.parent_offsets) == (1, (10, 11, 20), (0, 1, 0))
    grow(tree, (10, 12), (20, 21))
    draft = uplink.draft([at(tree, (20, 21)), at(tree, (10, 12))], now=0)
    assert (draft.first_node, draft.tokens, draft.parent_offsets) == (4, (12, 21), (3, 2))
    assert uplink.in_flight == 5


def test_without_nodes_no_id_is_named_and_none_is_used_up():
    tree, uplink = half()
    assert uplink.draft([], now=0).first_node == 0
    grow(tree, (10,))
    assert uplink.draft([at(tree, (10,))], now=0).first_node == 1


def test_costs_are_capped_at_what_a_byte_holds():
    tree, uplink = half()
    tree.add(tree.root, 10, 1000.0)
    tree.add(tree.root, 11, 0.5)
    assert uplink.draft(list(tree.nodes()), now=0).costs == (255, 8)


def test_what_is_forgotten_is_not_in_flight_and_its_id_is_not_given_again():
    tree, uplink = half()
    grow(tree, (10, 11), (20,))
    uplink.draft(list(tree.nodes()), now=0)
    grow(tree, (20, 21))  # dies without having been sent
    uplink.forget(tree.learn(tree.root, Fact(10)))
    assert uplink.in_flight == 2
    done = settle(uplink._log, tree)
    uplink.forget(done.promoted)
    assert uplink.in_flight == 1
    grow(tree, (12,))
    draft = uplink.draft([at(tree, (12,))], now=0)
    assert (draft.first_node, draft.root_position, draft.parent_offsets) == (4, START + 1, (0,))


def test_every_message_reports_the_whole_log_as_seen():
    _, uplink = half()
    assert uplink.unreported == 0
    uplink._log.append(10)
    uplink._log.append(11)
    assert uplink.unreported == 2
    draft = uplink.draft([], now=0)
    assert (draft.seen, draft.step_now, uplink.unreported) == (START + 2, False, 0)


def test_a_token_is_asked_for_at_one_end_only():
    _, uplink = half()
    assert not uplink.asked
    assert uplink.draft([], now=0, step_now=True).step_now
    assert uplink.asked
    uplink._log.append(10)
    assert not uplink.asked


@pytest.mark.parametrize(("rate", "burst"), [(100, 50), (3, 1), (1, 1)])
def test_drafts_stay_within_a_share_of_the_message_rate(rate: int, burst: int):
    _, uplink = half(max_messages_per_second=rate)
    sent = 0
    while uplink.may_draft(0):
        uplink.draft([], now=0)
        sent += 1
    assert sent == burst
    over = 10 * SECOND
    for now in range(0, over, SECOND // 1000):
        if uplink.may_draft(now):
            uplink.draft([], now=now)
            sent += 1
    assert sent == pytest.approx(burst + 10 * 0.9 * rate, abs=1.5)
