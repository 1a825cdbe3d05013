"""`python -m scripts.bench_assist`: what a drafter near the cloud gives to edges that are far away.

A real server, real edges behind an emulated link and a real `edge-client assist --all` process beside the server,
against speculative inference with drafter and target on one host (co-located SI, its best lookahead). Every arm writes
every prompt once in each round, so that what disturbs the machine disturbs them all.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from edge_client.options import ClientOptions, GenerateOptions
from edge_client.policies import DraftOptions, Mode
from edge_client.security import ClientSecurity
from scripts.bench_latency.codec import encode
from scripts.bench_latency.machine import machine
from scripts.bench_latency.stations import Edge
from scripts.bench_latency.wire import OPEN
from scripts.processes import Child, ChildError, child, python
from scripts.wan.choose import Enforcer
from scripts.wan.link import Choice, emulated_link
from scripts.wan.profiles import WanProfile
from shared.errors import UserError
from shared.profiled import parse_profile
from shared.sim.predict import random_prompt

PROMPT_TOKENS: Final = 16
READY_S: Final = 60.0
TOLERANCE: Final = 1.10
"""An assisted edge may take so much longer per token than co-located SI."""
COLOCATED: Final = "SI co-located"
ALONE: Final = "Slipstream, the edge drafts"
ASSISTED: Final = "Slipstream, an assistant near the cloud"
BOTH: Final = "Slipstream, the assistant and the edge draft"
HELD: Final = (ASSISTED, BOTH)
"""The arms that are held to co-located SI's speed."""

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Arm:
    """One edge and how it writes."""

    name: str
    rtt_ms: float
    draft: DraftOptions
    edge: Edge


