"""Servers: pools of workers, what their hardware does and costs, what befalls them, and the policies of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from scripts.simulate.schema_base import (
    MOST_WORKERS,
    Milliseconds,
    Model,
    Name,
    Price,
    ReadableBy,
    Seconds,
    Share,
    StepMilliseconds,
    Watts,
    Within,
    wrong,
)
from shared.hardware import read_hardware

# ---- hardware ----


class Hardware(Model):
    """What a verify step costs: a file that `scripts.bench_verifier` wrote, or three numbers. A bare name means the
    file of that name.
    """

    file: Annotated[Path, ReadableBy(read_hardware, "a hardware profile (see docs/hardware.md)")] | None = (
        None
    )
    """In place of the three numbers."""
    step_ms: StepMilliseconds | None = None
    """Duration of a step of up to `flat_nodes` nodes."""
    flat_nodes: Annotated[int, Within(0, 1_000_000, whole=True)] = 0
    """Nodes of all sessions up to which a step costs the same."""
    node_ms: Annotated[float, Within(0, 1_000)] = 0.0
    """What each further node adds; 0: a step lasts `step_ms` whatever is in it."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Hardware:
        if (self.file is None) == (self.step_ms is None):
            raise wrong("give either file or step_ms (0.001 to 60,000)")
        if self.file is not None and (self.flat_nodes or self.node_ms):
            raise wrong("the file says what a step costs: leave out flat_nodes and node_ms")
        return self


def _by_file(data: Any) -> Any:
    return {"file": data} if isinstance(data, str | Path) else data


