"""Synchronous speculation counted on texts, against blocks by hand and against the product's own machines."""

from __future__ import annotations

import pytest

from edge_client.policies import DraftOptions, Mode, policies_for
from scripts.bench_dsi.counting import si_tpot_ms
from scripts.bench_latency.arms import PLAIN
from scripts.reproduce.texts import best_si, blocks, hits
from shared.profiled import Profile, ProfiledPair, decode
from shared.sim.predict import default_reconnect, predict, random_prompt

PAIR = Profile(acceptance=0.7, step_ms=30.0, draft_ms=3.0, iid=True)
RIGHT, WRONG = True, False


def test_blocks_by_hand():
    # R R | (the bonus), R W (corrected), and one token that no draft is needed for.
    found = blocks((RIGHT, RIGHT, RIGHT, RIGHT, WRONG, WRONG), 2)
    assert (found.blocks, found.drafts, found.rejected) == (3, 4, 1)
    assert found.time_ms(PAIR) == 3 * 30 + 4 * 3
    assert found.time_ms(PAIR, rtt_ms=10.0) == 3 * 40 + 4 * 3
    assert found.time_ms(PAIR, as_paper=True) == 4 * 30 + 4 * 3


def test_never_right_is_a_block_for_each_token():
    found = blocks((WRONG,) * 10, 4)
    assert (found.blocks, found.rejected) == (10, 9)  # the last one drafts nothing, so nothing is rejected


def test_always_right_rejects_nothing():
    found = blocks((RIGHT,) * 10, 4)
    assert (found.blocks, found.drafts, found.rejected) == (2, 8, 0)


def test_hits_are_those_of_the_target_s_own_text():
    prompt = random_prompt(3, 16, PAIR.vocabulary_size)
    pair = ProfiledPair(PAIR)
    text = decode(pair, prompt, 50)
    guessed = [pair.candidates(pair.state((*prompt, *text[:at])), 1)[0].token for at in range(50)]
    assert hits(PAIR, 3, 50) == tuple(guess == token for guess, token in zip(guessed, text, strict=True))


@pytest.mark.parametrize("lookahead", [1, 3, 8])
@pytest.mark.parametrize("rtt_ms", [0.0, 40.0])
def test_what_is_counted_is_what_the_machines_do(lookahead, rtt_ms):
    tokens, draft = 120, DraftOptions(mode=Mode.SYNC, lookahead=lookahead)
    one = predict(
        PAIR,
        policies_for(draft, draft.shape_for(), default_reconnect(), PAIR.context_length),
        rtt_ms=rtt_ms,
        tokens=tokens,
        patience_us=2_000_000,
        cloud=PLAIN,
    )
    counted = blocks(hits(PAIR, 0, tokens), lookahead).time_ms(PAIR, rtt_ms=rtt_ms)
    # The machines draft their last block to its end.
    assert counted <= one.ttft_ms + (tokens - 1) * one.tpot_ms + 1e-6
    assert one.ttft_ms + (tokens - 1) * one.tpot_ms <= counted + lookahead * PAIR.draft_ms + 1e-6


def test_counting_meets_the_formula():
    _, ms = best_si(PAIR, range(20), 400, [4])
    assert ms / 400 == pytest.approx(si_tpot_ms(PAIR, 4), rel=0.03)
    _, ms = best_si(PAIR, range(20), 400, [4], as_paper=True)
    assert ms / 400 == pytest.approx(si_tpot_ms(PAIR, 4, as_paper=True), rel=0.03)


def test_the_best_lookahead_is_the_best():
    best, ms = best_si(PAIR, range(3), 200, range(1, 12))
    assert ms == min(best_si(PAIR, range(3), 200, [one])[1] for one in range(1, 12))
    assert best_si(PAIR, range(3), 200, range(1, 12), rtt_ms=100.0)[0] > best
