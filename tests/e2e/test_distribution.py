"""Sampled tokens follow the target's exact distribution: chi-square over many seeds, with controls that must fail."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from shared.messages import Draft, Open
from shared.sampling import SamplingParams, filter_log_probs
from tests.e2e.raw import RawClient
from tests.e2e.reference import TARGET, Reference

SEEDS = 1500
AT_ONCE = 24
SETTINGS = {"plain": {"temperature": 1.0}, "nucleus": {"temperature": 0.7, "top_p": 0.9}}
LEAST_EXPECTED = 8
SIGNIFICANT = 1e-4
"""Below this a sample is not from the distribution. The seeds are fixed, so a pass is a pass for good."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


async def _draw(
    client: RawClient, prompt: tuple[int, ...], params: SamplingParams, drafts: list[int]
) -> list[int]:
    """Two tokens, with guesses for the first in the tree."""
    start = len(prompt)
    # Patience enough for the guesses to arrive before the first step, and little enough for the second token.
    stream = await client.open(Open(prompt, start, start + 2, params, patience_us=20_000))
    width = len(drafts)
    await stream.send(Draft(1, start, tuple(drafts), (0,) * width, (16,) * width, start))
    await stream.rest()
    return stream.committed


async def _sample(
    up: Serving, prompt: tuple[int, ...], setting: dict[str, float], drafts: list[int]
) -> list[list[int]]:
    gate = asyncio.Semaphore(AT_ONCE)
    async with RawClient(up.address) as client:

        async def one(seed: int) -> list[int]:
            async with gate:
                return await _draw(client, prompt, SamplingParams(seed=seed, **setting), drafts)  # type: ignore[arg-type]

        return await asyncio.gather(*map(one, range(SEEDS)))


def _favourite(logits: np.ndarray, params: SamplingParams) -> float:
    """Probability of the likeliest token."""
    return float(np.exp(filter_log_probs(logits, params)[1]).max())


def _p_value(tokens: list[int], logits: np.ndarray, params: SamplingParams) -> float:
    ids, log_p = filter_log_probs(logits, params)
    expected = dict(zip(ids.tolist(), (np.exp(log_p) * len(tokens)).tolist(), strict=True))
    assert set(tokens) <= set(expected), "a token outside the filtered support"
    counts = Counter(tokens)
    common = [token for token, count in expected.items() if count >= LEAST_EXPECTED]
    observed = [counts[token] for token in common]
    wanted = [expected[token] for token in common]
    observed.append(len(tokens) - sum(observed))
    wanted.append(len(tokens) - sum(wanted))
    if wanted[-1] < LEAST_EXPECTED:  # too thin a rest for a class of its own
        observed[-2:] = [observed[-2] + observed[-1]]
        wanted[-2:] = [wanted[-2] + wanted[-1]]
    return float(chisquare(observed, wanted).pvalue)


@pytest.mark.parametrize("name", SETTINGS)
async def test_drafted_samples_follow_the_exact_distribution(name: str, reference: Reference) -> None:
    setting = SETTINGS[name]
    params = SamplingParams(seed=0, **setting)  # type: ignore[arg-type]
    # A prompt after which the target is in doubt, but has a favourite: both tokens have something to count.
    prompt = min(
        (prompt[-24:] for prompt in reference.prompts),
        key=lambda prompt: abs(_favourite(reference.logits(prompt), params) - 0.35),
    )
    logits = reference.logits(prompt)
    likeliest = [int(token) for token in np.argsort(-logits)[:3]]
    limits_free = ServeOptions(listen="127.0.0.1:0")
    async with serving(Verifier(load_model(TARGET, "cpu", "float32")), limits_free) as up:
        texts = await _sample(up, prompt, setting, likeliest)
        assert up.metrics.committed_tokens == sum(map(len, texts))
    first = [text[0] for text in texts]
    assert _p_value(first, logits, params) > SIGNIFICANT
    # The second token, after the commonest first: the fact below an accepted draft.
    commonest = Counter(first).most_common(1)[0][0]
    second = [text[1] for text in texts if text[0] == commonest and len(text) > 1]
    after = reference.logits([*prompt, commonest])
    assert len(second) > 100
    assert _p_value(second, after, params) > SIGNIFICANT
    # Controls: another temperature, and another context, are told apart.
    warmer = SamplingParams(seed=0, temperature=params.temperature * 1.5, top_p=params.top_p)
    assert _p_value(first, logits, warmer) < SIGNIFICANT
    assert not set(second) <= set(filter_log_probs(logits, params)[0].tolist()) or (
        _p_value(second, logits, params) < SIGNIFICANT
    )
