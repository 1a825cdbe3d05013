"""The verifier's KV cache: what a session takes of memory, and what a prompt costs that is known already."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from itertools import count
from typing import Final

import psutil
import torch

from cloud_server.kv_pool import PAGE_SLOTS
from cloud_server.model import LoadedModel, load_model
from cloud_server.verifier import DRAFT_SLOTS, Verifier
from scripts.bench.measure import Rounds, Side, take_turns
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings
from scripts.bench_verifier.shapes import SHAPES, random_model
from shared.pool import PrefillLimits
from shared.sampling import SamplingParams
from shared.step import Step, StepItem

ROUNDS: Final = 3
MEMORY_SESSIONS: Final = 32
LONG: Final = 640
LEAST: Final = 40
"""Tokens of the shortest of uneven sessions; the longest has `LONG`."""
PROMPTS: Final = (960, 2000)
"""Tokens: of the pair's own target, whose context holds no more, and of a random one of its shape."""
WITHIN: Final = Aim("0.85 to 1.15", least=0.85, most=1.15)
FRACTION: Final = Aim("at most a tenth", most=0.1)
MEBI: Final = 1 << 20


# ---- memory ----


def measure_memory(settings: BenchSettings) -> Section:
    """Resident memory of a process per session, against the formula."""
    torch.set_num_threads(settings.threads)
    rng = random.Random(settings.past)
    cases = {
        f"{MEMORY_SESSIONS} sessions of {LONG} tokens": [LONG] * MEMORY_SESSIONS,
        f"{MEMORY_SESSIONS} sessions of {LEAST} to {LONG} tokens": [
            rng.randint(LEAST, LONG) for _ in range(MEMORY_SESSIONS)
        ],
    }
    figures = []
    for name, lengths in cases.items():
        resident_mb(
            target_of(settings), lengths
        )  # steps allocate something once and for all, sessions or not
        found = [resident_mb(target_of(settings), lengths) for _ in range(min(ROUNDS, settings.rounds))]
        rounds = Rounds({"ours": [real for real, _ in found], "peer": [formula for _, formula in found]})
        figures.append(
            Figure(name, rounds.spread("ours"), rounds.spread("peer"), rounds.ratio("ours", "peer"), WITHIN)
        )
    return Section(
        key="memory",
        title="Memory of a session",
        unit="MB",
        ours="resident",
        peer="computed",
        ratio_of="resident / computed",
        settings=(
            "float32 on a CPU; by how much the process's resident memory grows as the sessions come, in a second run",
            (
                "computed: layers x key/value heads x (key + value size) x 4 bytes x tokens, "
                f"up to whole pages of {PAGE_SLOTS} tokens"
            ),
        ),
        figures=tuple(figures),
    )


def target_of(settings: BenchSettings) -> LoadedModel:
    """The pair's target, for a verifier of its own."""
    return load_model(settings.pair / "target", "cpu", "float32")


def resident_mb(loaded: LoadedModel, lengths: list[int]) -> tuple[float, float]:
    """By how many megabytes a session with so many tokens makes this process grow, and by how many it should."""
    verifier = Verifier(loaded, prefix_reuse=False)
    shape, rng, vocabulary = verifier.pool.shape, random.Random(len(lengths)), verifier.info.vocabulary_size
    gc.collect()
    before = psutil.Process().memory_info().rss
    for session, length in enumerate(lengths):
        log = rng.choices(range(vocabulary), k=length)
        verifier.step(Step(session, (StepItem(session, log, length, (), 0, SamplingParams(), length),)))
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    computed = sum(-(-length // PAGE_SLOTS) * PAGE_SLOTS * shape.token_bytes for length in lengths)
    if verifier.kv_counters.used_bytes != computed:
        raise AssertionError(
            f"{computed} bytes by the formula, {verifier.kv_counters.used_bytes} by the books"
        )
    verifier.close()
    return grown / len(lengths) / MEBI, computed / len(lengths) / MEBI


# ---- prompts that are known ----


def measure_prefix(settings: BenchSettings) -> Section:
    """Milliseconds from a session's first step to its first token: a prompt that another had, and a new one."""
    torch.set_num_threads(settings.threads)
    own, longer = PROMPTS
    makers: dict[int, Callable[[], LoadedModel]] = {
        own: lambda: target_of(settings),
        longer: lambda: random_model(SHAPES["demo"], "cpu", "float32", longer + DRAFT_SLOTS),
    }
    figures, failures = [], []
    for length, make in makers.items():
        verifier = Verifier(make())
        for kind in ("running", "over"):
            name = f"{length} tokens, the first session is {kind}"
            prompts = Prompts(verifier, length, ended=kind == "over")
            rounds = take_turns(prompts.sides(), min(ROUNDS, settings.rounds))
            ratio = rounds.ratio("known", "new")
            figures.append(Figure(name, rounds.spread("known"), rounds.spread("new"), ratio, FRACTION))
            failures += prompts.differences
        verifier.close()
    return Section(
        key="prefix",
        title="A prompt that another session had",
        unit="ms",
        ours="known",
        peer="new",
        ratio_of="known / new",
        settings=(
            f"float32, {settings.threads} torch threads; until the first token, in chunks of {PrefillLimits().chunk}",
            f"{own} tokens: the pair's target; {longer}: random weights in the shape of the demo's",
        ),
        figures=tuple(figures),
        failures=tuple(failures),
    )


class Prompts:
    """In every round a new prompt, for one session and then for another that goes on differently."""

    def __init__(self, verifier: Verifier, length: int, *, ended: bool) -> None:
        self._verifier, self._length, self._ended = verifier, length, ended
        self._rng, self._numbers = random.Random(f"{length} {ended}"), count(1)
        self._prompt: list[int] = []
        self._first = 0
        self._token = 0
        self.differences: list[str] = []
        """Rounds in which the two begin differently."""

    def sides(self) -> dict[str, Side]:
        """First the prompt that is new, then the one that is known."""
        return {"new": self._new, "known": self._known}

    def _new(self, _: int) -> float:
        self._prompt = self._rng.choices(range(self._verifier.info.vocabulary_size), k=self._length)
        self._first = next(self._numbers)
        took, self._token = first_token(self._verifier, self._first, self._prompt)
        if self._ended:
            self._verifier.step(Step(0, (), (self._first,)))
        return took

    def _known(self, number: int) -> float:
        session = next(self._numbers)
        took, token = first_token(self._verifier, session, self._prompt)
        if token != self._token:
            self.differences.append(f"{self._length} tokens, round {number}: {token} is not {self._token}")
        self._verifier.step(Step(0, (), (session,) if self._ended else (session, self._first)))
        return took


def first_token(verifier: Verifier, session: int, prompt: list[int]) -> tuple[float, int]:
    """Milliseconds of all steps until a session's first token, asked for as the pool does; and that token."""
    length, cached, us = len(prompt), 0, 0
    chunk, sampling = PrefillLimits().chunk, SamplingParams()
    while (missing := length - 1 - cached) > chunk:
        item = StepItem(session, prompt, cached + min(chunk, missing), (), None, sampling, length)
        outcome = verifier.step(Step(cached, (item,)))
        us += outcome.duration_us
        cached = outcome.items[0].cached_length
    outcome = verifier.step(Step(length, (StepItem(session, prompt, length, (), 0, sampling, length),)))
    return (us + outcome.duration_us) / 1e3, outcome.items[0].facts[0][1].token
