"""Many sessions at once without a drafter: the verifier's steps over all of them, against `generate` one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from typing import Final

import torch

from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from scripts.bench.decoding import CPU_TICK_S, PeerTarget, Texts, Tokens, bench_prompts
from scripts.bench.measure import CpuClock, seconds, take_turns
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings
from shared.sampling import SamplingParams
from shared.step import Step, StepItem

ROUNDS: Final = 3
"""One takes a quarter of a minute: thirty-two whole texts on either side."""
OURS: Final = "Verifier.step"
PEER: Final = "generate"
TWICE: Final = Aim("at least twice", least=2.0)


def decode_together(verifier: Verifier, first: int, prompts: list[Tokens], tokens: int) -> list[Tokens]:
    """Greedy decoding of all prompts in common steps, sessions `first`, `first` + 1 and so on; who is done leaves."""
    logs, stops, sampling = [list(prompt) for prompt in prompts], verifier.info.stop_tokens, SamplingParams()
    writing, released = list(range(len(prompts))), list[int]()
    for number in count():
        items = tuple(
            StepItem(first + i, logs[i], len(logs[i]), (), 0, sampling, len(prompts[i])) for i in writing
        )
        outcome = verifier.step(Step(number, items, tuple(first + i for i in released)))
        if not items:
            break
        for i, answer in zip(writing, outcome.items, strict=True):
            logs[i].append(answer.facts[0][1].token)
        released = [i for i in writing if logs[i][-1] in stops or len(logs[i]) == len(prompts[i]) + tokens]
        writing = [i for i in writing if i not in released]
    return [tuple(log[len(prompt) :]) for log, prompt in zip(logs, prompts, strict=True)]


def measure_many(settings: BenchSettings) -> Section:
    """Tokens per second of all sessions together, whole texts, prefill included."""
    sessions, threads = settings.session_counts[-1], settings.threads
    prompts = bench_prompts(replace(settings, prompts=sessions))
    torch.set_num_threads(threads)
    peer = PeerTarget(settings.pair / "target")
    verifier = Verifier(load_model(settings.pair / "target", "cpu", "float32"), prefix_reuse=False)
    texts, clock, numbers = Texts(), CpuClock(), count(step=sessions)

    def timed(name: str, number: int, write: Callable[[], Iterable[Tokens]]) -> float:
        written: list[Tokens] = []
        began = clock.now()
        took = seconds(lambda: written.extend(write()))
        tokens, cpu_took = sum(map(len, written)), max(clock.now() - began, CPU_TICK_S)
        for prompt, text in enumerate(written):
            texts.note(name, prompt, text)
        if number >= 0:
            texts.per_cpu.setdefault(name, []).append(tokens / cpu_took)
        return tokens / took

    def ours(number: int) -> float:
        return timed(OURS, number, lambda: decode_together(verifier, next(numbers), prompts, settings.tokens))

    def theirs(number: int) -> float:
        return timed(
            PEER, number, lambda: (peer.generate(prompt, settings.tokens, threads) for prompt in prompts)
        )

    ours(-1)  # the warm-up of one side; the other one warms up with its first text of thirty-two
    rounds = take_turns({OURS: ours, PEER: theirs}, min(ROUNDS, settings.rounds), warm_up=False)
    verifier.close()
    notes, failures = texts.compare(PEER)
    return Section(
        key="many",
        title="The target alone, many sessions",
        unit="tokens/s",
        ours=OURS,
        peer="transformers, generate",
        ratio_of="times as fast",
        settings=(
            f"float32, greedy, {threads} torch threads on both sides; generate takes the prompts one after the other",
            (
                f"{sessions} held-out prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
                f"up to {settings.tokens} new tokens each, prefill included"
            ),
        ),
        figures=(
            Figure(
                f"{sessions} sessions at once",
                rounds.spread(OURS),
                rounds.spread(PEER),
                rounds.ratio(OURS, PEER),
                TWICE,
            ),
        ),
        notes=(*notes, texts.cost(OURS, PEER)),
        failures=failures,
    )
