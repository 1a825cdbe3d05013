"""What losslessness cannot see: speed and waste, held to what can be worked out without the machines.

Each check asserts one thing; tests run them on the machines as they are, and on machines broken on purpose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from shared.policy.expansion import BestFirst, chain
from shared.policy.pacing import Block, Streaming
from shared.policy.window import FixedWindow
from shared.profiled import Profile, ProfiledPair, decode
from shared.session.edge import EdgePolicies
from shared.session.front import CloudPolicies
from shared.sim.predict import Prediction, default_reconnect, predict, random_prompt

UNLIMITED = 1 << 30
PATIENCE_US = 5_000_000
GRANTED_US = 1_000_000
"""What an edge leaves to the cloud's own patience."""


def cloud_arm() -> EdgePolicies:
    return EdgePolicies(FixedWindow(1), Streaming(), None, default_reconnect(), UNLIMITED)


def sync_arm(block: int, draft_context: int = UNLIMITED) -> EdgePolicies:
    return EdgePolicies(FixedWindow(block), Block(block), chain(), default_reconnect(), draft_context)


def chain_arm(window: int = 32) -> EdgePolicies:
    return EdgePolicies(FixedWindow(window), Streaming(), chain(), default_reconnect(), UNLIMITED)


def tree_arm(window: int = 64, branches: int = 4) -> EdgePolicies:
    return EdgePolicies(
        FixedWindow(window), Streaming(), BestFirst(branches, branches), default_reconnect(), UNLIMITED
    )


def sync(profile: Profile, block: int, rtt_ms: float, tokens: int) -> Prediction:
    return predict(profile, sync_arm(block), rtt_ms=rtt_ms, tokens=tokens, patience_us=PATIENCE_US)


