"""Prompt lookup: what it finds, what it costs, and that it knows what its guesses are worth."""

from __future__ import annotations

import random

import pytest

from shared.policy.lookup import LONGEST, MOST_GUESSES, SHORTEST, PromptLookup, SuffixIndex


def brute(log: list[int], length: int, window: int) -> int:
    """Equal tokens of the best earlier place."""
    best = 0
    for end in range(max(SHORTEST, length - window + 1), length):
        equal = 0
        while equal < min(LONGEST, end) and log[end - 1 - equal] == log[length - 1 - equal]:
            equal += 1
        best = max(best, equal)
    return best if best >= SHORTEST else 0


@pytest.mark.parametrize(("alphabet", "window"), [(3, 64), (12, 64), (40, 256), (1, 32)])
def test_the_index_finds_what_a_search_finds(alphabet: int, window: int):
    source = random.Random(alphabet)
    log = [source.randrange(alphabet) for _ in range(600)]
    index = SuffixIndex(window=window, tries=window)
    for length in range(1, len(log)):
        index.extend(log, length)
        found = index.match(log, length)
        assert (found[1] if found else 0) == brute(log, length, window), length
        if found:
            place, equal = found
            assert length - window < place < length
            assert log[place - equal : place] == log[length - equal : length]


def test_of_equally_long_places_the_latest_counts():
    log = [1, 2, 7, 1, 2, 8, 1, 2]
    index = SuffixIndex()
    index.extend(log, len(log))
    assert index.match(log, len(log)) == (5, 2)


def test_memory_and_work_are_bounded_however_long_the_log():
    index = SuffixIndex(window=64, tries=4)
    log = [1, 2] * 5000
    index.extend(log, len(log))
    assert len(index._heads) == len(index._before) == 64
    assert index.match(log, len(log)) is not None


def test_where_nothing_comes_back_there_is_nothing_to_guess():
    lookup, log = PromptLookup(), list(range(500))
    for length in range(1, 500):
        assert lookup.guess(log, length) == []
    assert lookup.counts.judged == 0


def test_a_copy_is_guessed_in_long_chains_and_an_end_of_the_log_repeats_itself():
    text = list(range(100, 130))
    lookup = PromptLookup()
    log = [*text, 5, 5, *text]
    chain = [guess.token for guess in lookup.guess(log[:36], 36)]
    assert chain == text[4 : 4 + len(chain)]
    assert 4 <= len(chain) <= MOST_GUESSES
    assert {guess.token for guess in PromptLookup().guess([7] * 20, 20)} == {7}


def test_chances_follow_what_came_true():
    log = [1, 2, 3] * 60
    lookup = PromptLookup()
    for length in range(3, len(log)):
        lookup.guess(log, length)
    assert lookup.chance(LONGEST) > 0.95
    assert lookup.counts.right == lookup.counts.judged > 100


def test_guesses_that_never_come_true_are_soon_worth_nothing_and_that_is_noticed_without_a_step():
    log: list[int] = []
    lookup = PromptLookup()
    first = lookup.chance(SHORTEST)
    for turn in range(60):  # the same two tokens each time, and never the same after them
        for token in (1, 2, 100 + turn):
            log.append(token)
            lookup.guess(log, len(log))
    assert lookup.chance(SHORTEST) < 0.05 < first
    assert lookup.counts.right == 0
    for token in (1, 2, 3) * 20:
        log.append(token)
        lookup.guess(log, len(log))
    assert lookup.guess([*log, 1, 2], len(log) + 2)[0].chance > 0.5


def test_a_guess_is_judged_once_and_only_as_far_as_it_was_right():
    log = [1, 2, 3, 4, 5, 6, 1, 2]
    lookup = PromptLookup()
    assert [guess.token for guess in lookup.guess(log, 8)][:3] == [3, 4, 5]
    lookup.guess([*log, 3, 9, 5], 11)
    assert (lookup.counts.judged, lookup.counts.right) == (2, 1)
