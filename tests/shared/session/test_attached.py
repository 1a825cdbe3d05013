"""Several drafters on one session: one tree, ids and figures of their own, one stream's end is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.errors import ContractViolation, Status
from shared.messages import (
    Attach,
    Attached,
    Close,
    Commit,
    Drain,
    EdgeMessage,
    Finish,
    FinishReason,
    Limits,
    Opened,
    SessionNotice,
)
from shared.policy.batching import FlatBudget
from shared.pool import one_worker
from shared.sampling import SamplingParams
from shared.session.cloud import CloudEffect, CloudSession, EndStream, Send
from shared.session.cloud_effects import Announce
from shared.session.front import CloudFront, CloudPolicies, Ticket
from shared.session.joining import NO_SUCH_SESSION
from shared.step import ItemOutcome, StepOutcome
from tests.shared.session.builders import (
    PROMPT,
    SECOND,
    commits,
    draft,
    facts_of,
    idle,
    model_info,
    opening,
    session,
    verify,
    writes,
)

START = len(PROMPT)
TEXT = (10, 11, 12, 13, 14, 15, 16, 17)
OWNER, FIRST, SECOND_DRAFTER = 7, 8, 9
GRACE_S = 3.0
TICKET = Ticket("s1", "secret-1")
ATTACH = Attach("s1", "secret-1")


def shared_session(*streams: int, limits: Limits | None = None) -> CloudSession:
    cloud = session(limits=limits)
    for stream in streams:
        cloud.attach(stream, now=0)
    return cloud


def told(effects: list[CloudEffect]) -> dict[int, Commit]:
    return {e.stream: e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Commit)}


def figures(commit: Commit) -> tuple[int, int, int, int]:
    return commit.judged, commit.accepted, commit.received, commit.stale


class TestTree:
    def test_who_attaches_is_told_the_session_as_it_is(self):
        cloud = session(sampling=SamplingParams(0.5, seed=4), stop_tokens=(50,), room=9)
        verify(cloud, writes(*TEXT))
        (effect,) = cloud.attach(FIRST, now=0)
        assert effect == Send(
            FIRST,
            Attached(
                (*PROMPT, 10), START, START + 9, SamplingParams(0.5, seed=4), (50,), "model-a", Limits()
            ),
        )

    def test_nodes_of_all_streams_go_into_one_tree_and_the_same_guess_is_one_node(self):
        cloud = shared_session(FIRST)
        cloud.draft(draft(1, (10, 11)), now=0)
        cloud.draft(draft(1, (20, 10, 11, 12), offsets=(0, 0, 1, 1)), now=0, stream=FIRST)
        assert cloud.tree.live == 4
        assert len(cloud.missing_drafts()) == 4
        effects = told(verify(cloud, writes(*TEXT)))
        assert effects[OWNER].tokens == effects[FIRST].tokens == (10, 11, 12, 13)

    def test_each_stream_is_told_what_became_of_its_own(self):
        cloud = shared_session(FIRST, SECOND_DRAFTER)
        cloud.draft(draft(1, (10, 11)), now=0)
        cloud.draft(draft(1, (10, 30)), now=0, stream=FIRST)
        effects = told(verify(cloud, writes(*TEXT)))
        assert figures(effects[OWNER]) == (2, 2, 2, 0)
        assert figures(effects[FIRST]) == (2, 1, 2, 0)
        assert figures(effects[SECOND_DRAFTER]) == (0, 0, 0, 0)
        assert (cloud.judged, cloud.accepted) == (2, 2)
        effects = told(verify(cloud, writes(*TEXT)))
        assert [figures(one) for one in effects.values()] == [(0, 0, 0, 0)] * 3, "counts are since the last"

    def test_a_wrong_draft_and_a_right_one_for_the_same_token_count_once(self):
        cloud = shared_session(FIRST)
        cloud.draft(draft(1, (30, 10), offsets=(0, 0)), now=0, stream=FIRST)
        effects = told(verify(cloud, writes(*TEXT)))
        assert figures(effects[FIRST]) == (1, 1, 2, 0)
        assert figures(effects[OWNER]) == (0, 0, 0, 0)

    def test_a_draft_that_is_dead_on_arrival_is_its_own_streams_loss(self):
        cloud = shared_session(FIRST)
        verify(cloud, writes(*TEXT))
        cloud.draft(draft(1, (30, 31)), now=0, stream=FIRST)
        effects = told(verify(cloud, writes(*TEXT)))
        assert (figures(effects[FIRST]), figures(effects[OWNER])) == ((0, 0, 2, 2), (0, 0, 0, 0))

    def test_ids_of_two_streams_are_two_numberings(self):
        cloud = shared_session(FIRST)
        cloud.draft(draft(1, (20, 21)), now=0)
        cloud.draft(draft(1, (10,)), now=0, stream=FIRST)
        cloud.draft(draft(2, (11,), offsets=(1,)), now=0, stream=FIRST)
        assert told(verify(cloud, writes(*TEXT)))[FIRST].tokens == (10, 11, 12)

    def test_nodes_of_a_stream_that_left_stay_and_count_for_nobody(self):
        cloud = shared_session(FIRST, limits=Limits(max_live_nodes=2))
        cloud.draft(draft(1, (10, 11)), now=0, stream=FIRST)
        cloud.leave(FIRST)
        cloud.draft(draft(1, (10, 20), offsets=(0, 0)), now=0)
        assert cloud.tree.live == 3
        effects = told(verify(cloud, writes(*TEXT)))
        assert list(effects) == [OWNER]
        assert effects[OWNER].tokens == (10, 11, 12)
        assert figures(effects[OWNER])[:2] == (1, 1)

    def test_streams_that_come_and_go_do_not_grow_the_tree_without_bound(self):
        cloud = session(limits=Limits(max_live_nodes=4, max_attached=2))

        def come_and_go() -> None:
            for stream in range(8, 100):
                cloud.attach(stream, now=0)
                first = stream * 4 % 90
                cloud.draft(draft(1, range(first, first + 4), offsets=(0,) * 4), now=0, stream=stream)
                cloud.leave(stream)

        with pytest.raises(ContractViolation, match="fill the tree") as caught:
            come_and_go()
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        assert cloud.tree.live <= 4 * 4
        verify(cloud, writes(*TEXT))
        cloud.attach(100, now=0)

    def test_only_the_owner_may_have_a_token_at_once(self):
        cloud = session(patience_us=1_000_000)
        cloud.attach(FIRST, now=0)
        cloud.draft(idle(START, step_now=True), now=0, stream=FIRST)
        assert cloud.end_due_at() == SECOND
        cloud.draft(idle(START, step_now=True), now=0)
        assert cloud.end_due_at() == 0

    def test_drafts_of_the_attached_do_not_carry_the_log_past_what_its_owner_may_miss(self):
        limits = Limits(run_ahead=4)
        cloud = shared_session(FIRST, limits=limits)
        text = writes(*range(10, 40))
        for position in range(4):
            cloud.draft(idle(START + position), now=0, stream=FIRST)
            cloud.draft(draft(position + 1, (10 + position,), root=START + position), now=0, stream=FIRST)
            assert cloud.end_due_at() is not None
            item = cloud.take((), now=0)
            cloud.learn(facts_of(item, text), verify_us=0, now=0)
        cloud.draft(draft(5, (14,), root=START + 4), now=0, stream=FIRST)
        assert cloud.end_due_at() is None
        cloud.draft(
            draft(1, (14,), root=START, offsets=(0,), seen=START), now=0
        )  # stale: what it has not seen
        assert cloud.end_due_at() is None
        cloud.draft(idle(START + 1), now=0)
        assert cloud.end_due_at() is not None

    def test_a_laggard_is_told_to_go_and_the_others_go_on(self):
        cloud = shared_session(FIRST, limits=Limits(run_ahead=2))
        effects: list[CloudEffect] = []
        for position in range(3):
            cloud.draft(idle(START + position), now=0)
            effects = verify(cloud, writes(*TEXT))
        (end,) = [e for e in effects if isinstance(e, EndStream)]
        assert (end.stream, end.status) == (FIRST, Status.RESOURCE_EXHAUSTED)
        assert "seen is 3 tokens behind the log, at most 2" in end.detail
        assert (cloud.attached, cloud.stream, cloud.over) == ((), OWNER, False)

    def test_a_closed_log_says_farewell_to_all(self):
        cloud = CloudSession(OWNER, OWNER, opening(room=1), model_info(), now=0)
        cloud.attach(FIRST, now=0)
        ends = verify(cloud, writes(*TEXT))[2:]
        farewell = Finish(FinishReason.LENGTH, START, 1)
        assert ends == [one for s in (OWNER, FIRST) for one in (Send(s, farewell), EndStream(s, Status.OK))]

    def test_logprobs_are_the_owners(self):
        cloud = session(want_logprobs=True)
        cloud.attach(FIRST, now=0)
        effects = told(verify(cloud, writes(*TEXT)))
        assert (len(effects[OWNER].logprobs), effects[FIRST].logprobs) == (1, ())


class Server:
    """A front with one session on stream 1, and whoever is attached to it."""

    def __init__(self, *attached: int, limits: Limits | None = None, **fields: object) -> None:
        pool = one_worker(FlatBudget())
        policies = CloudPolicies(prompt_lookup=False)
        self.front = CloudFront(model_info(limits=limits), pool, policies, owner_grace_s=GRACE_S)
        self.front.connect(1, TICKET)
        self.front.receive(1, opening(**fields), 0)
        for stream in attached:
            self.attach(stream)

    @property
    def session(self) -> CloudSession:
        (held,) = self.front._held
        return held.session

    def attach(self, stream: int, attach: Attach = ATTACH) -> list[CloudEffect]:
        assert self.front.connect(stream, Ticket(f"s{stream}", f"secret-{stream}")) == []
        return self.front.receive(stream, attach, 0)

    def reopen(
        self, stream: int, tokens: tuple[int, ...], now: int = 0, **fields: object
    ) -> list[CloudEffect]:
        again = {"prompt_length": START, "max_length": START + 20, "session_id": "s1", "secret": "secret-1"}
        self.front.connect(stream, Ticket(f"s{stream}", f"secret-{stream}"))
        return self.front.receive(stream, opening(tokens, **(again | fields)), now)

    def step(self, now: int = 0) -> list[CloudEffect]:
        step = self.front.next_step(now)
        assert step is not None
        items = [
            ItemOutcome(item.session, tuple(facts_of(item, writes(*TEXT))), item.length, 1)
            for item in step.items
        ]
        return self.front.complete(StepOutcome(tuple(items), 10), now)

    def nothing_is_left(self) -> bool:
        front = self.front
        return (front.streams, front.sessions, front.busy, len(list(front._held)), front.wake_at()) == (
            *(0, 0, 0, 0),
            None,
        )


class TestAttaching:
    def test_an_attached_stream_drafts_for_the_session_and_leaves_it(self):
        server = Server()
        (effect,) = server.attach(2)
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Attached)
        server.front.receive(2, draft(1, (10, 11)), 0)
        assert told(server.step())[1].tokens == (10, 11, 12)
        assert server.front.receive(2, Close(), 0) == [
            Send(2, Finish(FinishReason.CLOSED, START, 3)),
            EndStream(2, Status.OK),
        ]
        assert list(told(server.step())) == [1]
        assert (server.front.streams, server.front.sessions) == (1, 1)

    @pytest.mark.parametrize(
        ("attach", "status", "says"),
        [
            (Attach("s1", "secret-2"), Status.NOT_FOUND, NO_SUCH_SESSION),
            (Attach("s1", ""), Status.NOT_FOUND, NO_SUCH_SESSION),
            (Attach("s2", "secret-1"), Status.NOT_FOUND, NO_SUCH_SESSION),
            (Attach("s2", ""), Status.NOT_FOUND, NO_SUCH_SESSION),
            (Attach("", ""), Status.NOT_FOUND, NO_SUCH_SESSION),
            (Attach("s1", "ß"), Status.NOT_FOUND, NO_SUCH_SESSION),
            (
                Attach("s1", "secret-1", "model-b"),
                Status.FAILED_PRECONDITION,
                "the drafter needs model model-b",
            ),
            (Attach("s1", "secret-1", "", "t"), Status.FAILED_PRECONDITION, "the drafter needs tokenizer t"),
            (Attach("s1", "secret-1", protocol_version=2), Status.FAILED_PRECONDITION, "protocol version 2"),
        ],
    )
    def test_who_may_not_is_refused_and_nobody_notices(self, attach: Attach, status: Status, says: str):
        server = Server()
        (end,) = server.attach(2, attach)
        assert isinstance(end, EndStream)
        assert (end.stream, end.status) == (2, status)
        assert says in end.detail
        assert (server.front.streams, server.session.attached) == (1, ())

    def test_a_session_takes_so_many_and_no_more(self):
        server = Server(2, 3, limits=Limits(max_attached=2))
        (end,) = server.attach(4)
        assert isinstance(end, EndStream)
        assert (end.stream, end.status) == (4, Status.RESOURCE_EXHAUSTED)
        server.front.lost(3, 0)
        assert isinstance(server.attach(5)[0], Send)

    def test_no_limit_is_no_limit(self):
        assert len(Server(*range(2, 40), limits=Limits(max_attached=0)).session.attached) == 38

    @pytest.mark.parametrize("first", [opening(), ATTACH, opening(more=True)])
    def test_attach_comes_first_or_not_at_all(self, first: EdgeMessage):
        server = Server()
        server.front.connect(2, Ticket("s2", "x"))
        server.front.receive(2, first, 0)
        (end, *_) = server.front.receive(2, ATTACH, 0)
        assert isinstance(end, EndStream)
        assert (end.stream, end.status) == (2, Status.INVALID_ARGUMENT)

    def test_an_attached_stream_opens_nothing(self):
        (end,) = Server(2).front.receive(2, opening(), 0)
        assert isinstance(end, EndStream)
        assert (end.stream, end.status) == (2, Status.INVALID_ARGUMENT)

    @pytest.mark.parametrize(
        "message", [draft(3, (10,)), idle(START + 1), Close(START)], ids=["an id", "seen", "a position"]
    )
    def test_a_violation_ends_that_stream_alone(self, message: EdgeMessage):
        server = Server(2, 3)
        server.front.receive(2, draft(1, (10,)), 0)
        (end,) = server.front.receive(2, message, 0)
        assert isinstance(end, EndStream)
        assert (end.stream, end.status) == (2, Status.INVALID_ARGUMENT)
        effects = told(server.step())
        assert (list(effects), effects[1].tokens) == ([1, 3], (10, 11))

    def test_a_server_that_takes_none_says_so(self):
        front = CloudFront(replace(model_info(), takes_attached=False), one_worker(FlatBudget()))
        front.connect(1, TICKET)
        front.receive(1, opening(), 0)
        front.connect(2, Ticket("s2", "x"))
        (end,) = front.receive(2, ATTACH, 0)
        assert isinstance(end, EndStream)
        assert end.status is Status.INVALID_ARGUMENT

    def test_all_are_asked_to_move_on(self):
        assert Server(2).front.drain() == [Send(1, Drain()), Send(2, Drain())]

    def test_a_session_that_breaks_the_worker_ends_on_all_its_streams(self):
        server = Server(2)
        server.front.next_step(0)
        ends = server.front.broken("broken")
        assert ends == [EndStream(1, Status.INTERNAL, "broken"), EndStream(2, Status.INTERNAL, "broken")]
        server.step()
        assert server.nothing_is_left()


class TestOwner:
    def test_without_attached_streams_its_loss_is_the_end(self):
        server = Server(2)
        server.front.lost(2, 0)
        server.front.lost(1, 0)
        assert server.nothing_is_left()

    def test_with_them_the_session_goes_on_for_a_grace_and_is_over_then(self):
        server = Server(2)
        server.front.lost(1, SECOND)
        assert list(told(server.step(SECOND))) == [2]
        server.front.receive(2, draft(1, (11,), root=START + 1), SECOND)
        assert told(server.step(2 * SECOND))[2].tokens == (11, 12)
        end = round((1 + GRACE_S) * SECOND)
        assert server.front.next_step(2 * SECOND) is not None
        assert server.front.wake_at() == end
        assert server.front.tick(end - 1) == []
        (ended,) = server.front.tick(end)
        assert isinstance(ended, EndStream)
        assert (ended.stream, ended.status) == (2, Status.NOT_FOUND)
        assert server.front.sessions == 0
        assert server.front.tick(end + SECOND) == []

    def test_meanwhile_the_cloud_runs_no_further_ahead_than_ever(self):
        server = Server(2, limits=Limits(run_ahead=3))
        server.front.lost(1, 0)
        for _ in range(3):
            server.step()
            server.front.receive(2, idle(len(server.session.log)), 0)
        server.front.receive(2, draft(1, (13,), root=START + 3), 0)
        assert server.front.next_step(0) is None

    def test_the_last_attached_stream_takes_a_session_without_an_owner_along(self):
        server = Server(2)
        server.front.lost(1, 0)
        server.front.lost(2, 0)
        assert server.nothing_is_left()

    def test_it_comes_back_to_its_log_and_its_tree(self):
        server = Server(2)
        server.front.receive(2, draft(1, (10, 11, 12)), 0)
        server.front.lost(1, 0)
        before = server.session
        server.step()
        server.front.receive(2, draft(4, (14, 15), root=START + 4), 0)
        opened, commit = server.reopen(3, (*PROMPT, 10), SECOND)
        assert opened == Send(3, Opened("s1", "secret-1", 0, "model-a", Limits()))
        assert commit == Send(3, Commit(START + 1, (11, 12, 13)))
        assert server.session is before
        assert server.front.tick(100 * SECOND) == []
        server.front.receive(3, draft(1, (11, 12, 13, 14), root=START + 1), SECOND)
        effects = told(server.step(SECOND))
        assert effects[3].tokens == effects[2].tokens == (14, 15, 16)
        assert figures(effects[3]) == (1, 1, 4, 0)
        server.front.lost(3, SECOND)
        assert server.front.sessions == 1, "the grace begins anew"

    def test_it_comes_back_before_its_loss_was_noticed(self):
        server = Server()
        server.step()
        ended, opened, commit = server.reopen(3, PROMPT)
        assert isinstance(ended, EndStream)
        assert (ended.stream, ended.status) == (1, Status.FAILED_PRECONDITION)
        assert isinstance(opened, Send)
        assert commits([commit])[0].tokens == (10,)
        assert server.front.receive(1, draft(1, (11,)), 0) == []
        server.front.lost(1, 0)
        assert (server.front.streams, server.front.sessions, server.session.stream) == (1, 1, 3)

    def test_it_lacks_nothing(self):
        server = Server()
        server.step()
        assert [type(one).__name__ for one in server.reopen(3, (*PROMPT, 10))] == ["EndStream", "Send"]

    def test_logprobs_come_back_too(self):
        server = Server(want_logprobs=True)
        server.step()
        commit = commits(server.reopen(3, PROMPT, want_logprobs=True))[0]
        assert (commit.tokens, commit.logprobs) == ((10,), (0.0,))

    @pytest.mark.parametrize(
        ("tokens", "fields"),
        [
            ((*PROMPT, 99), {}),
            ((*PROMPT, 10, 11, 12), {}),
            ((*PROMPT, 10), {"sampling": SamplingParams(1.0)}),
            ((*PROMPT, 10), {"max_length": START + 21}),
            ((*PROMPT, 10), {"stop_tokens": (4,)}),
            ((*PROMPT, 10), {"prompt_length": START - 1}),
        ],
        ids=["another token", "longer", "sampling", "max_length", "stop tokens", "prompt_length"],
    )
    def test_what_is_no_continuation_opens_anew_and_the_old_session_is_over(self, tokens, fields):
        server = Server(2)
        server.step()
        server.front.lost(1, 0)
        ended, opened = server.reopen(3, tokens, **fields)
        assert isinstance(ended, EndStream)
        assert (ended.stream, ended.status) == (2, Status.NOT_FOUND)
        assert isinstance(opened, Send)
        assert isinstance(opened.message, Opened)
        assert opened.message.session_id == "s3"
        assert (server.front.streams, server.front.sessions) == (1, 1)

    @pytest.mark.parametrize("named", [{"secret": "wrong"}, {"session_id": "s9"}, {"session_id": ""}])
    def test_a_stranger_opens_a_session_of_its_own_and_the_other_goes_on(self, named: dict[str, str]):
        server = Server(2)
        (opened,) = server.reopen(3, PROMPT, **named)
        assert isinstance(opened, Send)
        assert isinstance(opened.message, Opened)
        assert opened.message.session_id == "s3"
        assert server.front.sessions == 2

    def test_coming_back_is_held_to_the_rules_of_an_open(self):
        server = Server(2)
        server.front.lost(1, 0)
        (end,) = server.reopen(3, PROMPT, model_fingerprint="model-b")
        assert isinstance(end, EndStream)
        assert end.status is Status.FAILED_PRECONDITION
        assert server.session.attached == (2,)

    def test_it_takes_no_place_of_its_own(self):
        server = Server(2, limits=Limits(max_sessions=1))
        server.front.lost(1, 0)
        (opened,) = server.reopen(3, PROMPT)
        assert isinstance(opened, Send)

    def test_its_violation_is_the_end_for_all(self):
        server = Server(2)
        ends = server.front.receive(1, draft(3, (10,)), 0)
        assert [(e.stream, e.status) for e in ends if isinstance(e, EndStream)] == [
            (1, Status.INVALID_ARGUMENT),
            (2, Status.NOT_FOUND),
        ]
        assert server.nothing_is_left()

    def test_its_close_is_the_end_for_all(self):
        server = Server(2)
        effects = server.front.receive(1, Close(START), 0)
        farewell = Finish(FinishReason.CLOSED, START, 0)
        assert effects == [one for s in (1, 2) for one in (Send(s, farewell), EndStream(s, Status.OK))]
        assert server.nothing_is_left()

    def test_a_half_closed_stream_is_a_lost_one(self):
        server = Server(2)
        (end,) = server.front.half_closed(1, 0)
        assert isinstance(end, EndStream)
        assert (end.stream, end.status) == (1, Status.CANCELLED)
        assert server.front.sessions == 1
        assert isinstance(server.reopen(3, PROMPT)[0], Send)
        assert server.front.half_closed(1, 0) == []

    def test_only_its_silence_counts(self):
        server = Server(2, limits=Limits(run_ahead=1))
        server.step()
        assert server.front.silent(2) == []
        assert server.front.silent(1) != []


class TestWatching:
    def test_it_is_told_of_every_session_once(self):
        server = Server()
        assert server.front.watch(5) == [Announce(5, SessionNotice("s1", "secret-1"))]
        server.front.connect(6, Ticket("s6", "secret-6"))
        effects = server.front.receive(6, opening(), 0)
        assert effects[1:] == [Announce(5, SessionNotice("s6", "secret-6"))]
        server.front.lost(6, 0)
        assert server.reopen(7, PROMPT)[1:] == [
            Send(7, Opened("s1", "secret-1", 0, "model-a", Limits())),
        ], "one that goes on is none that was opened"

    def test_it_is_no_waiting_stream_and_leaves_nothing(self):
        server = Server()
        server.front.watch(5)
        assert (server.front.streams, server.front.busy) == (2, 2)
        server.front.lost(5, 0)
        assert (server.front.streams, server.front.busy) == (1, 1)
        server.front.connect(6, Ticket("s6", "secret-6"))
        assert len(server.front.receive(6, opening(), 0)) == 1

    def test_a_server_that_drains_is_watched_no_more(self):
        server = Server()
        server.front.watch(5)
        (_, ended) = server.front.drain()
        assert isinstance(ended, EndStream)
        assert (ended.stream, ended.status) == (5, Status.UNAVAILABLE)
        (refused,) = server.front.watch(6)
        assert isinstance(refused, EndStream)