def si_rounds(profile: Profile, block: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Classic speculative inference, worked out on the text alone: (drafts, tokens) of each round.

    No machine takes part: a round drafts `block` tokens, or as many as there is room for, and gives one token more
    than were right in a row.
    """
    pair = ProfiledPair(profile)
    prompt = random_prompt(0, 16, profile.vocabulary_size)
    text = decode(pair, prompt, tokens)
    done = 0
    while done < tokens:
        drafts = min(block, tokens - done)
        state, right = pair.state((*prompt, *text[:done])), 0
        while right < drafts and pair.candidates(state, 1)[0].token == text[done + right]:
            state = pair.follow(state, text[done + right])
            right += 1
        gained = min(right + 1, tokens - done)
        yield drafts, gained
        done += gained


# ---- checks ----


def the_cloud_alone_takes_a_step_a_token() -> None:
    for rtt_ms, step_ms in itertools.product((0.0, 20.0, 200.0), (5.0, 30.0)):
        got = predict(Profile(step_ms=step_ms), cloud_arm(), rtt_ms=rtt_ms, tokens=150)
        assert got.tpot_ms == step_ms
        assert got.ttft_ms == rtt_ms + step_ms
        assert (got.facts_per_token, got.steps_per_token) == (1.0, 1.0)


def synchronous_speculation_is_exact() -> None:
    """Not a microsecond more than the stop-and-wait protocol needs, and not one less."""
    for acceptance, block, rtt_ms in itertools.product((0.3, 0.8), (1, 4), (0.0, 50.0)):
        profile, tokens = Profile(acceptance=acceptance), 150
        rounds = list(si_rounds(profile, block, tokens))
        times = [rtt_ms + drafts * profile.draft_ms + profile.step_ms for drafts, _ in rounds]
        got = sync(profile, block, rtt_ms, tokens)
        assert got.ttft_ms == pytest.approx(times[0])
        assert got.tpot_ms == pytest.approx(sum(times[1:]) / (tokens - 1))
        assert got.steps_per_token == len(rounds) / tokens
        assert got.facts_per_token == sum(drafts + 1 for drafts, _ in rounds) / tokens


def an_exhausted_drafter_does_not_cost_the_patience() -> None:
    """Beyond what the drafter can see every token is one round trip and one step, not the cloud's patience."""
    profile = Profile()
    got = predict(profile, sync_arm(4, 20), rtt_ms=50.0, tokens=60, patience_us=PATIENCE_US)
    assert got.tpot_ms <= 50.0 + profile.step_ms


def a_silent_drafter_costs_the_patience_and_no_more() -> None:
    """A drafter that takes minutes: the cloud waits out its patience for every token, and decodes on."""
    profile = Profile(draft_ms=100_000.0)
    got = predict(profile, sync_arm(4), rtt_ms=50.0, tokens=60, patience_us=70_000)
    assert got.tpot_ms == pytest.approx(profile.step_ms + 70.0)


def a_chain_that_is_always_right_runs_at_the_drafters_pace() -> None:
    for rtt_ms, step_ms in itertools.product((0.0, 50.0, 200.0), (10.0, 30.0)):
        profile = Profile(acceptance=1.0, step_ms=step_ms)
        got = predict(profile, chain_arm(512), rtt_ms=rtt_ms, tokens=400)
        assert got.tpot_ms == pytest.approx(profile.draft_ms, rel=0.02)
        assert got.facts_per_token <= 1.01  # no fact twice
        assert got.acceptance_rate == 1.0


def a_chain_that_is_always_right_is_bounded_by_its_window() -> None:
    for window in (4, 16):
        profile, rtt_ms = Profile(acceptance=1.0, draft_ms=0.1), 200.0
        got = predict(profile, chain_arm(window), rtt_ms=rtt_ms, tokens=400)
        loop = rtt_ms + profile.step_ms
        # Within a round trip the cloud also decodes on its own between two windows.
        assert loop / (window + loop / profile.step_ms + 1) <= got.tpot_ms
        assert got.tpot_ms <= (loop + 2 * profile.step_ms) / window


def speculation_is_as_fast_as_the_reference() -> None:
    """The design's reference points (acceptance 0.8, half of the contexts easy), within what 400 tokens scatter."""
    profile = Profile()
    for rtt_ms, chain_ms, tree_ms in ((0.0, 11.8, 9.4), (50.0, 18.4, 15.0), (100.0, 22.0, 19.3)):
        assert predict(profile, chain_arm(16), rtt_ms=rtt_ms).tpot_ms == pytest.approx(chain_ms, rel=0.1)
        assert predict(profile, tree_arm(), rtt_ms=rtt_ms).tpot_ms == pytest.approx(tree_ms, rel=0.1)


def the_acceptance_counted_is_the_profiles() -> None:
    for acceptance in (0.6, 0.8):
        profile = Profile(acceptance=acceptance, iid=True)
        for got in (
            predict(profile, chain_arm(), rtt_ms=0.0, tokens=1200),
            predict(profile, chain_arm(), rtt_ms=100.0, tokens=1200),
            sync(profile, 4, 0.0, 1200),
        ):
            assert got.acceptance_rate == pytest.approx(acceptance, abs=0.045)


def speculation_never_costs_time() -> None:
    """A flat step: whatever is drafted, no token comes later than from the cloud alone. Exact, to the nanosecond."""
    for acceptance, rtt_ms, draft_ms in itertools.product((0.0, 0.5, 0.9), (0.0, 60.0), (1.0, 40.0)):
        profile = Profile(acceptance=acceptance, draft_ms=draft_ms)
        for arm in (chain_arm(), tree_arm()):
            assert predict(profile, arm, rtt_ms=rtt_ms, tokens=100).tpot_ms <= profile.step_ms


def a_fast_drafter_on_a_short_link_keeps_the_message_rate() -> None:
    """Ten thousand forwards a second, and the default limits: nothing is refused, and the pace is the drafter's."""
    profile = Profile(acceptance=1.0, draft_ms=0.1, step_ms=2.0)
    got = predict(profile, chain_arm(64), rtt_ms=0.3, tokens=6000)
    assert got.tpot_ms == pytest.approx(profile.draft_ms, rel=0.05)


def adaptive(profile: Profile, policies: EdgePolicies, rtt_ms: float, tokens: int = 150) -> Prediction:
    return predict(profile, policies, rtt_ms=rtt_ms, tokens=tokens, adaptive_patience_us=GRANTED_US)


def waiting_for_a_fast_drafter_pays() -> None:
    """Close to the cloud a draft arrives just after its step began: a short wait is worth a good part of a step."""
    for acceptance, rtt_ms, share in ((0.6, 0.0, 0.75), (0.8, 0.0, 0.8), (0.6, 5.0, 0.85)):
        profile = Profile(acceptance=acceptance, draft_ms=0.3)
        without = predict(profile, chain_arm(64), rtt_ms=rtt_ms, tokens=150)
        assert adaptive(profile, chain_arm(64), rtt_ms).tpot_ms <= share * without.tpot_ms


def waiting_never_costs_time() -> None:
    """Whatever is waited for is paid out of what drafts have saved: no token comes later than from the cloud alone."""
    for acceptance, rtt_ms, draft_ms in itertools.product(
        (0.0, 0.3, 0.8), (0.0, 12.0, 25.0, 100.0), (0.3, 40.0)
    ):
        profile = Profile(acceptance=acceptance, draft_ms=draft_ms, iid=True)
        assert adaptive(profile, chain_arm(), rtt_ms, 100).tpot_ms <= profile.step_ms


def a_text_that_repeats_itself_needs_no_drafter() -> None:
    profile = Profile(vocabulary_size=200)  # a function of the last token alone comes back after a few tokens
    guessing, plain = (
        predict(
            profile,
            cloud_arm(),
            rtt_ms=20.0,
            tokens=300,
            repeating=1.0,
            cloud=CloudPolicies(prompt_lookup=on),
        )
        for on in (True, False)
    )
    assert plain.tpot_ms == profile.step_ms
    assert guessing.tpot_ms < 0.4 * plain.tpot_ms


def guesses_cost_nothing_where_nothing_repeats() -> None:
    profile = Profile()
    for arm in (cloud_arm(), chain_arm(), tree_arm()):
        with_it, without = (
            predict(profile, arm, rtt_ms=20.0, tokens=200, cloud=CloudPolicies(prompt_lookup=on))
            for on in (True, False)
        )
        assert with_it == without


CHECKS: tuple[Callable[[], None], ...] = (
    the_cloud_alone_takes_a_step_a_token,
    synchronous_speculation_is_exact,
    an_exhausted_drafter_does_not_cost_the_patience,
    a_silent_drafter_costs_the_patience_and_no_more,
    a_chain_that_is_always_right_runs_at_the_drafters_pace,
    a_chain_that_is_always_right_is_bounded_by_its_window,
    speculation_is_as_fast_as_the_reference,
    the_acceptance_counted_is_the_profiles,
    speculation_never_costs_time,
    a_fast_drafter_on_a_short_link_keeps_the_message_rate,
    waiting_for_a_fast_drafter_pays,
    waiting_never_costs_time,
    a_text_that_repeats_itself_needs_no_drafter,
    guesses_cost_nothing_where_nothing_repeats,
)
