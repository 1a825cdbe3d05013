"""Processes: how lucky a drafter is and in what order, as functions of the prefix that leave the target alone."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from shared.acceptance import Iid, Markov, Process, Profiled, Recorded, make_pair, parse_pair
from shared.drafter_trace import DrafterTrace, Guess, TraceSource, write_trace
from shared.errors import UserError
from shared.profiled import Profile, ProfiledPair, decode, mix
from shared.sim.repeating import RepeatingPair

PROFILE = Profile(acceptance=0.8, vocabulary_size=1000)
STICKY = Markov(easy=0.95, hard=0.4, stay_easy=0.9, stay_hard=0.8)
TOKENS = 400
PROMPTS = 50


def recording() -> DrafterTrace:
    """Texts of different lengths; every guess tells by its first cost where it is from."""
    texts = []
    for number, length in enumerate((5, 90, 31)):
        ranks = [
            None if mix(number * 1000 + at) % 4 == 0 else mix(number * 1000 + at) % 3 for at in range(length)
        ]
        texts.append(
            tuple(Guess(rank, (0.01 * number + 0.0001 * at, 2.0, 3.0)) for at, rank in enumerate(ranks))
        )
    return DrafterTrace(tuple(texts), TraceSource("target", "drafter", "prompts"))


TRACE = recording()


def repr_of(process: Process) -> str:
    return type(process).__name__


PROCESSES: tuple[Process, ...] = (Profiled(), Iid(), STICKY, Recorded(TRACE))


def walk(pair: ProfiledPair, prompt: Sequence[int], tokens: int) -> list[int]:
    """States along the target's own text."""
    state, states = pair.state(prompt), []
    for _ in range(tokens):
        states.append(state)
        state = pair.follow(state, pair.target(state))
    return states


def walks(pair: ProfiledPair) -> list[list[int]]:
    return [walk(pair, (mix(number) % 1000, 1, 2), TOKENS) for number in range(PROMPTS)]


def hit(pair: ProfiledPair, state: int, rank: int = 0) -> bool:
    return pair.candidates(state, 8)[rank].token == pair.target(state)


# ---- all of them ----


@pytest.mark.parametrize("process", PROCESSES, ids=repr_of)
def test_the_target_is_the_same_whoever_drafts(process: Process):
    plain, pair = ProfiledPair(PROFILE), make_pair(PROFILE, process)
    for prompt in ((), (1,), (5, 6, 7), tuple(range(40))):
        assert decode(pair, prompt, 60) == decode(plain, prompt, 60)


@pytest.mark.parametrize("process", PROCESSES, ids=repr_of)
def test_any_target_may_be_drafted(process: Process):
    other = RepeatingPair(PROFILE, 0.5)
    pair = make_pair(PROFILE, process, other)
    assert decode(pair, (1, 2), 80) == decode(other, (1, 2), 80)
    states = [state for one in walks(pair) for state in one]
    right = sum(hit(pair, state) for state in states) / len(states)
    assert right == pytest.approx(pair.profile.acceptance, abs=0.03)


def test_a_target_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="a target of 64 tokens, and a drafter of 1000"):
        make_pair(PROFILE, STICKY, ProfiledPair(Profile(vocabulary_size=64)))


@pytest.mark.parametrize("process", PROCESSES, ids=repr_of)
def test_a_guess_is_a_function_of_the_prefix(process: Process):
    """However a prefix is come by: at once, token by token, or as a draft that was verified."""
    one, two = make_pair(PROFILE, process), make_pair(PROFILE, process)
    text = (3, 1, *decode(one, (3, 1), 12), 7, 7, *range(5))
    state = two.state(())
    for length, token in enumerate(text):
        assert one.state(text[:length]) == state
        assert one.candidates(state, 4) == two.candidates(state, 4)
        state = two.follow(state, token)


