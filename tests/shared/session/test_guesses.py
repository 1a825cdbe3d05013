"""The cloud's own guesses: nodes as any other, and nobody's."""

from __future__ import annotations

from shared.messages import Limits
from shared.policy.lookup import PromptLookup
from shared.session.cloud import CloudSession
from tests.shared.session.builders import (
    Answer,
    at,
    commits,
    draft,
    facts_of,
    model_info,
    opening,
    verify,
    writes,
)

PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 1, 2)
START = len(PROMPT)
TEXT = (3, 4, 5, 6, 7, 8, 50, 51)
ANSWER = writes(*TEXT)


def session(*, limits: Limits | None = None, now: int = 0, **fields: object) -> CloudSession:
    """After its first token, when the cloud has begun to guess."""
    cloud = CloudSession(
        7, 7, opening(PROMPT, room=40, **fields), model_info(limits=limits), now=now, lookup=PromptLookup()
    )
    verify(cloud, ANSWER, now=now)
    return cloud


def step(cloud: CloudSession, answer: Answer = ANSWER, *, drafts: int = 100, now: int = 0):
    """A step with everything in it."""
    chosen = cloud.missing_drafts(drafts)
    guesses = [one.node for one in cloud.missing_guesses({node.key for node in chosen})]
    item = cloud.take([*chosen, *guesses], now=now)
    return cloud.learn(facts_of(item, answer), verify_us=0, now=now)


def counts(cloud: CloudSession) -> tuple[int, int]:
    assert cloud._guesses is not None
    return cloud._guesses._lookup.counts.asked, cloud._guesses._lookup.counts.accepted


def test_a_text_that_repeats_itself_takes_several_tokens_a_step_without_a_draft():
    cloud = session()
    (commit,) = commits(step(cloud))
    assert commit.tokens == TEXT[1:7]  # five that were guessed, and what the target says after them
    assert (commit.judged, commit.accepted, commit.self_decoded, commit.steps) == (0, 0, 1, 1)
    assert counts(cloud)[1] == 5
    assert (cloud.accepted, cloud.judged, cloud.claimed) == (0, 0, 0.0)


def test_guesses_count_for_no_limit_and_an_edge_that_proposes_one_makes_it_its_own():
    cloud = session(limits=Limits(max_live_nodes=2))
    guessed = at(cloud.tree, (4,))
    assert cloud.tree.live == cloud.tree.looked_up > 2
    assert cloud.drafts.live == 0
    cloud.draft(draft(1, (4, 5), root=START + 1, costs=(8, 8)), now=0)
    assert at(cloud.tree, (4,)) is guessed
    assert guessed.drafted
    assert (guessed.cost, guessed.path_cost) == (0.5, 0.5)
    assert at(cloud.tree, (4, 5)).path_cost == 1.0
    assert cloud.drafts.live == cloud.tree.live - cloud.tree.looked_up == 2
    assert [node.token for node in cloud.missing_drafts()] == [4, 5]
    (commit,) = commits(step(cloud))
    assert (commit.tokens, commit.judged, commit.accepted, commit.self_decoded) == (TEXT[1:7], 2, 2, 0)
    assert counts(cloud)[1] == 3


def test_a_draft_beside_a_guess_is_judged_by_itself():
    cloud = session()
    cloud.draft(draft(1, (60,), root=START + 1), now=0)
    (commit,) = commits(step(cloud))
    assert (commit.tokens[0], commit.judged, commit.accepted) == (4, 1, 0)


def test_a_guess_ends_no_patience_and_an_edges_own_node_does():
    cloud = session(patience_us=500)
    due = cloud.end_due_at()
    assert due == 500_000
    assert cloud.tree.root.children
    cloud.draft(draft(1, (4,), root=START + 1), now=10)
    assert cloud.end_due_at() == 0


def test_a_guess_lets_no_log_run_past_what_was_seen():
    cloud = session(limits=Limits(run_ahead=1))
    assert cloud.tree.root.children
    assert cloud.end_due_at() is None


def test_a_guess_below_a_draft_waits_until_the_draft_is_asked_for():
    cloud = session()
    cloud.draft(draft(1, (4, 5), root=START + 1), now=0)
    assert cloud.missing_guesses(set()) == []
    four, five = cloud.missing_drafts()
    assert [one.node.token for one in cloud.missing_guesses({four.key, five.key})][:1] == [6]


def test_where_drafts_claim_the_place_a_guess_is_worth_what_they_leave():
    alone, beside = session(), session()
    beside.draft(draft(1, (60,), root=START + 1, costs=(4,)), now=0)
    (first, *_), (second, *_) = alone.missing_guesses(set()), beside.missing_guesses(set())
    assert second.chance < 0.3 * first.chance


def test_a_failed_step_gives_guesses_back_and_they_are_no_drafts_when_they_return():
    cloud = session()
    asked = [one.node for one in cloud.missing_guesses(set())]
    item = cloud.take(asked, now=0)
    assert cloud.missing_guesses(set()) == []
    assert item.end_key is not None
    cloud.give_back([item.end_key, *(node.key for node in asked)])
    assert cloud.missing_drafts() == []
    assert [one.node for one in cloud.missing_guesses(set())] == asked


def test_nothing_is_guessed_past_a_stop_token_the_depth_or_the_length():
    assert session(stop_tokens=(5,)).tree.live == 2
    assert session(limits=Limits(max_depth=3)).tree.live == 3
    assert session(max_length=START + 3).tree.live == 2


def test_a_wrong_guess_changes_nothing_but_the_count():
    cloud = session()
    other = writes(3, 70, 71, 72)
    (commit,) = commits(step(cloud, other))
    assert commit.tokens == (70,)
    assert cloud.tree.live == cloud.tree.looked_up == 0


def test_a_crowd_of_drafts_leaves_no_room_for_guesses():
    cloud = session()
    for turn in range(7):
        tokens = tuple(range(10 + 10 * turn, 20 + 10 * turn))
        cloud.draft(draft(1 + 10 * turn, tokens, root=START + 1, offsets=(0,) * 10), now=0)
    verify(cloud, ANSWER)
    before = cloud.tree.looked_up
    assert cloud.drafts.live == 0  # all wrong
    assert before > 0  # the crowd is gone with the commit, so there is room again
