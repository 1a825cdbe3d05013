"""Every rule for edges: on our own, or on the one that --edge names; and on one that was written from the contract."""

from __future__ import annotations

import shlex
import sys

import pytest

from scripts.conformance.edge import ASSIST_RULES, RULES, CommandEdge, Recordings
from scripts.conformance.edge.scripts import ASSIST_SCRIPTS
from scripts.conformance.rules import BrokenError, SkippedError, run
from tests.conformance.small_edge import Breaks, SmallEdge

PROMPT = "A prompt that does not fit into one message of the narrow script, so that it comes in parts. " * 2
DRAFTER = "profiled:acceptance=0.8,draft_ms=0.5,vocabulary_size=1000,context_length=2000"
OUR_ASSISTANT = shlex.join(
    [
        *(sys.executable, "-m", "edge_client", "assist", "--server", "{server}"),
        *("--session-id", "{session}", "--secret-file", "{secret_file}", "--drafter", DRAFTER),
    ]
)
OURS = shlex.join(
    [
        *(sys.executable, "-m", "edge_client", "generate", PROMPT),
        *("--server", "{server}", "--max-new-tokens", "{tokens}", "--json"),
        *("--drafter", DRAFTER),
    ]
)
NAMES = [rule.name for rule in RULES]


@pytest.fixture(scope="module")
def recordings(request: pytest.FixtureRequest) -> Recordings:
    named = request.config.getoption("edge", default=None)
    return Recordings(CommandEdge(OURS if named is None else named))


@pytest.fixture(scope="module")
def of_small() -> Recordings:
    return Recordings(SmallEdge())


@pytest.mark.parametrize("name", NAMES)
def test_edge(name: str, recordings: Recordings, request: pytest.FixtureRequest) -> None:
    try:
        run(RULES[name], recordings)
    except SkippedError as why:
        if request.config.getoption("edge", default=None) is None:
            pytest.fail(f"not checked on our own edge: {why}")
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def of_assistant(request: pytest.FixtureRequest) -> Recordings:
    named = request.config.getoption("assist", default=None)
    if named is None and request.config.getoption("edge", default=None) is not None:
        pytest.skip("no assistant is named: --assist")
    return Recordings(CommandEdge(OUR_ASSISTANT if named is None else named), tuple(ASSIST_SCRIPTS))


@pytest.mark.parametrize("name", [rule.name for rule in ASSIST_RULES])
def test_assistant(name: str, of_assistant: Recordings) -> None:
    run(ASSIST_RULES[name], of_assistant)


@pytest.mark.parametrize("name", NAMES)
def test_another_edge(name: str, of_small: Recordings) -> None:
    """The rules ask for what the contract asks for, and for nothing that only our own edge does."""
    run(RULES[name], of_small)


BROKEN = {
    "ids_begin_anew": ("ids-are-dense", "contradicting", "first_node 1"),
    "root_goes_back": ("root-position-is-kept", "contradicting", "root_position 120"),
    "reports_nothing": ("seen-is-reported", "narrow", "nothing is reported"),
    "ignores_limits": ("nodes-in-a-message-are-kept", "narrow", "12 nodes"),
    "offsets_too_far": ("parents-are-known", "gap", "offset"),
    "invents_tokens": ("drafted-tokens-are-tokens", "gap", "1000"),
    "vanishes": ("close-is-sent-when-the-user-has-had-enough", "interrupted", "expected Close"),
    "opens_with_the_prompt": ("a-lost-stream-is-opened-again-with-the-log", "lost", "the log has 120 tokens"),
    "extends_the_log": ("a-lost-stream-is-opened-again-with-the-log", "lost", "max_length has changed"),
    "stays": ("drain-is-obeyed", "moved", "begins no stream"),
    "tells_the_secret": ("secrets-stay-with-their-server", "moved", "the first one's secret"),
    "mends_gaps": ("gap-ends-the-session", "gap", "goes on"),
    "tries_everything_again": ("a-violation-is-not-tried-again", "refused", "goes on"),
    "waits_for_nobody": ("a-time-to-wait-is-waited", "lost", "came again after"),
    "never_asks": ("the-model-is-asked-for-first", "agreeing", "never called"),
    "talks_on": ("close-is-the-last-message", "interrupted", "draft after Close"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_edge_is_caught(name: str) -> None:
    rule, script, words = BROKEN[name]
    edge = SmallEdge(Breaks(**{name: True}))
    with pytest.raises(BrokenError) as caught:
        run(RULES[rule], Recordings(edge, (script,), deadline_s=2.0))
    assert words in str(caught.value)


def test_an_assistant_that_opens_a_session_of_its_own_is_caught() -> None:
    with pytest.raises(BrokenError, match="begins without Attach"):
        run(ASSIST_RULES["attach-comes-first"], Recordings(SmallEdge(), ("helping",), deadline_s=2.0))