@dataclass(slots=True)
class Found:
    """Milliseconds per token of each generation, by arm."""

    tpot_ms: dict[tuple[float, str], list[float]] = field(default_factory=dict)
    acceptance: list[float] = field(default_factory=list)
    """Of the assistant, in each of the sessions that it helped."""

    def add(self, arm: Arm, tpot_ms: float | None) -> None:
        """One more generation."""
        if tpot_ms is None:
            raise ChildError(f"{arm.name}: too few tokens to measure")
        self.tpot_ms.setdefault((arm.rtt_ms, arm.name), []).append(tpot_ms)

    def mean(self, rtt_ms: float, name: str) -> float:
        """Over all generations of an arm."""
        return statistics.fmean(self.tpot_ms[rtt_ms, name])

    @property
    def best_lookahead(self) -> str:
        """The fastest of the co-located arms."""
        return min((name for rtt, name in self.tpot_ms if rtt == 0.0), key=lambda name: self.mean(0.0, name))

    @property
    def colocated_ms(self) -> float:
        """What the others are held to."""
        return self.mean(0.0, self.best_lookahead)

    def failures(self) -> list[str]:
        """Arms that do not keep co-located SI's speed."""
        most = TOLERANCE * self.colocated_ms
        return [
            f"{name} at RTT {rtt:g} ms: {self.mean(rtt, name):.1f} ms per token, at most {most:.1f}"
            for rtt, name in self.tpot_ms
            if name in HELD and self.mean(rtt, name) > most
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    pair: str
    rtts_ms: tuple[float, ...]
    rounds: int
    tokens: int
    lookaheads: tuple[int, ...]
    enforcer: Enforcer | None

    @property
    def vocabulary(self) -> int:
        """Of the pair."""
        return parse_profile(self.pair).vocabulary_size


class Hall:
    """Everything that runs: servers, the assistant, links and edges."""

    def __init__(self, plan: Plan, stack: contextlib.ExitStack) -> None:
        """Raises `ChildError` when something does not come up, `UserError` when no link can be emulated here."""
        self._plan = plan
        self._stack = stack
        self.choice: Choice | None = None
        token = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "token"
        token.write_text(secrets.token_hex(16))
        token.chmod(0o600)
        plain = self._server("--no-prompt-lookup", "--no-adaptive-patience")
        alone = self._server()
        assisted = self._server("--assistants-token-file", str(token))
        assist = ("assist", "--all", "--server", assisted.address, "--token-file", str(token))
        command = python("-m", "edge_client", *assist, "--drafter", plan.pair, "--json")
        self.assistant = stack.enter_context(child("assistant", command, ready_s=None))
        near = self._edge(plain, None, plan.pair)
        self.arms = [
            Arm(f"{COLOCATED}, lookahead {k}", 0.0, DraftOptions(mode=Mode.SYNC, lookahead=k), near)
            for k in plan.lookaheads
        ]
        for rtt in plan.rtts_ms:
            drafting, silent = DraftOptions(), DraftOptions(mode=Mode.CLOUD)
            far = self._edge(assisted, rtt, plan.pair)
            self.arms += [
                Arm(ALONE, rtt, drafting, self._edge(alone, rtt, plan.pair)),
                Arm(ASSISTED, rtt, silent, far),
                Arm(BOTH, rtt, drafting, far),
            ]

    def _server(self, *options: str) -> Child:
        command = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", self._plan.pair)
        return self._stack.enter_context(child("server", [*command, *options], ready_s=READY_S))

    def _edge(self, server: Child, rtt_ms: float | None, drafter: str) -> Edge:
        address, command = server.address, python("-m", "scripts.bench_latency.edge_process")
        link = None
        if rtt_ms is not None:
            link = self._stack.enter_context(emulated_link(WanProfile(rtt_ms), self._plan.enforcer))
            self.choice = link.choice
            address, command = link.edge_address(address), link.edge_command(command)
        process = self._stack.enter_context(child("edge", command, ready_s=None))
        security = ClientSecurity(insecure_beyond_loopback=True)  # this machine's end of the link
        options = ClientOptions(server=address, drafter=drafter, security=security)
        process.write(json.dumps(encode(options)))
        said = process.line(READY_S)
        if not said.startswith(OPEN):
            raise ChildError(f"the edge said {said!r}")
        return Edge(process, server, link)


def measure(plan: Plan, console: Console) -> Iterator[tuple[Hall, Found]]:
    """The figures after each round."""
    found = Found()
    with contextlib.ExitStack() as stack:
        hall = Hall(plan, stack)
        for number in range(plan.rounds + 1):
            prompt = random_prompt(number, PROMPT_TOKENS, plan.vocabulary)
            texts: dict[tuple[int, ...], str] = {}
            for arm in hall.arms:
                asked = GenerateOptions(prompt=prompt, max_new_tokens=plan.tokens, draft=arm.draft)
                answer = arm.edge.generate(asked)
                texts[answer.tokens] = arm.name
                if number and answer.stats is not None:  # the first round warms everything up
                    found.add(arm, answer.stats.tpot_ms)
                if arm.name in HELD:
                    helped = json.loads(hall.assistant.line(READY_S))
                    if helped["acceptance"] is None:
                        raise ChildError(f"the assistant did not help: {helped}")
                    found.acceptance += [helped["acceptance"]] if number else []
            if len(texts) != 1:
                raise ChildError(f"prompt {number}: texts differ: {sorted(texts.values())}")
            if number:
                console.print(f"round {number} of {plan.rounds}", style="dim")
                yield hall, found


def show(plan: Plan, found: Found, console: Console) -> None:
    """The table."""
    table = Table(title=f"milliseconds per token, {plan.pair}, {plan.tokens} tokens, {plan.rounds} prompts")
    for title in ("RTT ms", "arm", "mean", "least", "most", "of co-located SI"):
        table.add_column(title, justify="left" if title == "arm" else "right")
    for (rtt, name), values in sorted(found.tpot_ms.items(), key=lambda one: one[0][0]):
        mean = statistics.fmean(values)
        row = (f"{mean:.1f}", f"{min(values):.1f}", f"{max(values):.1f}", f"{mean / found.colocated_ms:.2f}")
        table.add_row(f"{rtt:g}", name, *row)
    console.print(table)
    console.print(
        f"the assistant was right in {statistics.fmean(found.acceptance):.3f} of the tokens that it had drafts for"
    )


def write(path: Path, plan: Plan, hall: Hall, found: Found) -> None:
    """All figures as JSON."""
    arms = [{"rtt_ms": rtt, "arm": name, "tpot_ms": values} for (rtt, name), values in found.tpot_ms.items()]
    link = None if hall.choice is None else hall.choice.enforcer.value
    result = {
        "plan": encode(plan),
        "machine": machine(),
        "link": link,
        "arms": arms,
        "assistant_acceptance": found.acceptance,
        "failures": found.failures(),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


@app.command()
def main(
    *,
    pair: Annotated[
        str, typer.Option(help="Profiled pair.")
    ] = "profiled:acceptance=0.8,step_ms=30,draft_ms=3",
    rtt_ms: Annotated[
        list[float] | None, typer.Option(help="Round trips. May be repeated. [100, 200]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Prompts that every arm writes.")] = 6,
    tokens: Annotated[int, typer.Option(min=16, help="Of a text.")] = 256,
    lookahead: Annotated[
        list[int] | None, typer.Option(help="Of co-located SI; the fastest counts. [3, 4, 5, 6]")
    ] = None,
    enforcer: Annotated[
        Enforcer | None, typer.Option(help="Of the links. [the best of this machine]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
) -> None:
    """Exit with 1 if an assisted edge takes more than 10 % longer per token than co-located SI."""
    plan = Plan(
        pair, tuple(rtt_ms or (100.0, 200.0)), rounds, tokens, tuple(lookahead or (3, 4, 5, 6)), enforcer
    )
    console = Console()
    hall, found = None, Found()
    for hall, found in measure(plan, console):  # noqa: B007 - the last round's are shown
        pass
    show(plan, found, console)
    if out is not None and hall is not None:
        write(out, plan, hall, found)
    for failure in (failures := found.failures()):
        console.print(failure, style="bold")
    raise typer.Exit(bool(failures))


if __name__ == "__main__":
    try:
        app()
    except (UserError, ChildError) as error:
        print(f"bench_assist: {error}", file=sys.stderr)
        sys.exit(2)
