"""What a run comes to beyond its figures: costs, energy, and whether what was wanted was reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from scripts.simulate.build import build, worker_kind
from scripts.simulate.load import digest
from scripts.simulate.schema import Objective, Scenario
from scripts.simulate.schema_servers import Workers
from shared.sim.deployment import Deployment, RunFigures, figures_of
from shared.sim.deployment.figures import gaps_of
from shared.sim.deployment.record import DeploymentRecord, Ending, GenerationRecord

HOUR_S: Final = 3600.0
JOULES_PER_KWH: Final = 3.6e6
BYTES_PER_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Energy:
    """Of the measured time, in joules."""

    workers: float
    """While they computed and while they did not; of those whose watts are known."""
    drafters: float
    """While they computed; assistants are not counted."""
    per_token: float | None
    """None: there was no token."""

    @property
    def total(self) -> float:
        """Of both."""
        return self.workers + self.drafters


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the measured time, in the scenario's currency."""

    currency: str
    workers: float
    """By the hour, as long as they were there."""
    energy: float
    traffic: float
    total: float
    per_hour: float
    per_million_tokens: float | None
    """None: there was no token."""


@dataclass(frozen=True, slots=True)
class Reached:
    """One limit of an objective, and how many kept it."""

    fleet: str | None
    """None: all of them."""
    figure: str
    """`ttft_ms`, `tpot_ms` or `itl_ms`."""
    limit_ms: float
    wanted: float
    """Share that is to keep it."""
    share: float | None
    """That did; who was refused or failed did not. None: nobody asked."""

    @property
    def met(self) -> bool:
        """Whether it was reached. What nobody asked for was not shown to be."""
        return self.share is not None and self.share >= self.wanted

    def __str__(self) -> str:
        return f"{self.figure[:-3].upper()} <= {self.limit_ms:g} ms for {self.wanted:.1%} of {self.fleet or 'all'}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a scenario, as numbers: what `run --json` prints, and what a sweep keeps of each of its runs."""

    name: str
    scenario_hash: str
    seed: int
    figures: RunFigures
    cost: Cost | None
    """None: no worker has a price."""
    energy: Energy | None
    """None: nothing has watts."""
    slo: tuple[Reached, ...]

    @property
    def met(self) -> bool:
        """Whether every limit of every objective was kept."""
        return all(one.met for one in self.slo)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scenario": self.name,
            "scenario_hash": self.scenario_hash,
            "seed": self.seed,
            "trace_hash": self.figures.trace_hash,
            "figures": dataclasses.asdict(self.figures),
            "cost": None if self.cost is None else dataclasses.asdict(self.cost),
            "energy_joules": None if self.energy is None else dataclasses.asdict(self.energy),
            "slo": [{**dataclasses.asdict(one), "met": one.met} for one in self.slo],
        }


def simulate(
    scenario: Scenario, progress: Callable[[float], None] | None = None
) -> tuple[DeploymentRecord, Outcome]:
    """Run a scenario. `progress` is told the share of the time that has passed."""
    record = Deployment(build(scenario)).run(progress)
    return record, outcome_of(scenario, record)


def outcome_of(scenario: Scenario, record: DeploymentRecord) -> Outcome:
    """What a record of the scenario comes to."""
    figures = figures_of(record)
    energy = _energy(scenario, record, figures)
    return Outcome(
        name=scenario.name,
        scenario_hash=digest(scenario),
        seed=scenario.seed,
        figures=figures,
        cost=_cost(scenario, record, figures, energy),
        energy=energy,
        slo=tuple(one for objective in scenario.slo for one in _reached(objective, record)),
    )


# ---- what it costs ----


def _groups(scenario: Scenario) -> dict[str, Workers]:
    return {worker_kind(server, group): group for server in scenario.servers for group in server.workers}


def _energy(scenario: Scenario, record: DeploymentRecord, figures: RunFigures) -> Energy | None:
    groups = _groups(scenario)
    watts = {fleet.name: fleet.drafter.watts for fleet in scenario.fleets if fleet.drafter is not None}
    known = [one for one in record.workers if groups[one.kind].busy_watts is not None]
    if not known and all(one is None for one in watts.values()):
        return None
    workers = sum(
        (one.busy_ns * (groups[one.kind].busy_watts or 0.0) / 1e9)
        + (one.present_ns - one.busy_ns) * groups[one.kind].idle_watts / 1e9
        for one in known
    )
    drafters = sum(one.counts.drafting_ns * (watts.get(one.group) or 0.0) / 1e9 for one in record.generations)
    return Energy(workers, drafters, _per(workers + drafters, figures.total.tokens))


def _cost(
    scenario: Scenario, record: DeploymentRecord, figures: RunFigures, energy: Energy | None
) -> Cost | None:
    groups, prices = _groups(scenario), scenario.prices
    if all(group.price_per_hour is None for group in groups.values()):
        return None
    workers = sum(
        one.present_ns / 1e9 / HOUR_S * (groups[one.kind].price_per_hour or 0.0) for one in record.workers
    )
    power = (energy.total if energy is not None else 0.0) / JOULES_PER_KWH * (prices.per_kwh or 0.0)
    sent = sum(one.counts.bytes_up + one.counts.bytes_down for one in record.generations)
    traffic = sent / BYTES_PER_GB * (prices.per_gb or 0.0)
    total = workers + power + traffic
    hours = record.measured_ns / 1e9 / HOUR_S
    each = _per(total * 1e6, figures.total.tokens)
    return Cost(prices.currency, workers, power, traffic, total, total / hours, each)


def _per(value: float, count: int) -> float | None:
    return value / count if count else None


# ---- what was wanted ----


def _reached(objective: Objective, record: DeploymentRecord) -> list[Reached]:
    begin = record.warm_up_ns
    own = [one for one in record.generations if objective.fleet in (None, one.group)]
    asked = [one for one in own if one.started >= begin]
    shares: dict[str, Callable[[float], float | None]] = {
        "ttft_ms": lambda limit_ms: _first(asked, limit_ms),
        "tpot_ms": lambda limit_ms: _each(asked, limit_ms),
        "itl_ms": lambda limit_ms: _between(own, limit_ms, begin),
    }
    return [
        Reached(objective.fleet, figure, limit, objective.share, share(limit))
        for figure, share in shares.items()
        if (limit := getattr(objective, figure)) is not None
    ]


def _first(asked: Sequence[GenerationRecord], limit_ms: float) -> float | None:
    """Of those that had their first token, or had waited for longer than the limit."""
    judged = [
        one.ttft_ms is not None and one.ttft_ms <= limit_ms
        for one in asked
        if one.ttft_ms is not None
        or one.ending is not Ending.CUT
        or (one.ended - one.started) / 1e6 > limit_ms
    ]
    return sum(judged) / len(judged) if judged else None


def _each(asked: Sequence[GenerationRecord], limit_ms: float) -> float | None:
    """Of those that ended; who was refused or failed did not keep it. One token has no time per token."""
    judged = [
        one.ending is Ending.DONE and (one.tpot_ms is None or one.tpot_ms <= limit_ms)
        for one in asked
        if one.ending is not Ending.CUT
    ]
    return sum(judged) / len(judged) if judged else None


def _between(own: Sequence[GenerationRecord], limit_ms: float, begin: int) -> float | None:
    """Of the gaps between tokens."""
    gaps = gaps_of(own, begin)
    return float(np.mean(gaps <= limit_ms)) if len(gaps) else None
