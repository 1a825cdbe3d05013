"""EdgeSession: what it sends, what it drafts, and what it makes of commits."""

from __future__ import annotations

import pytest

from shared.messages import (
    Drain,
    Limits,
    Open,
)
from shared.policy.expansion import BestFirst, Candidate
from shared.policy.pacing import Block
from shared.sampling import SamplingParams
from shared.session.edge import (
    Connect,
    Emit,
    SendUp,
)
from tests.shared.session.builders import PROMPT
from tests.shared.session.edge_bench import START, TEXT, Bench, forwards, ids, next_tokens, sent, triple

# ---- opening ----


def test_it_connects_and_drafts_meanwhile():
    bench = Bench().start(now=5)
    assert bench.effects[0] == Connect(1, 5)
    (forward,) = forwards(bench.effects)
    assert (tuple(forward.log[: forward.log_length]), forward.paths, forward.width) == (PROMPT, ((),), 1)
    bench.chain(10, 11)
    assert sent(bench.effects) == []
    news = bench.connected()
    assert isinstance(news[0], SendUp)
    assert isinstance(news[0].message, Open)
    assert [triple(one) for one in sent(news)] == [(1, START, (10, 11), (0, 1))]  # before it is Opened


def test_while_there_is_no_stream_it_drafts_a_window_and_no_more():
    bench = Bench(window=3).start()
    bench.chain(10, 11, 12)
    assert len(bench.forwards) == 3
    assert bench.session.tree.live == 3


def test_it_opens_with_what_it_wants_and_the_fingerprints_of_the_first_server():
    bench = Bench(stop=(50,), room=9, patience_us=70).start()
    (opening,) = [effect.message for effect in bench.connected() if isinstance(effect, SendUp)]
    assert opening == Open(
        tokens=PROMPT,
        prompt_length=START,
        max_length=START + 9,
        sampling=SamplingParams(),
        stop_tokens=(50,),
        model_fingerprint="model-a",
        tokenizer_fingerprint="tokenizer-a",
        patience_us=70,
    )


def test_a_prompt_longer_than_a_message_goes_in_parts():
    bench = Bench(limits=Limits(max_message_bytes=64), prompt=tuple(range(1, 21))).start()
    parts = [effect.message for effect in bench.connected() if isinstance(effect, SendUp)]
    assert all(isinstance(part, Open) for part in parts)
    assert [len(part.tokens) for part in parts] == [8, 8, 4]


# ---- drafts ----


def test_each_forwards_nodes_go_up_at_once_and_name_their_parents_by_offset():
    bench = Bench(window=10, expansion=BestFirst(branches=2, width=2)).open()
    first = bench.drafted((10, 20))
    assert [triple(one) for one in sent(first)] == [(1, START, (10, 20), (0, 0))]
    (forward,) = forwards(first)
    assert forward.paths == ((10,), (20,))
    second = bench.drafted((11, 12), (21, 22))
    assert [triple(one) for one in sent(second)] == [(3, START, (11, 12, 21, 22), (2, 3, 3, 4))]


def test_the_end_is_offset_0_at_the_edges_own_log_length():
    bench = Bench(window=10).open()
    bench.chain(10, 11)
    bench.commit(10)
    news = bench.chain(12, 13)
    assert [triple(one) for one in sent(news)] == [(3, START + 1, (12,), (1,)), (4, START + 1, (13,), (1,))]
    bench.commit(11, 12, 13)
    assert [triple(one) for one in sent(bench.drafted(14))] == [(5, START + 4, (14,), (0,))]
    assert sent(bench.effects)[-1].seen == START + 4


def test_costs_travel_in_sixteenths_of_a_nat_and_are_capped():
    bench = Bench(expansion=BestFirst(branches=1, width=3, max_cost=1e9)).open()
    candidates = [Candidate(10, 0.5), Candidate(11, 2.0), Candidate(12, 1000.0)]
    news = bench.apply(bench.session.drafted([candidates], 0))
    assert sent(news)[0].costs == (8, 32, 255)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_never_more_than_the_window_is_in_flight(window: int):
    bench = Bench(window=window, expansion=BestFirst(branches=2, width=4, max_cost=1e9)).open()
    text = iter(range(10, 90))
    for turn in range(12):
        if bench.session._forwarding is not None:
            bench.drafted(*((50 + turn, 60 + turn, 70 + turn, 80 + turn),) * len(bench.forwards[-1].keys))
        if turn % 3 == 2:
            bench.commit(next(text))
    assert bench.widest == window


