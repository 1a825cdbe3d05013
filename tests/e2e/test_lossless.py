"""The text is the target's own: real target, real gRPC, every kind of drafter, shape, window and sampling.

Pairwise combinations run always; all of them, over all prompts, behind the `slow` marker.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from edge_client.app import Client, ClientOptions, GenerateOptions
from edge_client.drafter.interface import Drafter
from edge_client.drafter.load import load_drafter
from edge_client.policies import DraftOptions, Mode, Shape
from shared.sampling import SamplingParams
from tests.e2e.reference import (
    DRAFTER,
    TARGET,
    Reference,
    random_drafter,
    stalling_drafter,
    target_drafter,
    wrong_drafter,
)

PROMPTS = 32
TOKENS = 128
SHAPES = ("chain", "tree")
TEMPERS = ("good", "random", "wrong", "stalling")
WINDOWS = (1, 4, 16, 64)
SAMPLINGS = {
    "greedy": SamplingParams(),
    "nucleus": SamplingParams(temperature=0.7, top_p=0.9, seed=11),
    "plain": SamplingParams(temperature=1.0, seed=12),
}
ALL = list(itertools.product(SHAPES, TEMPERS, WINDOWS))
# An orthogonal array over (temper, window) with alternating shapes: each pair of values meets at least once.
PAIRWISE = [
    (SHAPES[(i + j) % 2], temper, window)
    for i, temper in enumerate(TEMPERS)
    for j, window in enumerate(WINDOWS)
] + [("chain", "good", 1), ("tree", "wrong", 64), ("chain", "stalling", 4), ("tree", "random", 16)]


class Tally:
    """Texts compared and near-ties met, told in the summary (tests/conftest.py)."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def note(self, near_tie: bool) -> None:
        self._record("compared", 1)
        self._record("near_ties", int(near_tie))


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally(record_property)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def onnx() -> Iterator[Drafter]:
    drafter = load_drafter(str(DRAFTER))
    yield drafter
    drafter.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Serving]:
    async with serving(
        Verifier(load_model(TARGET, "cpu", "float32")), ServeOptions(listen="127.0.0.1:0")
    ) as up:
        yield up


@dataclass
class Borrowed:
    """A drafter that outlives the client that uses it."""

    inner: Drafter

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def close(self) -> None:
        pass


def drafter_of(
    temper: str, onnx: Drafter, reference: Reference, prompt: tuple[int, ...], want: list[int]
) -> Drafter:
    match temper:
        case "good":
            return Borrowed(onnx)  # type: ignore[return-value]
        case "random":
            return random_drafter(onnx.vocabulary_size)
        case "wrong":
            return wrong_drafter(prompt, want, onnx.vocabulary_size)
        case _:
            return stalling_drafter(random_drafter(onnx.vocabulary_size), threading.Event())


async def run(
    up: Serving,
    drafter: Drafter | None,
    prompt: tuple[int, ...],
    new: int,
    params: SamplingParams,
    draft: DraftOptions,
):
    options = ClientOptions(server=up.address, drafter="none", answer_within_s=30)
    async with Client(options, drafter=drafter) as client:
        return await client.generate(
            GenerateOptions(prompt=prompt, max_new_tokens=new, sampling=params, draft=draft)
        )


async def check(
    up: Serving,
    reference: Reference,
    onnx: Drafter,
    index: int,
    combination: tuple[str, str, int],
    params: SamplingParams,
    tally: Tally,
    tokens: int = TOKENS,
) -> None:
    """Run and compare; only a near-tie of the reference itself excuses a difference."""
    shape, temper, window = combination
    prompt = reference.prompts[index]
    want = reference.text(prompt, tokens, params)
    drafter = drafter_of(temper, onnx, reference, prompt, want)
    result = await run(up, drafter, prompt, tokens, params, DraftOptions(shape=Shape(shape), window=window))
    verdict = reference.difference(prompt, result.tokens, want, params)
    if verdict.position is not None:
        print(
            f"prompt {index}, {combination}: differs at {verdict.position}, margin {verdict.margin:.2e} nats"
        )
        assert verdict.excused, f"token {verdict.position} is not the target's own"
    assert result.usage.completion_tokens == len(result.tokens)
    tally.note(verdict.excused)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("index", range(PROMPTS))
async def test_greedy_is_generate(
    server: Serving, reference: Reference, onnx: Drafter, tally: Tally, index: int
) -> None:
    await check(server, reference, onnx, index, PAIRWISE[index % len(PAIRWISE)], SAMPLINGS["greedy"], tally)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["nucleus", "plain"])
@pytest.mark.parametrize("place", range(len(PAIRWISE)))
async def test_sampled_is_the_target_alone(
    server: Serving, reference: Reference, onnx: Drafter, tally: Tally, name: str, place: int
) -> None:
    index = place % 5  # a few prompts, so that their references are computed once
    await check(server, reference, onnx, index, PAIRWISE[place], SAMPLINGS[name], tally, tokens=64)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("combination", ALL, ids=lambda c: "-".join(map(str, c)))
async def test_every_combination_on_every_prompt(
    server: Serving, reference: Reference, onnx: Drafter, tally: Tally, combination: tuple[str, str, int]
) -> None:
    for index in range(PROMPTS):
        await check(server, reference, onnx, index, combination, SAMPLINGS["greedy"], tally)
    for name in ("nucleus", "plain"):
        for index in range(5):
            await check(server, reference, onnx, index, combination, SAMPLINGS[name], tally, tokens=64)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mode", [Mode.SYNC, Mode.CLOUD])
async def test_the_other_modes_write_the_same(
    server: Serving, reference: Reference, onnx: Drafter, mode: Mode
) -> None:
    for index in range(4):
        prompt = reference.prompts[index]
        drafter = Borrowed(onnx) if mode is Mode.SYNC else None
        result = await run(server, drafter, prompt, TOKENS, SamplingParams(), DraftOptions(mode=mode))  # type: ignore[arg-type]
        verdict = reference.difference(
            prompt, result.tokens, reference.greedy(prompt, TOKENS), SamplingParams()
        )
        assert verdict.position is None or verdict.excused


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["greedy", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_the_target_as_its_own_drafter_is_always_right(
    server: Serving, reference: Reference, name: str, shape: str
) -> None:
    # An off-by-one in the noise's position would only cost speed; this is the test that sees it.
    # The cloud waits for this slow drafter, else it would decode alone and judge nothing.
    draft = DraftOptions(shape=Shape(shape), window=8, branches=1, width=2, patience_ms=5000)
    result = await run(server, target_drafter(reference), reference.prompts[0], 48, SAMPLINGS[name], draft)
    assert result.stats.acceptance_rate == 1.0
    assert result.stats.drafted > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reference_with_one_token_changed_is_told_apart(
    server: Serving, reference: Reference, onnx: Drafter
) -> None:
    # The negative control of this whole file: the comparison sees a single token.
    prompt = reference.prompts[0]
    want = list(reference.greedy(prompt, TOKENS))
    want[40] = (want[40] + 1) % onnx.vocabulary_size
    result = await run(server, Borrowed(onnx), prompt, TOKENS, SamplingParams(), DraftOptions())  # type: ignore[arg-type]
    verdict = reference.difference(prompt, result.tokens, want, SamplingParams())
    assert verdict.position == 40
    assert not verdict.excused
