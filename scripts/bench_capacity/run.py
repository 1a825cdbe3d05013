"""Runs one arm of one cell: a server, a link, the clients, and what they cost the machine."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from dataclasses import dataclass
from typing import Final

import numpy as np
import psutil

from edge_client.options import ClientOptions
from edge_client.security import ClientSecurity
from scripts.bench.measure import Neighbours
from scripts.bench_capacity.accounting import Window
from scripts.bench_capacity.records import Measured, Predicted
from scripts.bench_capacity.setting import BATCHING, Arm, Setting
from scripts.bench_capacity.simulate import draft_of
from scripts.bench_capacity.wire import BEGUN, Load, Served
from scripts.bench_latency.arms import PLAIN
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.deployment import switches
from scripts.bench_latency.prompts import PROMPT_TOKENS
from scripts.bench_latency.statistic import Interval, interval
from scripts.processes import Child, ChildError, child, python
from scripts.wan.link import Choice, Enforcer, emulated_link
from scripts.wan.profiles import WanProfile
from shared.profiled import ProfiledPair
from shared.profiled import decode as write_alone
from shared.session.front import CloudPolicies
from shared.sim.predict import random_prompt

WARM_UP_STEPS: Final = 40
LEAST_STEPS: Final = 100
"""In a window."""
MOST_CLIENTS: Final = 16
"""More of them write enough in half of the steps."""
LEAST_TOKENS: Final = 600
"""In a window, if every client gets one in every step."""
OPEN_S: Final = 60.0
"""Until all clients have connected."""
ANSWER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Span:
    """How long is measured, in verify steps of the pair."""

    warm_up_steps: int
    window_steps: int

    def seconds(self, steps: int, setting: Setting) -> float:
        """As it is run."""
        return steps * setting.pair.step_ms * setting.stretch / 1000


def span_for(clients: int, *, quick: bool) -> Span:
    """Few clients write few tokens a step, so they are measured for longer."""
    if quick:
        return Span(WARM_UP_STEPS // 2, LEAST_STEPS // 2)
    least = LEAST_STEPS // 2 if clients > MOST_CLIENTS else LEAST_STEPS
    return Span(WARM_UP_STEPS, max(least, LEAST_TOKENS // clients))


def run(
    setting: Setting,
    arm: Arm,
    lookahead: int | None,
    span: Span,
    enforcer: Enforcer | None,
    prediction: Predicted | None,
) -> tuple[Measured, Choice]:
    """Measure. To be called on the main thread, as every child's start.

    Raises:
        UserError: what was asked for is not possible here.
        ChildError: something does not come up, or breaks.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(child("server", _server(setting, arm, lookahead)))
        link = stack.enter_context(emulated_link(WanProfile(setting.stretched.rtt_ms), enforcer))
        load = _load(setting, arm, span, link.edge_address(server.address))
        command = link.edge_command(python("-m", "scripts.bench_capacity.clients_process"))
        clients = stack.enter_context(child("clients", command, ready_s=None))
        clients.write(json.dumps(encode(load)))
        served, cost = served_by(clients, server, load)
    return _measured(setting, arm, lookahead, served, cost, load.window_s, prediction), link.choice


def _server(setting: Setting, arm: Arm, lookahead: int | None) -> list[str]:
    sessions = str(4 * setting.clients)  # those that have ended and were not noticed yet count too
    if lookahead is not None:
        own = [setting.source, str(lookahead), BATCHING[arm].value, sessions]
        return python("-m", "scripts.bench_capacity.colocated_server", *own)
    command = ["--listen", "127.0.0.1:0", "--model", setting.source, "--max-sessions", sessions]
    policies = CloudPolicies() if arm is Arm.SLIPSTREAM else PLAIN
    return python("-m", "cloud_server", "serve", *command, "--drain-s", "1", *switches(policies))