@pytest.mark.parametrize("process", PROCESSES, ids=repr_of)
def test_candidates_are_different_tokens_likeliest_first(process: Process):
    pair = make_pair(PROFILE, process)
    for state in walk(pair, (4,), 200):
        found = pair.candidates(state, 8)
        assert len({one.token for one in found}) == len(found)
        assert all(0 <= one.token < 1000 for one in found)
        assert [one.cost for one in found] == sorted(one.cost for one in found)
        assert pair.candidates(state, 2) == found[:2]


@pytest.mark.parametrize("process", PROCESSES, ids=repr_of)
def test_the_pair_says_how_often_it_is_right(process: Process):
    pair = make_pair(PROFILE, process)
    states = [state for one in walks(pair) for state in one]
    right = sum(hit(pair, state) for state in states) / len(states)
    assert right == pytest.approx(pair.profile.acceptance, abs=0.02)


def test_it_is_the_same_in_every_process():
    program = (
        "from shared.acceptance import *; from shared.profiled import *\n"
        "pair = make_pair(Profile(seed=4), Markov()); state = pair.state((1, 2))\n"
        "for _ in range(30): print(pair.candidates(state, 3)); state = pair.follow(state, pair.target(state))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


# ---- moods ----


def moods(pair: ProfiledPair) -> np.ndarray:
    """Along the target's texts: 1 easy, 0 hard; [texts, tokens]."""
    return np.array([[pair.confidence(state) > 0.9 for state in one] for one in walks(pair)], float)


@pytest.mark.parametrize("process", [STICKY, Markov(stay_easy=0.3, stay_hard=0.2), Markov(stay_hard=0.0)])
def test_moods_have_their_share_and_their_memory(process: Markov):
    found = moods(make_pair(PROFILE, process))
    assert found.mean() == pytest.approx(process.easy_share, abs=0.02)
    assert found[:, 0].mean() == pytest.approx(process.easy_share, abs=0.2)  # from the first token on
    for lag in (1, 2, 5):
        got = np.corrcoef(found[:, :-lag].ravel(), found[:, lag:].ravel())[0, 1]
        assert got == pytest.approx(process.autocorrelation**lag, abs=0.04)


def test_a_mood_lasts_as_long_as_it_is_likely_to():
    found = moods(make_pair(PROFILE, STICKY))
    stays = [found[:, 1:][found[:, :-1] == mood] == mood for mood in (1.0, 0.0)]
    assert [one.mean() for one in stays] == pytest.approx([STICKY.stay_easy, STICKY.stay_hard], abs=0.02)


def test_in_each_mood_the_drafter_is_right_as_often_as_it_says():
    pair = make_pair(PROFILE, STICKY)
    states = [state for one in walks(pair) for state in one]
    for acceptance in (STICKY.easy, STICKY.hard):
        of_mood = [state for state in states if pair.confidence(state) == acceptance]
        assert sum(hit(pair, state) for state in of_mood) / len(of_mood) == pytest.approx(
            acceptance, abs=0.02
        )


def test_hits_come_in_runs_and_independent_ones_do_not():
    """What the process is for: the same acceptance, another order."""
    process = Markov(easy=0.95, hard=0.35, stay_easy=0.95, stay_hard=0.95)
    lag_one = []
    for pair in (make_pair(PROFILE, process), make_pair(Profile(process.acceptance), Iid())):
        hits = np.array([[hit(pair, state) for state in one] for one in walks(pair)], float)
        lag_one.append(np.corrcoef(hits[:, :-1].ravel(), hits[:, 1:].ravel())[0, 1])
    assert lag_one[0] > 0.25
    assert abs(lag_one[1]) < 0.03


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"easy": 1.2}, "easy 1.2 is outside 0..1"),
        ({"hard": math.nan}, "hard nan"),
        ({"stay_easy": -0.1}, "stay_easy"),
        ({"easy": 0.5, "hard": 0.6}, "hard 0.6 is above easy 0.5"),
        ({"stay_easy": 1.0, "stay_hard": 1.0}, "would never change"),
    ],
)
def test_moods_out_of_range_are_refused(values: dict[str, float], says: str):
    with pytest.raises(ValueError, match=says):
        Markov(**values)


