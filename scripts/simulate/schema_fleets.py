"""Fleets: edge devices of one kind, their drafters, their users, their networks, and how they draft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_client.policies import Belief, DraftOptions, Mode, Pace, Shape, Sizing, Spread
from scripts.simulate.recorded import read_arrivals
from scripts.simulate.schema_base import (
    MOST_EDGES,
    Among,
    Milliseconds,
    Model,
    Name,
    ReadableBy,
    Seconds,
    Share,
    StepMilliseconds,
    Watts,
    Within,
    says,
    wrong,
)
from scripts.simulate.schema_draws import Constant, SecondsSpread
from scripts.wan.profiles import PROFILES
from shared.acceptance import Markov
from shared.drafter_trace import read_trace
from shared.link import Jitter
from shared.policy.servers import Balance
from shared.sim.deployment.plan import MOST_RETRIES

# ---- the network ----


class Times(Model):
    """Intervals that come again and again."""

    every_s: Annotated[float, Within(0.01, 1_000_000)]
    """From the beginning of one to that of the next."""
    lasts_ms: Annotated[float, Within(0, 1_000_000_000)]
    """Below `every_s`."""
    offset_s: Annotated[float, Within(0, 1_000_000)] = 0.0
    """When the first one begins, counted from a link's own beginning."""

    @model_validator(mode="after")
    def _shorter_than_its_distance(self) -> Times:
        if self.lasts_ms >= self.every_s * 1000:
            raise wrong(f"{self.lasts_ms:g} is not below every_s, {self.every_s * 1000:g} ms", "lasts_ms")
        return self


class HandoverTimes(Times):
    """A path that is longer for a while, again and again."""

    extra_rtt_ms: Annotated[float, Within(0, 60_000)]
    """By so much."""


Delay = Annotated[float, Within(0, 60_000)]
Kbit = Annotated[float, Within(0, 100_000_000)]
Percent = Annotated[float, Within(0, 99)]


class Network(Model):
    """A network as one edge sees it: one by name, or figures of one's own, or both, and then the figures prevail.
    A bare name means the profile of that name.
    """

    profile: Annotated[str, Among(lambda: PROFILES, "network profile")] | None = None
    """What is not said here is as in this profile; without one, a figure left out is 0."""
    rtt_ms: Delay | None = None
    """Round trip; half of it each way."""
    jitter_ms: Delay | None = None
    """Spread of the round trip's delay."""
    jitter: Jitter | None = None
    """How delays spread."""
    down_kbit: Kbit | None = None
    """Rate towards the edge; 0: unlimited."""
    up_kbit: Kbit | None = None
    """Rate towards the cloud; 0: unlimited."""
    loss_percent: Percent | None = None
    """Share of packets lost, each way."""
    outage: Times | None = None
    """Nothing passes meanwhile."""
    handover: HandoverTimes | None = None
    """The path is longer meanwhile."""

    @model_validator(mode="after")
    def _says_something(self) -> Network:
        if self.profile is None and self.rtt_ms is None:
            raise wrong(f"give a profile ({', '.join(PROFILES)}) or rtt_ms ({Within(0, 60_000)})")
        return self


def _by_name(data: Any) -> Any:
    return {"profile": data} if isinstance(data, str) else data


NamedNetwork = Annotated[Network, BeforeValidator(_by_name, json_schema_input_type=Any)]


# ---- the drafter ----

_MARKOV = Markov()


class ProfiledAcceptance(Model):
    """Half of the contexts are easy and half are hard, and the drafter knows which; below a rate of 0.6 all are
    alike.
    """

    process: Literal["profiled"] = "profiled"
    rate: Share
    """Share of contexts in which the drafter's first candidate is the target's token."""


class IidAcceptance(Model):
    """Every context alike."""

    process: Literal["iid"] = "iid"
    rate: Share
    """Share of contexts in which the drafter's first candidate is the target's token."""


class MarkovAcceptance(Model):
    """Two moods that last: runs of easy contexts and runs of hard ones, and the drafter knows which."""

    process: Literal["markov"] = "markov"
    easy: Share = _MARKOV.easy
    """Acceptance in the easy mood."""
    hard: Share = _MARKOV.hard
    """Acceptance in the hard mood; at most `easy`."""
    stay_easy: Share = _MARKOV.stay_easy
    """Probability that an easy context is followed by an easy one."""
    stay_hard: Share = _MARKOV.stay_hard
    """The same of a hard one; at most one of the two is 1."""

    @model_validator(mode="after")
    def _moods_change(self) -> MarkovAcceptance:
        if self.hard > self.easy:
            raise wrong(f"{self.hard:g} is above easy, {self.easy:g}", "hard")
        if self.stay_easy + self.stay_hard >= 2.0:
            raise wrong("stay_easy is 1 as well: the mood would never change", "stay_hard")
        return self


class RecordedAcceptance(Model):
    """A real drafter's luck and estimates, as they were recorded."""

    process: Literal["trace"] = "trace"
    file: Annotated[Path, ReadableBy(read_trace, "a file of scripts.record_trace")]
    """The recording."""


def _rate(data: Any) -> Any:
    if isinstance(data, int | float) and not isinstance(data, bool):
        return {"process": "profiled", "rate": data}
    return says(data, "process", AnyAcceptance)


