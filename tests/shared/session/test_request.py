"""What a request is, and how it opens a stream."""

from __future__ import annotations

import pytest

from shared.messages import Limits, Open
from shared.sampling import SamplingParams
from shared.session.log import TokenLog
from shared.session.request import Request
from tests.shared.session.builders import model_info

TEXT = tuple(range(1, 21))
REQUEST = Request(TEXT[:6], 30, SamplingParams(), stop_tokens=(50,), patience_us=70, want_logprobs=True)


def openings(max_message_bytes: int) -> list[Open]:
    log = TokenLog(TEXT, prompt_length=6, max_length=36, context_length=1000, stop_tokens=(50,))
    return REQUEST.openings(log, model_info(), Limits(max_message_bytes=max_message_bytes))


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="the prompt is empty"):
        Request((), 5, SamplingParams())


def test_an_opening_carries_the_whole_log_and_absolute_bounds():
    assert openings(1 << 20) == [
        Open(
            tokens=TEXT,
            prompt_length=6,
            max_length=36,
            sampling=SamplingParams(),
            stop_tokens=(50,),
            model_fingerprint="model-a",
            tokenizer_fingerprint="tokenizer-a",
            patience_us=70,
            want_logprobs=True,
        )
    ]


@pytest.mark.parametrize("max_message_bytes", [1, 8, 64, 159, 160])
def test_a_log_longer_than_a_message_goes_in_parts_that_differ_in_nothing_else(max_message_bytes: int):
    (whole,) = openings(1 << 20)
    parts = openings(max_message_bytes)
    assert [token for part in parts for token in part.tokens] == list(TEXT)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert all(8 * len(part.tokens) <= max(8, max_message_bytes) for part in parts)
    for part in parts:
        assert (part.prompt_length, part.max_length, part.sampling) == (6, 36, whole.sampling)