def test_no_more_is_in_flight_than_the_cloud_holds():
    bench = Bench(window=100, limits=Limits(max_live_nodes=3)).open()
    bench.chain(10, 11, 12)
    assert bench.session.in_flight == 3
    assert bench.session._forwarding is None


def test_a_drafter_faster_than_the_message_rate_shares_messages_and_loses_nothing():
    """An honest edge never breaks the contract's rate, however fast its drafter and short its link."""
    rate, step = 100, 1_000_000
    bench = Bench(window=50, room=900, limits=Limits(max_messages_per_second=rate, max_depth=900)).open()
    sizes: list[int] = []
    for turn in range(1000):
        news = bench.drafted(5 + turn % 90, now=turn * step) if bench.session._forwarding is not None else []
        if bench.session.in_flight > 40:
            news += bench.commit(*next_tokens(bench.session, 10), now=turn * step)
        sizes += [len(one.tokens) for one in sent(news)]
    assert len(sizes) <= 1.45 * rate
    assert max(sizes) > 1
    given = [identity for one in sent(bench.effects) for identity in ids(one)]
    assert given == list(range(1, len(given) + 1))
    assert len(given) == bench.session.counts.drafted - bench.session.pending


def test_reports_of_seen_do_not_wait_for_the_rate():
    bench = Bench(drafts=False, room=900, limits=Limits(max_messages_per_second=4, run_ahead=4)).open()
    for turn in range(50):
        assert len(sent(bench.commit(10 + turn % 9))) == 1


def test_a_message_carries_no_more_nodes_than_it_may():
    bench = Bench(
        window=10, expansion=BestFirst(branches=1, width=5), limits=Limits(max_nodes_per_message=2)
    ).open()
    assert [one.tokens for one in sent(bench.drafted((10, 11, 12, 13, 14)))] == [(10, 11), (12, 13), (14,)]


def test_it_drafts_no_deeper_than_the_cloud_takes():
    bench = Bench(window=10, limits=Limits(max_depth=2)).open()
    bench.chain(10, 11)
    assert bench.session._forwarding is None
    assert [one.tokens for one in sent(bench.effects)] == [(10,), (11,)]


def test_it_drafts_no_further_than_the_log_can_grow():
    bench = Bench(window=10, room=2).open()
    bench.chain(10, 11)
    assert bench.session._forwarding is None


def test_nothing_is_drafted_after_a_stop_token():
    bench = Bench(window=10, stop=(50,)).open()
    bench.chain(10, 50)
    assert bench.session._forwarding is None
    assert sent(bench.effects)[-1].tokens == (50,)


def test_it_drafts_no_further_than_its_drafter_can_see():
    bench = Bench(window=10, draft_context=START + 2).open()
    bench.chain(10, 11, 12)
    assert bench.session._forwarding is None


def test_an_unlikely_node_takes_no_place():
    bench = Bench(window=10, expansion=BestFirst(branches=1, width=3, max_cost=2.0)).open()
    candidates = [Candidate(10, 0.5), Candidate(11, 1.9), Candidate(12, 2.1)]
    assert sent(bench.apply(bench.session.drafted([candidates], 0)))[0].tokens == (10, 11)


# ---- blocks ----


def test_a_block_is_one_message_and_is_waited_for():
    bench = Bench(window=3, pacing=Block(3)).open()
    news = bench.chain(10, 11, 12)
    assert [triple(one) for one in sent(news)] == [(1, START, (10, 11, 12), (0, 1, 1))]
    assert bench.session._forwarding is None
    news = bench.commit(10, 11, 50)
    assert sent(news) == []
    assert [forward.paths for forward in forwards(news)] == [((),)]
    assert [triple(one) for one in sent(bench.chain(20, 21, 22))] == [(4, START + 3, (20, 21, 22), (0, 1, 1))]


