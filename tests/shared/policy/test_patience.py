"""Patience: what is waited for, for how long, and who pays."""

from __future__ import annotations

import pytest

from shared.policy.patience import AdaptivePatience, Delay, FixedPatience

MS = 1_000_000
STEP = 30 * MS
CAP = 1000 * MS


class Session:
    """One drafter that answers every commit after `answer` ns, then sends a node every `gap` ns, all of them right."""

    def __init__(self, answer: int, gap: int, *, acceptance: float = 0.8, cap: int = CAP) -> None:
        self.patience = AdaptivePatience(cap)
        self.answer, self.gap, self.acceptance = answer, gap, acceptance
        self.now, self.length, self.debt = 0, 10, 0.0

    def commit(self) -> int:
        """One cycle: a step, a bare end, and what arrives while the next step runs. Returns the wait asked for."""
        self.debt += 4 * self.acceptance
        accepted = int(self.debt)
        self.debt -= accepted
        self.now += STEP
        self.length += accepted + 1
        self.patience.stepped(STEP, judged=4, accepted=accepted, saved=accepted)
        self.patience.moved(self.now, self.length, bare=True, missed=True, mass=0.0)
        wait = self.patience.due_at(self.now, self.now) - self.now
        self.patience.waited(wait)
        at, mass, bare = self.now + self.answer, self.acceptance, True
        while at < self.now + STEP:
            self.patience.arrived(at, self.length, bare=bare, mass=mass)
            at, mass, bare = at + self.gap, mass * self.acceptance, False
        return wait

    def wait(self, cycles: int = 40) -> int:
        for _ in range(cycles):
            last = self.commit()
        return last


def test_a_fixed_patience_runs_from_when_the_end_is_bare_whatever_happens():
    patience = FixedPatience(70)
    patience.moved(0, 5, bare=True, missed=True, mass=0.0)
    assert patience.due_at(3, 10) == 80
    assert patience.due_at(3, None) == 3
    assert not patience.adaptive


def test_a_fast_answer_is_waited_for_and_a_slow_one_is_not():
    assert 2 * MS <= Session(2 * MS, MS).wait() < 4 * MS
    assert Session(29 * MS, MS).wait() == 0
    assert Session(200 * MS, MS).wait() == 0


def test_nothing_is_waited_for_before_it_is_known():
    session = Session(2 * MS, MS)
    assert [session.commit() for _ in range(3)] == [0, 0, 0]


def test_drafts_that_are_never_right_are_never_waited_for():
    assert Session(MS // 10, MS // 10, acceptance=0.0).wait() == 0


def test_no_wait_is_longer_than_the_edge_grants():
    assert Session(5 * MS, MS, cap=MS).wait() <= MS


def test_what_was_saved_pays_and_no_more_than_that():
    patience = AdaptivePatience(CAP)
    patience.stepped(STEP, judged=4, accepted=3, saved=2)
    assert patience.credit == 2 * STEP
    for _ in range(100):
        patience.stepped(STEP, judged=1, accepted=1, saved=1)
    assert patience.credit <= 16 * STEP
    patience.credit = 1000.0
    patience._until = 10 * MS
    assert patience.due_at(0, 0) == 1000
    patience.waited(600)
    assert patience.credit == 400.0
    patience.waited(5000)  # nothing was asked for: it waited for the worker
    assert patience.credit == 400.0


def test_while_more_is_about_to_come_a_short_tree_is_not_stepped():
    session = Session(MS, MS // 4)
    session.wait()
    patience = session.patience
    session.now += STEP
    patience.moved(session.now, session.length, bare=False, missed=False, mass=0.8)
    patience.arrived(session.now, session.length, bare=False, mass=0.8)
    assert session.now < patience.due_at(session.now, None) < session.now + MS
    patience.arrived(session.now + MS // 4, session.length, bare=False, mass=0.001)
    assert (
        patience.due_at(session.now, None) == session.now
    )  # what may still come is worth less than the time


def test_an_answer_that_stays_away_is_not_waited_for_again():
    session = Session(2 * MS, MS)
    assert session.wait() > 0
    patience = session.patience
    patience.moved(session.now, session.length, bare=True, missed=True, mass=0.0)
    for _ in range(5):
        session.now += STEP
        session.length += 1
        patience.moved(session.now, session.length, bare=True, missed=False, mass=0.0)
        assert patience.due_at(session.now, session.now) == session.now


@pytest.mark.parametrize("spread", [1, 100])
def test_an_answer_that_cannot_be_told_is_not_waited_for(spread: int):
    session = Session(2 * MS, MS)
    for cycle in range(60):
        session.answer = (2 if cycle % 2 else 2 + spread // 5) * MS
        wait = session.commit()
    assert (wait > 0) == (spread == 1)


def test_a_delay_is_its_mean_and_how_far_it_strays():
    delay = Delay()
    for _ in range(60):
        delay.learn(1000)
    assert delay.known
    assert delay.mean == pytest.approx(1000)
    assert delay.late == pytest.approx(1250, rel=0.01)
