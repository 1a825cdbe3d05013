"""Which of several servers is next."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.policy.servers import SECOND, Balance, Choice, Servers

NAMES = ("a:1", "b:1", "c:1")
MS = SECOND // 1000


def servers(
    balance: Balance = Balance.FIRST,
    names: tuple[str, ...] = NAMES,
    latencies_ms: tuple[int, ...] = (10, 10, 10),
    **more: float,
) -> Servers:
    made = Servers(balance, **more)
    for name, latency in zip(names, latencies_ms, strict=False):
        made.add(name)
        made.fit(name)
        made.told(name, 0, latency=latency * MS)
    return made


def key(number: int) -> bytes:
    return number.to_bytes(4)


# ---- who is a choice at all ----


def test_a_server_that_has_not_said_what_it_holds_is_no_choice():
    made = Servers()
    made.add("a:1")
    assert made.choose(0, b"") is None
    made.fit("a:1")
    assert made.choose(0, b"") == Choice("a:1", 0)


def test_another_model_is_never_chosen_even_if_nobody_else_is_left():
    made = servers()
    made.unfit("b:1")
    made.failed("a:1", 0)
    made.failed("c:1", 0)
    choice = made.choose(0, b"")
    assert choice is not None
    assert choice.server != "b:1"
    made.remove("a:1")
    made.remove("c:1")
    assert made.choose(10 * SECOND, b"") is None


def test_the_one_that_is_to_be_left_is_avoided_and_a_wish_comes_first():
    made = servers()
    assert made.choose(0, b"", avoid={"a:1"}) == Choice("b:1", 0)
    assert made.choose(0, b"", avoid={"a:1"}, wish="c:1") == Choice("c:1", 0)
    assert made.choose(0, b"", wish="nobody:1") == Choice("a:1", 0)
    made.refused("c:1", 0)
    assert made.choose(0, b"", avoid={"a:1"}, wish="c:1") == Choice("b:1", 0)
    assert made.choose(0, b"", avoid=set(NAMES)) is None


# ---- failures ----


def test_one_that_failed_comes_after_all_that_are_well_until_it_commits_again():
    made = servers()
    made.failed("a:1", 0)
    assert made.choose(0, b"") == Choice("b:1", 0)
    assert made.choose(100 * SECOND, b"") == Choice("b:1", 100 * SECOND), "an old failure is a failure"
    made.progressed("a:1")
    assert made.choose(100 * SECOND, b"") == Choice("a:1", 100 * SECOND)


def test_an_answer_clears_a_failure_but_not_before_its_time():
    made = servers(first_delay=1.0)
    made.failed("a:1", 0)
    made.told("a:1", SECOND // 2, latency=MS)
    assert made.suspect("a:1")
    made.told("a:1", SECOND, latency=MS)
    assert not made.suspect("a:1")


def test_backoff_doubles_to_its_limit():
    made = servers(names=("a:1",), first_delay=0.1, longest_delay=0.5)
    now, waits = 0, []
    for _ in range(5):
        made.failed("a:1", now)
        choice = made.choose(now, b"")
        assert choice is not None
        waits.append((choice.at - now) / SECOND)
        now = choice.at
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_many_streams_that_break_at_once_are_one_failure():
    made = servers(names=("a:1",), first_delay=0.1)
    for _ in range(16):
        made.failed("a:1", 0)
    assert made.choose(0, b"") == Choice("a:1", SECOND // 10)


def test_failing_for_years_overflows_nothing():
    made = servers(names=("a:1",))
    for second in range(2000):
        made.failed("a:1", second * SECOND)
    assert made.choose(1999 * SECOND, b"") == Choice("a:1", 2000 * SECOND)


# ---- no room ----


def test_a_full_server_is_left_alone_for_as_long_as_it_asks_and_is_well_afterwards():
    made = servers()
    made.refused("a:1", 0, 3 * SECOND)
    assert made.choose(2 * SECOND, b"") == Choice("b:1", 2 * SECOND)
    assert made.choose(3 * SECOND, b"") == Choice("a:1", 3 * SECOND)
    made.told("a:1", SECOND, latency=MS)
    assert made.choose(2 * SECOND, b"") == Choice("b:1", 2 * SECOND), "to answer is not to have room"


def test_when_all_are_full_the_first_that_has_room_again_is_named():
    made = servers(full_for=1.0)
    made.refused("a:1", 0, 5 * SECOND)
    made.refused("b:1", 0, 2 * SECOND)
    made.refused("c:1", 0)
    assert made.choose(0, b"") == Choice("c:1", SECOND)


def test_one_that_is_full_and_asks_for_no_time_is_not_asked_without_end():
    made = servers(names=("a:1",), first_delay=0.05)
    made.refused("a:1", 7, 0)
    assert made.choose(7, b"") == Choice("a:1", 7 + 50 * MS)


def test_a_server_that_goes_away_is_left_alone():
    made = servers()
    made.draining("a:1", 0, 10 * SECOND)
    made.told("a:1", SECOND, latency=MS)
    assert made.choose(9 * SECOND, b"") == Choice("b:1", 9 * SECOND)
    made.told("a:1", 10 * SECOND, latency=MS)
    assert made.choose(10 * SECOND, b"") == Choice("a:1", 10 * SECOND)


# ---- the spread ----


def test_by_load_the_most_room_wins_and_ones_own_sessions_count_at_once():
    made = servers(Balance.LOAD)
    for name, open_sessions, most in (("a:1", 10, 64), ("b:1", 20, 256), ("c:1", 30, 64)):
        made.told(name, 0, latency=MS, open_sessions=open_sessions, max_sessions=most)
    chosen = []
    for number in range(40):
        choice = made.choose(0, key(number))
        assert choice is not None
        made.taken(choice.server)
        chosen.append(choice.server)
    assert chosen[0] == "b:1"
    counts = Counter(chosen)
    assert counts["b:1"] > counts["a:1"] > counts["c:1"] == 0
    made.told("b:1", SECOND, latency=MS, open_sessions=50, max_sessions=256)  # what it says includes ours
    assert made.choose(SECOND, b"") in (Choice("a:1", SECOND), Choice("b:1", SECOND))


def test_a_session_that_left_makes_room():
    made = servers(Balance.LOAD, ("a:1", "b:1"))
    made.told("a:1", 0, latency=MS, open_sessions=2, max_sessions=8)
    made.told("b:1", 0, latency=MS, open_sessions=1, max_sessions=8)
    for _ in range(2):
        made.taken("b:1")
    assert made.choose(0, b"") == Choice("a:1", 0)
    made.left("b:1")
    made.left("b:1")
    assert made.choose(0, b"") == Choice("b:1", 0)


def test_without_loads_two_are_drawn_and_the_nearer_wins_unless_it_has_our_sessions():
    made = servers(Balance.LOAD, latencies_ms=(5, 10, 30))
    drawn = Counter(made.choose(0, key(number)).server for number in range(600))  # type: ignore[union-attr]
    assert drawn["a:1"] == pytest.approx(400, abs=60), "whenever it is one of the two"
    assert drawn["b:1"] == pytest.approx(200, abs=50)
    assert drawn["c:1"] == 0
    placed: Counter[str] = Counter()
    for number in range(200):
        choice = made.choose(0, key(number))
        assert choice is not None
        made.taken(choice.server)
        placed[choice.server] += 1
    assert min(placed.values()) > 10, "nobody is left out when many come at once"
    assert placed["a:1"] > placed["b:1"] > placed["c:1"]


def test_the_same_key_is_the_same_draw():
    made = servers(Balance.LOAD)
    assert {made.choose(0, key(7)) for _ in range(20)} == {made.choose(0, key(7))}


def test_equal_keys_meet_and_all_keys_spread():
    first, second = servers(Balance.HASH), servers(Balance.HASH, tuple(reversed(NAMES)))
    homes = [first.choose(0, key(number)) for number in range(600)]
    assert homes == [second.choose(0, key(number)) for number in range(600)], "whatever the order given"
    counts = Counter(home.server for home in homes if home is not None)
    assert all(count == pytest.approx(200, abs=50) for count in counts.values())


def test_a_server_that_leaves_moves_its_own_keys_only_and_to_all_others():
    made = servers(Balance.HASH)
    before = {number: made.choose(0, key(number)) for number in range(600)}
    made.failed("b:1", 0)
    after = {number: made.choose(0, key(number)) for number in range(600)}
    moved = {number for number in before if before[number] != after[number]}
    assert moved == {number for number, home in before.items() if home == Choice("b:1", 0)}
    assert {after[number] for number in moved} == {Choice("a:1", 0), Choice("c:1", 0)}