# ---- a recording ----


def test_a_recording_is_replayed_in_its_order():
    """Along the target's text: the next guess of the same text, and after its last the first of another."""
    pair = make_pair(PROFILE, Recorded(TRACE))
    flat = [(number, at) for number, text in enumerate(TRACE.texts) for at in range(len(text))]
    for one in walks(pair)[:10]:
        places = [flat[state >> 128] for state in one]
        for (number, at), (then, where) in itertools.pairwise(places):
            last = at + 1 == len(TRACE.texts[number])
            assert where == 0 if last else (then, where) == (number, at + 1)


def test_a_replay_says_what_the_drafter_said():
    pair = make_pair(PROFILE, Recorded(TRACE))
    flat = [guess for text in TRACE.texts for guess in text]
    for state in walk(pair, (9,), 300):
        guess, target = flat[state >> 128], pair.target(state)
        found = pair.candidates(state, 8)
        assert tuple(one.cost for one in found) == guess.costs
        ranks = [rank for rank, one in enumerate(found) if one.token == target]
        assert ranks == ([] if guess.rank is None else [guess.rank])


def test_prompts_start_in_different_places_and_visit_every_place_alike():
    pair = make_pair(PROFILE, Recorded(TRACE))
    starts = {pair.state((prompt,)) >> 128 for prompt in range(300)}
    assert len(starts) > 0.8 * TRACE.tokens
    visits = np.bincount([state >> 128 for one in walks(pair) for state in one], minlength=TRACE.tokens)
    share = visits / visits.sum() * TRACE.tokens
    ends = np.cumsum([len(text) for text in TRACE.texts])
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        assert share[first:last].mean() == pytest.approx(1.0, abs=0.25)


def test_off_the_targets_path_the_marginal_statistics_hold():
    """After a wrong token, where nothing was recorded: any place, as likely as any other."""
    pair = make_pair(PROFILE, Recorded(TRACE))
    wrong = 17  # of a thousand tokens, it is hardly ever the target's
    states = [pair.state((number, wrong)) for number in range(6000)]
    for rank in range(3):
        got = sum(hit(pair, state, rank) for state in states) / len(states)
        assert got == pytest.approx(TRACE.right(rank), abs=0.02)


# ---- from a line ----


def test_a_pair_is_read_from_a_line(tmp_path):
    write_trace(TRACE, tmp_path / "t.npz")
    assert parse_pair("profiled").profile == Profile()
    assert parse_pair("profiled:acceptance=0.5,process=iid").profile == Profile(0.5, iid=True)
    moody = parse_pair("profiled:process=markov,easy=0.9,hard=0.5,stay_easy=0.8,stay_hard=0.8,seed=3")
    assert moody.profile == Profile(0.7, seed=3)
    assert moody.confidence(moody.state((1,))) in (0.9, 0.5)
    replayed = parse_pair(f"profiled:draft_ms=2,process=trace,trace={tmp_path / 't.npz'}")
    assert replayed.profile == Profile(TRACE.acceptance, draft_ms=2.0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("profiled:process=luck", "process 'luck' is not one of profiled, iid, markov, trace"),
        ("profiled:easy=0.9", "easy is not taken by process=profiled"),
        ("profiled:process=markov,easy=x", "easy='x' is not a number"),
        ("profiled:process=markov,easy=2", "easy 2.0 is outside 0..1"),
        ("profiled:process=trace", "process=trace needs trace=FILE"),
        ("profiled:process=trace,trace=nowhere.npz", "trace nowhere.npz cannot be read"),
        ("profiled:process=iid,accept=1", "accept"),
    ],
)
def test_a_line_that_says_nothing_sensible_is_refused(line: str, says: str):
    with pytest.raises(UserError, match=says):
        parse_pair(line)