def _load(setting: Setting, arm: Arm, span: Span, address: str) -> Load:
    drafter = setting.source if arm is Arm.SLIPSTREAM else "none"
    return Load(
        client=ClientOptions(
            server=address,
            drafter=drafter,
            security=ClientSecurity(insecure_beyond_loopback=True),  # the emulator's end on this machine
        ),
        draft=draft_of(arm),
        clients=setting.clients,
        tokens=setting.tokens,
        vocabulary_size=setting.pair.vocabulary_size,
        first_prompt=0,
        warm_up_s=span.seconds(span.warm_up_steps, setting),
        window_s=span.seconds(span.window_steps, setting),
        spread_s=span.seconds(1, setting),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What the window cost the machine."""

    server_s: float
    """The server's processor time."""
    busy: float
    """Share of all cores that anybody used."""
    neighbours: float


def served_by(clients: Child, server: Child, load: Load) -> tuple[Served, Cost]:
    """What clients who were given `load` answer, and what it cost the machine.

    Raises:
        ChildError: they break, or say nothing.
    """
    word = clients.line(OPEN_S + load.warm_up_s)
    if word != BEGUN:
        raise ChildError(f"clients said {word!r} instead of {BEGUN}")
    process = psutil.Process(server.pid)
    with Neighbours() as machine:
        before = _cpu_s(process)
        answer = clients.line(ANSWER_S + load.window_s)
        server_cpu = _cpu_s(process) - before
    served = decode(Served, json.loads(answer))
    cores = os.cpu_count() or 1
    # What others used, by the machine's own count, less what these two did.
    own = (served.cpu_s + server_cpu) / (served.window.duration_ms / 1000 * cores)
    return served, Cost(server_cpu, machine.share, max(0.0, machine.share - own))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _measured(
    setting: Setting,
    arm: Arm,
    lookahead: int | None,
    served: Served,
    cost: Cost,
    window_s: float,
    prediction: Predicted | None,
) -> Measured:
    window = served.window
    if len(window.itl_ms) < 2:
        raise ChildError(f"{setting.key}: no two tokens arrived in the window")
    p50, p95, p99 = (float(one) / setting.stretch for one in np.percentile(window.itl_ms, (50, 95, 99)))
    return Measured(
        setting=setting,
        arm=arm,
        lookahead=lookahead,
        window_s=round(window_s / setting.stretch, 3),
        tokens=window.tokens,
        tokens_per_s=rate(window, setting.stretch),
        itl_p50_ms=round(p50, 3),
        itl_p95_ms=round(p95, 3),
        itl_p99_ms=round(p99, 3),
        ttft_p50_ms=round(statistics.median(window.ttft_ms) / setting.stretch, 2) if window.ttft_ms else None,
        facts_per_token=round(window.facts / window.tokens, 3),
        acceptance=round(window.accepted / window.judged, 4) if window.judged else None,
        generations=served.generations,
        wrong=wrong_texts(setting, served),
        clients_cpu=round(served.cpu_s / window_s, 3),
        server_cpu=round(cost.server_s / window_s, 3),
        busy=round(cost.busy, 3),
        neighbours=round(cost.neighbours, 3),
        predicted=prediction,
    )


def rate(window: Window, stretch: float) -> Interval:
    """Tokens per second of all clients, unstretched, with its interval over the window's parts."""
    seconds = window.duration_ms / len(window.slices) / 1000 / stretch
    found = interval(window.slices, lambda some: statistics.fmean(some) / seconds)
    if found is None:
        raise AssertionError("a window has parts")
    return found


def wrong_texts(setting: Setting, served: Served) -> int:
    """Generations, whole or not, that are not what the target alone writes."""
    pair = ProfiledPair(setting.pair)
    size = setting.pair.vocabulary_size
    return sum(
        list(tokens) != write_alone(pair, random_prompt(prompt, PROMPT_TOKENS, size), len(tokens))
        for prompt, tokens in served.texts
    )
