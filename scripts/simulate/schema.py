"""A scenario: what a deployment is made of, what is asked of it, what is wanted of it (docs/scenarios.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from scripts.simulate.recorded import read_lengths
from scripts.simulate.schema_base import (
    MOST_EDGES,
    MOST_SECONDS,
    MOST_WORKERS,
    Matching,
    Milliseconds,
    Model,
    Name,
    Price,
    ReadableBy,
    Seconds,
    Seed,
    Share,
    Text,
    Within,
    unknown,
    wrong,
)
from scripts.simulate.schema_draws import TokenSpread
from scripts.simulate.schema_fleets import Assistant, Fleet
from scripts.simulate.schema_servers import Server

LENGTHS_FILE: Final = "a .csv or .jsonl file with columns prompt_tokens and output_tokens"


class Target(Model):
    """The model in the cloud; what its steps cost is a matter of the workers' hardware."""

    vocabulary_size: Annotated[int, Within(64, 1_000_000, whole=True)] = 32_000
    """Tokens that there are."""
    context_length: Annotated[int, Within(2, 10_000_000, whole=True)] = 131_072
    """Longest log; every prompt must be shorter."""
    seed: Seed = 0
    """Another one is another target: other texts, other places where drafters are right."""


class Workload(Model):
    """How long prompts and answers are: two distributions, or recorded pairs of lengths."""

    prompt_tokens: TokenSpread | None = None
    """Of a question, all that is sent with it included."""
    output_tokens: TokenSpread | None = None
    """Of an answer."""
    file: Annotated[Path, ReadableBy(read_lengths, LENGTHS_FILE)] | None = None
    """In place of the two; each generation takes one of its rows, each row as likely."""

    @property
    def longest_prompt(self) -> float:
        """That it may come to, in tokens."""
        if self.file is not None:
            return max(row.prompt for row in read_lengths(self.file))
        return 0 if self.prompt_tokens is None else max(value for _, value in self.prompt_tokens.support)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Workload:
        spreads = (self.prompt_tokens, self.output_tokens)
        if self.file is not None and spreads != (None, None):
            raise wrong("the file says how long: leave out prompt_tokens and output_tokens")
        if self.file is None and None in spreads:
            raise wrong("give prompt_tokens and output_tokens (1 to 1,000,000 each), or file")
        return self


class Objective(Model):
    """What is wanted of generations: a share of them within each limit."""

    fleet: str | None = None
    """Left out: of all of them."""
    ttft_ms: Milliseconds | None = None
    """From a question to the first token."""
    tpot_ms: Milliseconds | None = None
    """From the first to the last token, per token after the first."""
    itl_ms: Milliseconds | None = None
    """Between two tokens at the edge; here the share is one of gaps."""
    share: Share = 0.95
    """Of generations that must keep each limit."""

    @model_validator(mode="after")
    def _limits_something(self) -> Objective:
        if self.ttft_ms is None and self.tpot_ms is None and self.itl_ms is None:
            raise wrong("give at least one of ttft_ms, tpot_ms, itl_ms (0 to 3,600,000)")
        return self


class Prices(Model):
    """What the workers' own prices do not say."""

    currency: Annotated[str, Matching("[A-Z]{3}", "three capital letters, such as EUR")] = "USD"
    """Of every price here and in `servers`."""
    per_kwh: Price | None = None
    """Of electricity, for what has watts. Left out: energy is free."""
    per_gb: Price | None = None
    """Of traffic between edges and cloud, both ways. Left out: it is free."""


class Scenario(Model):
    """One deployment, and one run of it."""

    name: Name
    """What results call it."""
    description: Text = ""
    """For its reader."""
    seed: Seed = 0
    """Everything that is drawn follows from it."""
    duration_s: Annotated[float, Within(0.001, MOST_SECONDS)]
    """Simulated time."""
    warm_up_s: Seconds = 0.0
    """What happens before counts for no figure."""
    target: Target = Target()
    """The model that everybody is served with."""
    workloads: Annotated[dict[str, Workload], Field(min_length=1, max_length=1_000)]
    """What is asked for."""
    fleets: Annotated[tuple[Fleet, ...], Field(min_length=1, max_length=1_000)]
    """Who asks."""
    servers: Annotated[tuple[Server, ...], Field(min_length=1, max_length=64)]
    """Who answers."""
    near: Assistant | None = None
    """A device beside the cloud that drafts for every session, whoever's, as soon as a server says that it has it."""
    slo: Annotated[tuple[Objective, ...], Field(max_length=100)] = ()
    """What is wanted."""
    prices: Prices = Prices()
    """What energy and traffic cost."""

    @property
    def edges(self) -> int:
        """Of all fleets."""
        return sum(fleet.count for fleet in self.fleets)

    @property
    def workers(self) -> int:
        """Of all servers."""
        return sum(group.count for server in self.servers for group in server.workers)

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        if self.warm_up_s >= self.duration_s:
            raise wrong(
                f"{self.warm_up_s:g} is not below duration_s, {self.duration_s:g}: nothing would count",
                "warm_up_s",
            )
        for key, things in (("fleets", self.fleets), ("servers", self.servers)):
            _names_differ(key, [thing.name for thing in things])
        for number, fleet in enumerate(self.fleets):
            if fleet.workload not in self.workloads:
                raise unknown(fleet.workload, self.workloads, "workload", "fleets", number, "workload")
        fleets = [fleet.name for fleet in self.fleets]
        for number, objective in enumerate(self.slo):
            if objective.fleet is not None and objective.fleet not in fleets:
                raise unknown(objective.fleet, fleets, "fleet", "slo", number, "fleet")
        if self.edges > MOST_EDGES:
            raise wrong(f"{self.edges:,} edges in all: at most {MOST_EDGES:,}", "fleets")
        if self.workers > MOST_WORKERS:
            raise wrong(f"{self.workers:,} workers in all: at most {MOST_WORKERS:,}", "servers")
        return self

    @model_validator(mode="after")
    def _prompts_fit(self) -> Scenario:
        context = self.target.context_length
        for name, workload in self.workloads.items():
            longest = workload.longest_prompt
            if longest >= context:
                text = f"prompts of up to {longest:,.0f} tokens: at most {context - 1:,}, by target.context_length"
                raise wrong(text, "workloads", name)
        return self

    @model_validator(mode="after")
    def _memory_is_known(self) -> Scenario:
        for number, server in enumerate(self.servers):
            for place, group in enumerate(server.workers):
                memory = group.memory
                unsaid = memory is not None and memory.gb is not None and memory.kv_bytes_per_token is None
                if unsaid and group.hardware.file is None:
                    key = ("servers", number, "workers", place, "memory", "kv_bytes_per_token")
                    raise wrong("is missing (1 to 100,000,000): no hardware profile says it", *key)
        return self


def _names_differ(key: str, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise wrong(f"{name!r} is the name of another one already", key, number, "name")
