"""The live side: a server, an emulated link and clients, each a process, asked for the same texts."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass

from edge_client.options import ClientOptions
from edge_client.security import ClientSecurity
from scripts.bench_capacity.accounting import Written
from scripts.bench_capacity.run import Cost, served_by
from scripts.bench_capacity.wire import Load, Served
from scripts.bench_latency.codec import encode
from scripts.bench_latency.deployment import switches
from scripts.bench_latency.prompts import PROMPT_TOKENS
from scripts.processes import child, python
from scripts.validate.configuration import Configuration
from scripts.validate.figures import Generation
from scripts.validate.simulated import longest_ms
from scripts.wan.link import Enforcer, emulated_link
from scripts.wan.profiles import WanProfile
from shared.profiled import ProfiledPair, decode
from shared.sim.predict import random_prompt


@dataclass(frozen=True, slots=True)
class Live:
    """What came of it."""

    generations: tuple[Generation, ...]
    wrong: int
    """Texts that are not the target's own."""
    load: float
    """Load average before."""
    clients_cpu: float
    """Share of one core that the clients' process used."""
    server_cpu: float
    busy: float
    """Share of all cores that anybody used."""
    neighbours: float
    """Share of all cores that anybody else used."""


def run(configuration: Configuration, enforcer: Enforcer | None) -> Live:
    """Measure. To be called on the main thread, as every child's start.

    Raises:
        UserError: the enforcer is not possible here.
        ChildError: something does not come up, or breaks.
    """
    load_average = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(child("server", server_command(configuration)))
        link = stack.enter_context(emulated_link(WanProfile(configuration.stretched_rtt_ms), enforcer))
        load = _load(configuration, link.edge_address(server.address))
        command = link.edge_command(python("-m", "scripts.bench_capacity.clients_process"))
        clients = stack.enter_context(child("clients", command, ready_s=None))
        clients.write(json.dumps(encode(load)))
        served, cost = served_by(clients, server, load)
    return _live(configuration, served, cost, load_average)


def server_command(configuration: Configuration) -> list[str]:
    """Its command line."""
    options = {
        "--listen": "127.0.0.1:0",
        "--model": configuration.source,
        "--workers": configuration.workers,
        "--sp-degree": configuration.sp_degree,
        "--max-sessions": 4 * configuration.clients,
        "--drain-s": 1,
    }
    given = [str(part) for pair in options.items() for part in pair]
    return python("-m", "cloud_server", "serve", *given, *switches(configuration.cloud))


def _load(configuration: Configuration, address: str) -> Load:
    return Load(
        client=ClientOptions(
            server=address,
            drafter=configuration.source if configuration.drafts else "none",
            security=ClientSecurity(insecure_beyond_loopback=True),  # the emulator's end on this machine
        ),
        draft=configuration.draft,
        clients=configuration.clients,
        tokens=configuration.tokens,
        vocabulary_size=configuration.pair.vocabulary_size,
        first_prompt=0,
        warm_up_s=0.0,
        window_s=longest_ms(configuration) / 1000,
        spread_s=configuration.pair.step_ms / 1000,
        generations=configuration.generations,
    )


def _live(configuration: Configuration, served: Served, cost: Cost, load_average: float) -> Live:
    seconds = served.window.duration_ms / 1000
    return Live(
        generations=tuple(_generation(one) for one in served.written),
        wrong=wrong_texts(configuration, served),
        load=round(load_average, 2),
        clients_cpu=round(served.cpu_s / seconds, 3),
        server_cpu=round(cost.server_s / seconds, 3),
        busy=round(cost.busy, 3),
        neighbours=round(cost.neighbours, 3),
    )


def wrong_texts(configuration: Configuration, served: Served) -> int:
    """Generations that are not, in full length, what the target alone writes."""
    pair = ProfiledPair(configuration.pair)
    size = configuration.pair.vocabulary_size
    return sum(
        list(tokens) != decode(pair, random_prompt(prompt, PROMPT_TOKENS, size), configuration.tokens)
        for prompt, tokens in served.texts
    )


def _generation(one: Written) -> Generation:
    return Generation(
        client=one.client,
        asked_ms=one.asked_ms,
        times_ms=tuple(arrival.at_ms for arrival in one.arrivals),
        sizes=tuple(arrival.tokens for arrival in one.arrivals),
        facts=sum(arrival.facts for arrival in one.arrivals),
        accepted=sum(arrival.accepted for arrival in one.arrivals),
        judged=sum(arrival.judged for arrival in one.arrivals),
    )