class Memory(Model):
    """What a worker can hold of its sessions' keys and values: in tokens, or in bytes."""

    tokens: Annotated[int, Within(64, 1_000_000_000, whole=True)] | None = None
    """Of all its sessions together."""
    gb: Annotated[float, Within(0.001, 100_000)] | None = None
    """The same in units of 10^9 bytes."""
    kv_bytes_per_token: Annotated[int, Within(1, 100_000_000, whole=True)] | None = None
    """With `gb`. Left out: as the hardware profile's model has it."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Memory:
        if (self.tokens is None) == (self.gb is None):
            raise wrong("give either tokens (64 to 1,000,000,000) or gb (0.001 to 100,000)")
        if self.tokens is not None and self.kv_bytes_per_token is not None:
            raise wrong("it goes with gb: tokens are counted already", "kv_bytes_per_token")
        return self


# ---- what befalls workers ----


class Befalls(StrEnum):
    """What happens to a worker."""

    JOIN = "join"
    """It is there from then on, and not from the beginning."""
    DRAIN = "drain"
    """It goes when its sessions have moved."""
    CRASH = "crash"
    """It is gone at once."""
    FREEZE = "freeze"
    """It answers nothing for `lasts_s`; if that is longer than `worker_deadline_s`, it is given up."""


WorkerNumber = Annotated[int, Within(0, MOST_WORKERS - 1, whole=True)]


class Event(Model):
    """Something that befalls workers at a time."""

    at_s: Seconds
    """From the beginning of the run."""
    event: Befalls
    """A worker that joins is there from then on; one that drains goes when its sessions have moved; one that crashes is
    gone at once; one that freezes answers nothing for a while, and is given up after `worker_deadline_s`."""
    workers: Annotated[tuple[WorkerNumber, ...], Field(min_length=1)] | None = None
    """Which of the group, counted from 0. Left out: all of them."""
    lasts_s: Seconds | None = None
    """Of a freeze."""
    returns_after_s: Seconds | None = None
    """So long after its end another worker takes the place. Left out: nobody does, unless it was the last one."""

    def among(self, count: int) -> Sequence[int]:
        """The workers of a group of so many that it befalls."""
        return range(count) if self.workers is None else self.workers

    @model_validator(mode="after")
    def _what_belongs_to_it(self) -> Event:
        if (self.event is Befalls.FREEZE) != (self.lasts_s is not None):
            raise wrong("a freeze, and nothing else, has lasts_s (0 to 86,400)", "lasts_s")
        if self.event is Befalls.JOIN and self.returns_after_s is not None:
            raise wrong("a join has none: it goes with drain, crash and freeze", "returns_after_s")
        return self


class Workers(Model):
    """Workers of one kind; each holds a copy of the target and does one step at a time."""

    name: Name = "worker"
    """What figures call them."""
    count: Annotated[int, Within(1, MOST_WORKERS, whole=True)] = 1
    """How many."""
    hardware: Annotated[Hardware, BeforeValidator(_by_file, json_schema_input_type=Any)]
    """What their steps cost."""
    memory: Memory | None = None
    """Left out: without end."""
    slowness: Annotated[float, Within(0.01, 100)] = 1.0
    """Their steps last so many times as long as the hardware says."""
    hiccup: Share = 0.0
    """Share of their steps that last 20 times as long."""
    schedule: Annotated[tuple[Event, ...], Field(max_length=10_000)] = ()
    """What befalls them. A worker joins once at most, and drains, crashes or freezes once at most."""
    price_per_hour: Price | None = None
    """Of one worker. Left out: costs are not counted."""
    busy_watts: Watts | None = None
    """Of one worker while it computes. Left out: energy is not counted."""
    idle_watts: Watts = 0.0
    """Of one worker while it does not."""

    @model_validator(mode="after")
    def _befalls_each_once(self) -> Workers:
        joins: dict[int, float] = {}
        ends: dict[int, float] = {}
        for number, event in enumerate(self.schedule):
            taken = joins if event.event is Befalls.JOIN else ends
            for worker in event.among(self.count):
                if worker >= self.count:
                    text = f"{worker} is not a worker from 0 to {self.count - 1}"
                    raise wrong(text, "schedule", number, "workers")
                if worker in taken:
                    what = "joins" if taken is joins else "drains, crashes or freezes"
                    raise wrong(f"worker {worker} {what} already", "schedule", number, "workers")
                taken[worker] = event.at_s
        for number, event in enumerate(self.schedule):
            joined = max((joins.get(worker, 0.0) for worker in event.among(self.count)), default=0.0)
            if event.at_s < joined:
                raise wrong(f"{event.at_s:g} is before it joins, at {joined:g}", "schedule", number, "at_s")
        return self


# ---- the policies of a pool ----


class RoutingName(StrEnum):
    """See `shared.policy.routing`."""

    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    SHORTEST_QUEUE = "shortest-queue"
    LEAST_WORK = "least-work"


class BatchingName(StrEnum):
    """See `shared.policy.batching`."""

    FIFO = "fifo"
    LENGTH_AWARE = "length-aware"
    MEASURED = "measured"


class TransfersName(StrEnum):
    """See `shared.policy.transfer`."""

    MEASURED = "measured"
    NEVER = "never"


class PoolOptions(Model):
    """`cloud-server serve`'s own options. Only speed and cost depend on them."""

    routing: RoutingName = RoutingName.LEAST_WORK
    """Which worker a session is given to."""
    batching: BatchingName = BatchingName.MEASURED
    """What shares a step."""
    sessions_per_step: Annotated[int, Within(1, 100_000, whole=True)] | None = None
    """Left out: all."""
    sp_degree: Annotated[int, Within(1, 64, whole=True)] = 1
    """Steps of one session that may be out at once, on as many workers."""
    helpers: Annotated[int, Within(0, MOST_WORKERS, whole=True)] | None = None
    """Workers that may be busy with other workers' sessions at once. Left out: all that have none of their own."""
    hedge_factor: Annotated[float, Within(0, 1_000)] = 5.0
    """A step that takes so many times as long as usual is asked of another worker; 0: never."""
    hedge_least_ms: Milliseconds = 100.0
    """And not before."""
    check_share: Share = 0.0
    """Share of committed tokens whose fact is established once more."""
    transfers: TransfersName = TransfersName.MEASURED
    """Whether a session that moves takes its keys and values along: where that is faster, or never."""
    max_sessions: Annotated[int, Within(1, 1_000_000, whole=True)] = 64
    """Sessions beyond this are refused."""
    admission_itl_ms: StepMilliseconds | None = None
    """Refuse also what plain decoding could not serve with so long between tokens. Left out: nothing more."""
    patience_ms: Annotated[float, Within(0, 600_000)] = 5_000.0
    """Longest time that an edge may have the cloud wait for a draft."""
    adaptive_patience: StrictBool = True
    """Wait for a draft where measurements say that this is faster, if the edge leaves it to the cloud."""
    prompt_lookup: StrictBool = True
    """Guess from a session's own text where a step has room to spare."""
    prefill_chunk: Annotated[int, Within(1, 1_000_000, whole=True)] = 256
    """Tokens of one chunk of a prompt."""
    prefill_per_step: Annotated[int, Within(1, 1_000_000, whole=True)] = 512
    """Tokens of all chunks in one step."""


class Outage(Model):
    """The whole server crashes, and comes back with nothing in its memory."""

    at_s: Seconds
    """From the beginning of the run."""
    lasts_s: Seconds
    """Until it is back."""
    drains_s: Seconds | None = None
    """It tells its sessions to move so long before. Left out: it crashes."""


class Server(Model):
    """A pool of workers that holds the target."""

    name: Name = "cloud"
    """What figures call it."""
    workers: Annotated[tuple[Workers, ...], Field(min_length=1)]
    """In groups of one kind."""
    policies: PoolOptions = PoolOptions()
    """How it is run."""
    worker_deadline_s: Annotated[float, Within(0.001, 3_600)] = 5.0
    """A worker that has not answered for so long is declared left."""
    crash_noticed_ms: Milliseconds = 20.0
    """A crash is noticed after this time."""
    transfer_token_ms: Annotated[float, Within(0, 1_000)] = 0.01
    """Moving the keys and values of one token between workers takes so long."""
    transfer_failure: Share = 0.0
    """Share of transfers that come to nothing."""
    outages: Annotated[tuple[Outage, ...], Field(max_length=1_000)] = ()
    """When all of it is away."""

    @model_validator(mode="after")
    def _names_differ(self) -> Server:
        names = [group.name for group in self.workers]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise wrong(f"{name!r} is the name of another group already", "workers", number, "name")
        return self