def test_a_block_that_is_right_throughout_is_followed_from_the_bonus_token():
    bench = Bench(window=2, pacing=Block(2)).open()
    bench.chain(10, 11)
    (forward,) = forwards(bench.commit(10, 11, 12))
    assert forward.log[: forward.log_length] == [*PROMPT, 10, 11, 12]


def test_a_block_shortens_where_no_forward_can_lengthen_it():
    bench = Bench(window=5, pacing=Block(5), room=2).open()
    assert [one.tokens for one in sent(bench.chain(10, 11))] == [(10, 11)]


def test_a_drafter_that_has_nothing_to_say_asks_for_a_token_once_an_end_where_the_cloud_would_wait():
    bench = Bench(window=3, pacing=Block(3), patience_us=5_000_000, draft_context=START).open()
    bench.drafted(10)
    assert [one.tokens for one in sent(bench.effects)] == [(10,)]
    news = bench.commit(10)  # beyond the drafter's reach from here on
    assert [(one.tokens, one.step_now, one.seen) for one in sent(news)] == [((), True, START + 1)]
    assert sent(bench.receive(Drain())) == []
    assert [one.step_now for one in sent(bench.commit(11))] == [True]


def test_where_the_cloud_does_not_wait_nothing_is_asked():
    bench = Bench(draft_context=START, patience_us=0).open()
    bench.drafted(10)
    assert sent(bench.commit(10)) == []


# ---- commits ----


def test_a_commit_is_final_for_the_user_and_drops_what_it_contradicts_before_drafting_on():
    bench = Bench(window=4).open()
    bench.chain(10, 11, 12, 13)
    assert bench.session.in_flight == 4
    news = bench.commit(10, 50)
    assert news[0] == Emit(START, (10, 50))
    assert (bench.session.in_flight, bench.session.tree.live) == (0, 0)
    (forward,) = forwards(news)
    assert (forward.log_length, forward.paths) == (START + 2, ((),))


def test_a_late_forward_on_a_dead_node_is_dropped_and_the_live_ones_are_kept():
    bench = Bench(window=20, expansion=BestFirst(branches=2, width=2)).open()
    bench.drafted((10, 20))
    assert bench.forwards[-1].paths == ((10,), (20,))
    bench.commit(20)
    news = bench.drafted((11, 12), (21, 22))
    assert [triple(one) for one in sent(news)] == [(3, START + 1, (21, 22), (0, 0))]
    assert bench.session.counts.drafted == 4


def test_a_late_forward_on_the_old_end_is_dropped():
    bench = Bench().open()
    bench.commit(10)
    news = bench.drafted(20)
    assert sent(news) == []
    (forward,) = forwards(news)
    assert forward.log_length == START + 1


def test_a_drafter_that_repeats_itself_adds_one_node():
    bench = Bench(expansion=BestFirst(branches=1, width=3)).open()
    assert sent(bench.drafted((10, 10, 11)))[0].tokens == (10, 11)


def test_a_forward_is_answered_once():
    bench = Bench().open()
    bench.drafted(10)
    bench.drafted(11)
    bench.session._forwarding = None
    with pytest.raises(ValueError, match="no forward is out"):
        bench.session.drafted([[]], 0)


def test_seen_alone_is_reported_before_the_cloud_has_to_stop():
    bench = Bench(drafts=False, limits=Limits(run_ahead=32)).open()  # reported every 2 tokens
    news = [sent(bench.commit(token)) for token in TEXT]
    assert [len(one) for one in news] == [0, 1, 0, 1, 0, 1]
    (draft,) = news[3]
    assert (draft.tokens, draft.first_node, draft.seen, draft.step_now) == ((), 0, START + 4, False)


def test_drafts_report_seen_themselves():
    bench = Bench(window=10, limits=Limits(run_ahead=32)).open()
    for token in TEXT:
        news = [*bench.drafted(token), *bench.commit(token)]
        assert all(one.tokens for one in sent(news))
