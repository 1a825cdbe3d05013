from __future__ import annotations

import pytest

from shared.messages import FinishReason
from shared.session.log import TokenLog
from tests.shared.session.builders import PROMPT, new_log


@pytest.mark.parametrize(
    ("log", "tokens", "reason"),
    [
        (new_log(stop=(9,)), (4, 9), FinishReason.STOP),
        (new_log(room=2), (4, 5), FinishReason.LENGTH),
        (new_log(context=5), (4, 5), FinishReason.CONTEXT),
        (new_log(room=2, stop=(5,)), (4, 5), FinishReason.STOP),
        (new_log(room=2, context=5), (4, 5), FinishReason.LENGTH),
    ],
)
def test_it_closes_with_the_token_that_fills_it(log: TokenLog, tokens: tuple[int, ...], reason: FinishReason):
    for token in tokens[:-1]:
        log.append(token)
        assert log.closed is None
    log.append(tokens[-1])
    assert log.closed is reason
    assert log.completion == list(tokens)
    with pytest.raises(ValueError, match="closed"):
        log.append(4)
    assert log.completion == list(tokens)


def test_the_first_reason_stands():
    log = new_log(stop=(9,))
    log.append(9)
    log.close(FinishReason.CLOSED)
    assert log.closed is FinishReason.STOP


def test_a_stop_token_in_the_prompt_stops_nothing():
    log = TokenLog((1, 9), prompt_length=2, max_length=9, context_length=99, stop_tokens=(9,))
    assert log.closed is None


def test_a_log_that_comes_back_complete_is_closed():
    log = TokenLog((1, 4, 9), prompt_length=1, max_length=9, context_length=99, stop_tokens=(9,))
    assert log.closed is FinishReason.STOP


def test_the_limit_is_the_nearer_of_length_and_context():
    assert new_log(room=2).limit == len(PROMPT) + 2
    assert new_log(room=20, context=7).limit == 7
