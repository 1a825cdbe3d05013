"""Decoding without a drafter, one session: ours as a user runs it, and the verifier by itself, against `generate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import count
from typing import Final

import torch

from cloud_server.app import ServeOptions, serving
from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from edge_client.app import DraftOptions, Mode
from scripts.bench.decoding import PeerTarget, Texts, Tokens, ask, bench_prompts, connect, target_server
from scripts.bench.loop_thread import LoopThread
from scripts.bench.measure import CpuClock, take_turns
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings
from shared.sampling import SamplingParams
from shared.session.front import CloudPolicies
from shared.step import Step, StepItem

PEER: Final = "generate"
LOOP: Final = "Verifier.step in a loop"
INSIDE: Final = "client and server in one process"
APART: Final = "server in a process of its own"
AIM: Final = Aim("at least as fast", least=1.0)
ALONE: Final = DraftOptions(mode=Mode.CLOUD)
PLAIN: Final = ServeOptions(listen="127.0.0.1:0", policies=CloudPolicies(prompt_lookup=False))
"""One token a step, as the peer decodes."""


def decode_alone(verifier: Verifier, session: int, prompt: Tokens, tokens: int) -> Tokens:
    """Greedy decoding by steps of the verifier, nothing around them."""
    log, stops, sampling = list(prompt), verifier.info.stop_tokens, SamplingParams()
    while len(log) < len(prompt) + tokens:
        item = StepItem(session, log, len(log), (), 0, sampling, len(prompt))
        ((_, fact),) = verifier.step(Step(len(log), (item,))).items[0].facts
        log.append(fact.token)
        if fact.token in stops:
            break
    verifier.step(Step(len(log) + 1, (), released=(session,)))
    return tuple(log[len(prompt) :])


def measure_alone(settings: BenchSettings) -> Section:
    """Tokens per second of each, whole generations: prefill and the opening of the stream included."""
    prompts, threads, texts = bench_prompts(settings), settings.threads, Texts()
    torch.set_num_threads(threads)
    target = settings.pair / "target"
    peer, sessions = PeerTarget(target), count()
    bare, served = (Verifier(load_model(target, "cpu", "float32"), prefix_reuse=False) for _ in range(2))

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(target_server(settings, threads))
        here, both = CpuClock(), CpuClock([server.pid])
        loop = stack.enter_context(LoopThread())
        inside = loop.enter(serving(served, PLAIN)).address

        def through(at: str) -> Callable[[Tokens], Tokens]:
            client = connect(loop, at, settings, drafting=False)
            return lambda prompt: ask(loop, client, prompt, settings.tokens, ALONE)

        def generate(prompt: Tokens) -> Tokens:
            return peer.generate(prompt, settings.tokens, threads)

        def step_by_step(prompt: Tokens) -> Tokens:
            return decode_alone(bare, next(sessions), prompt, settings.tokens)

        sides = {
            PEER: texts.timed(PEER, prompts, here, generate),
            LOOP: texts.timed(LOOP, prompts, here, step_by_step),
            INSIDE: texts.timed(INSIDE, prompts, here, through(inside)),
            APART: texts.timed(APART, prompts, both, through(server.address)),
        }
        rounds = take_turns(sides, len(prompts))
    bare.close()
    notes, failures = texts.compare(PEER)
    return Section(
        key="alone",
        title="The target alone, one session",
        unit="tokens/s",
        ours="ours",
        peer="transformers, generate",
        ratio_of="times as fast",
        settings=(
            f"float32, greedy, {threads} torch threads on both sides; client and server: gRPC on loopback, mode cloud",
            (
                f"{len(prompts)} held-out prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
                f"up to {settings.tokens} new tokens each, prefill included"
            ),
        ),
        figures=tuple(
            Figure(name, rounds.spread(name), rounds.spread(PEER), rounds.ratio(name, PEER), AIM)
            for name in (LOOP, INSIDE, APART)
        ),
        notes=(*notes, *(texts.cost(name, PEER) for name in (LOOP, INSIDE, APART))),
        failures=failures,
    )