AnyAcceptance = ProfiledAcceptance | IidAcceptance | MarkovAcceptance | RecordedAcceptance
Acceptance = Annotated[
    AnyAcceptance,
    Field(discriminator="process"),
    BeforeValidator(_rate, json_schema_input_type=Any),
]


class Drafter(Model):
    """A small model on a device."""

    step_ms: StepMilliseconds
    """Duration of one forward on one node."""
    branch_cost: Annotated[float, Within(0, 10)] = 0.1
    """Each further branch in a forward costs this share of a forward."""
    acceptance: Acceptance
    """How often it is right, and when."""
    watts: Watts | None = None
    """What it draws while it computes. Left out: its energy is not counted."""


# ---- how to draft ----

_OWN = DraftOptions()
Count = Annotated[int, Within(1, 4_096, whole=True)]


class Drafting(Model):
    """`edge-client`'s own options. Only speed and cost depend on them."""

    mode: Mode = _OWN.mode
    """Who waits for whom."""
    shape: Shape | None = _OWN.shape
    """What a draft may look like. Left out: a tree; sync mode drafts chains."""
    lookahead: Annotated[int, Within(1, 1_024, whole=True)] = _OWN.lookahead
    """Sync mode: tokens in a block."""
    window: Count | None = _OWN.window
    """Nodes in flight at most. Left out: 512 for trees, 64 for chains."""
    branches: Annotated[int, Within(1, 64, whole=True)] = _OWN.branches
    """Tree: nodes in one forward at most."""
    width: Annotated[int, Within(1, 64, whole=True)] = _OWN.width
    """Tree: candidates for one place at most."""
    max_cost: Annotated[float, Within(0.001, 1_000)] = _OWN.max_cost
    """Tree: nats below the end of the log beyond which a node is worth nothing."""
    spread: Spread = _OWN.spread
    """How many branches of a tree go into one forward."""
    pace: Pace = _OWN.pace
    """When drafts are sent."""
    sizing: Sizing | None = _OWN.sizing
    """How many nodes may be in flight, or how long sync mode's blocks are. Left out: `measured`, or `lookahead`."""
    belief: Belief = _OWN.belief
    """What is believed of the drafter's own estimates."""
    patience_ms: Annotated[float, Within(0, 600_000)] | None = _OWN.patience_ms
    """How long the cloud waits for a draft before it decodes alone. Left out: as long as it finds worth while."""


class Assistant(Model):
    """A device that drafts for sessions which others have opened: for each session a device of its own."""

    drafter: Drafter
    """Its own, whatever the edge has."""
    network: NamedNetwork
    """Between this device and the cloud."""
    drafting: Drafting = Drafting()
    """How it drafts; it asks for no patience."""
    delay_ms: Milliseconds = 0.0
    """It attaches so long after a session has begun."""


# ---- when users ask ----


class ClosedLoop(Model):
    """Each edge's user reads the answer, thinks, and asks again."""

    kind: Literal["closed"] = "closed"
    think_s: SecondsSpread = Constant(value=0.0)
    """From the end of an answer to the next question."""
    ramp_s: Seconds = 1.0
    """The edges' first questions are spread evenly over this time."""


Rate = Annotated[float, Within(0.000_01, 1_000_000)]


class Poisson(Model):
    """Questions come at random, whether or not earlier ones are answered."""

    kind: Literal["poisson"] = "poisson"
    per_s: Rate
    """Of all edges of the fleet together."""


class Steady(Model):
    """Questions come evenly spaced, whether or not earlier ones are answered."""

    kind: Literal["uniform"] = "uniform"
    per_s: Rate
    """Of all edges of the fleet together."""


class RecordedArrivals(Model):
    """Questions come when they came once; the fleet's edges ask them in turn."""

    kind: Literal["trace"] = "trace"
    file: Annotated[Path, ReadableBy(read_arrivals, "a .csv or .jsonl file with a column at_s")]
    """Seconds from the beginning of the run, never decreasing."""


AnyArrivals = ClosedLoop | Poisson | Steady | RecordedArrivals
Arrivals = Annotated[
    AnyArrivals,
    Field(discriminator="kind"),
    BeforeValidator(lambda data: says(data, "kind", AnyArrivals), json_schema_input_type=Any),
]


class Fleet(Model):
    """Edge devices of one kind."""

    name: Name
    """What figures call them."""
    count: Annotated[int, Within(1, MOST_EDGES, whole=True)]
    """How many."""
    network: NamedNetwork
    """Between each of them and the cloud."""
    workload: str
    """The name of one of `workloads`."""
    drafter: Drafter | None = None
    """Left out: these edges never draft, they only read."""
    drafting: Drafting = Drafting()
    """How they draft."""
    arrivals: Arrivals = ClosedLoop()
    """When their users ask."""
    assistants: Annotated[tuple[Assistant, ...], Field(max_length=8)] = ()
    """Other devices that draft for each session."""
    balance: Balance = Balance.FIRST
    """Which of several servers a session goes to."""
    retries: Annotated[int, Within(0, MOST_RETRIES, whole=True)] = MOST_RETRIES
    """Where every server is full an edge comes again when it was told to, so many times; then it gives up."""
