"""Drafter and verifier on one host, as a user runs them, against `generate(assistant_model=...)` on the same pair.

Both sides get the best of a small set: ours of shapes, windows and the server's threads, the peer of its own schedules
and threads. Which is best is chosen on every other prompt and measured on the rest: the best of many noisy figures is
too good to be true. Everything runs on the same cores; the drafter has one thread, which then is not the verifier's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from edge_client.app import Client, DraftOptions, Mode, Shape
from scripts.bench.decoding import PeerTarget, Texts, Tokens, ask, bench_prompts, connect, target_server
from scripts.bench.loop_thread import LoopThread
from scripts.bench.measure import CpuClock, Rounds, take_turns
from scripts.bench.peer_drafter import load_peer_drafter
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings

PLAIN: Final = "generate"
ALONE: Final = "cloud alone"
AIM: Final = Aim("twice as fast", least=2.0)
SHAPES: Final = {
    ALONE: DraftOptions(mode=Mode.CLOUD),
    "chain, window 4": DraftOptions(shape=Shape.CHAIN, window=4),
    "chain, window 8": DraftOptions(shape=Shape.CHAIN, window=8),
    "chain, window 16": DraftOptions(shape=Shape.CHAIN, window=16),
    "tree 2x2, window 8": DraftOptions(shape=Shape.TREE, branches=2, width=2, window=8),
    "tree 2x2, window 16": DraftOptions(shape=Shape.TREE, branches=2, width=2, window=16),
    "tree 4x4, window 32": DraftOptions(shape=Shape.TREE, branches=4, width=4, window=32),
    "tree, the client's defaults": DraftOptions(shape=Shape.TREE),
}
SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "assisted, transformers' defaults": {},
    "assisted, always 4 drafts": {
        "num_assistant_tokens": 4,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    },
}


def measure_pair(settings: BenchSettings) -> Section:
    """Tokens per second of every way on both sides, and the best against the best."""
    prompts, texts = bench_prompts(settings), Texts()
    peers = _peers(settings)
    counts = sorted({1, settings.threads})
    sides = {name: texts.timed(name, prompts, CpuClock(), write) for name, write in peers.items()}
    with contextlib.ExitStack() as stack:
        servers = {n: stack.enter_context(target_server(settings, n)) for n in counts}
        loop = stack.enter_context(LoopThread())
        for threads, server in servers.items():
            client, cpu = connect(loop, server.address, settings, drafting=True), CpuClock([server.pid])
            for shape, options in SHAPES.items():
                name, write = (
                    f"{shape}, server threads {threads}",
                    _ours(loop, client, settings.tokens, options),
                )
                sides[name] = texts.timed(name, prompts, cpu, write)
        rounds = take_turns(sides, len(prompts))
    ours = [name for name in sides if name not in peers]
    best, rival = _best(rounds.every_other(0), ours, list(peers))
    reference = f"{PLAIN}, threads {settings.threads}"
    notes, failures = texts.compare(reference)
    return Section(
        key="pair",
        title="Drafter and verifier on one host, one session",
        unit="tokens/s",
        ours="ours",
        peer="transformers",
        ratio_of="times as fast",
        settings=(
            "float32, greedy; ours: mode stream, gRPC on loopback, server in a process of its own, drafter 1 thread",
            f"{len(prompts)} held-out prompts, up to {settings.tokens} new tokens each, prefill included",
            "the peer's assistant is this drafter in torch, its weights taken from the ONNX file",
            "best: the highest median on one half of the prompts; all figures are from the other half",
        ),
        figures=_figures(rounds.every_other(1), best, rival, ours, list(peers)),
        notes=(*notes, texts.cost(best, rival)),
        failures=failures,
    )


def _ours(loop: LoopThread, client: Client, tokens: int, options: DraftOptions) -> Callable[[Tokens], Tokens]:
    return lambda prompt: ask(loop, client, prompt, tokens, options)


def _peers(settings: BenchSettings) -> dict[str, Callable[[Tokens], Tokens]]:
    target = PeerTarget(settings.pair / "target")
    ways: dict[str, Callable[[Tokens], Tokens]] = {}

    def add(name: str, threads: int, assistant: Any) -> None:
        ways[f"{name}, threads {threads}"] = lambda prompt: target.generate(
            prompt, settings.tokens, threads, assistant
        )

    for threads in sorted({1, settings.threads}):
        add(PLAIN, threads, None)
        for name, schedule in SCHEDULES.items():
            assistant = load_peer_drafter(settings.pair / "drafter", target.max_positions)
            for key, value in schedule.items():
                setattr(assistant.generation_config, key, value)
            add(name, threads, assistant)
    return ways


def _best(rounds: Rounds, ours: list[str], peers: list[str]) -> tuple[str, str]:
    """The fastest way with a drafter on either side."""
    return (
        rounds.highest([name for name in ours if not name.startswith(ALONE)]),
        rounds.highest([name for name in peers if not name.startswith(PLAIN)]),
    )


def _figures(rounds: Rounds, best: str, rival: str, ours: list[str], peers: list[str]) -> tuple[Figure, ...]:
    """The best against the best, then every way of ours against the best peer, then ours against every other peer."""

    def figure(mine: str, other: str, name: str, aim: Aim | None = None) -> Figure:
        return Figure(name, rounds.spread(mine), rounds.spread(other), rounds.ratio(mine, other), aim)

    return (
        figure(best, rival, f"best of ours ({best}) and of the peer's ({rival})", AIM),
        *(figure(name, rival, name) for name in ours if name != best),
        *(figure(best, name, f"best of ours and: {name}") for name in peers if name != rival),
    )
