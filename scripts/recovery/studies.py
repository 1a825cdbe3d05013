"""The three questions, each as a list of trials: what is varied, and which protocol answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from edge_client.policies import DraftOptions, Mode
from scripts.recovery.trial import CHAIN, Result, Trial, simulate, workers
from shared.link import LinkProfile, Schedule
from shared.policy.hedging import HedgeAfter, Hedging, NoHedging
from shared.policy.transfer import MeasuredTransfers, NoTransfers, Transfers
from shared.pool import PoolPolicies
from shared.sim.setting import Faults
from shared.sim.workers import FleetPlan, Misfortune, WorkerPlan

AT_MS: Final = 4_000.0
"""When a worker freezes."""
DEADLINE_MS: Final = 3_000.0
"""A worker that has not answered for so long is given up; a live pool asks as long."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a situation and a protocol."""

    study: str
    situation: str
    protocol: str
    trial: Trial


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a case."""

    study: str
    situation: str
    protocol: str
    result: Result


@dataclass(frozen=True, slots=True)
class AlwaysTransfer:
    """Moves whatever KV there is."""

    def worthwhile(self, tokens: int, prefill_token_us: float) -> bool:
        """See `Transfers.worthwhile`."""
        return tokens > 0

    def moved(self, tokens: int, took_us: float) -> None:
        """See `Transfers.moved`."""

    def failed(self) -> None:
        """See `Transfers.failed`."""


PREFILL: Final = "prefill again"
TRANSFER_MS: Final = (0.005, 0.5)
"""Per token: within a machine room, and over a slow network (a token's prefill takes 0.1 ms)."""
TRANSFERS: Final[Mapping[str, Callable[[], Transfers]]] = MappingProxyType(
    {PREFILL: NoTransfers, "move the KV": AlwaysTransfer, "measured": MeasuredTransfers}
)
HEDGINGS: Final[Mapping[str, Hedging]] = MappingProxyType(
    {
        "none": NoHedging(),
        "after 5x, at least 100 ms": HedgeAfter(),
        "after 2x, at least 50 ms": HedgeAfter(2.0, 50.0),
        "after 1.2x": HedgeAfter(1.2, 0.0),
    }
)


def moving(quick: bool) -> list[Case]:
    """A worker drains: its sessions are prefilled at another, or take their KV along. A crash leaves no choice."""
    cases: list[Case] = []
    for tokens in (256, 2048) if quick else (256, 1024, 4096, 12288):
        # Prompts are through by then. What is measured begins a moment before.
        event_ms = 1_000.0 + tokens * 0.8
        base = Trial(
            FleetPlan(workers(2)),
            clients=4,
            prompt_tokens=tokens,
            warm_up_s=event_ms / 1000 - 0.3,
            seconds=event_ms / 1000 + 2.0 + tokens / 1000,
            event_ms=event_ms,
        )
        drains = workers(2, misfortune=Misfortune.DRAIN, misfortune_ms=event_ms)
        crashes = workers(2, misfortune=Misfortune.CRASH, misfortune_ms=event_ms)
        ways: list[tuple[str, tuple[WorkerPlan, ...], str, float]] = [
            ("crash: prefill again", crashes, PREFILL, 0.0),
            (PREFILL, drains, PREFILL, 0.0),
            *(
                (f"{name}, {token_ms:g} ms a token", drains, name, token_ms)
                for token_ms in TRANSFER_MS
                for name in TRANSFERS
                if name != PREFILL
            ),
        ]
        for protocol, plan, name, token_ms in ways:
            fleet = FleetPlan(plan, transfer_token_ms=token_ms)
            policies = PoolPolicies(transfers=TRANSFERS[name])
            trial = replace(base, fleet=fleet, policies=policies)
            cases.append(Case("a worker drains", f"prompts of {tokens} tokens", protocol, trial))
    return cases


def hedging(quick: bool) -> list[Case]:
    """Steps that hang for a while, and a worker that freezes: waited for, or asked of another as well."""
    freeze = workers(4, misfortune=Misfortune.FREEZE, misfortune_ms=AT_MS, freeze_ms=1500.0)
    situations = {
        "nothing is wrong": FleetPlan(workers(4), deadline_ms=DEADLINE_MS),
        "1 step in 200 hangs (20x)": FleetPlan((WorkerPlan(hiccup=0.005),) * 4, deadline_ms=DEADLINE_MS),
        "a worker freezes for 1.5 s": FleetPlan(freeze, deadline_ms=DEADLINE_MS),
        "a worker is 4x slower": FleetPlan(workers(4, slowness=4.0), deadline_ms=DEADLINE_MS),
    }
    base = Trial(FleetPlan(workers(4)), clients=6, seconds=7.0 if quick else 12.0)
    return [
        Case(
            "steps that hang",
            situation,
            protocol,
            replace(base, fleet=fleet, policies=PoolPolicies(hedging=policy)),
        )
        for situation, fleet in situations.items()
        for protocol, policy in HEDGINGS.items()
    ]


def patience(quick: bool) -> list[Case]:
    """The edge falls silent: how long the cloud waits for drafts before it decodes on its own."""
    plain = LinkProfile(delay_ms=20.0)
    situations: dict[str, tuple[LinkProfile, Faults]] = {
        "nothing is wrong": (plain, Faults()),
        "uplink out for 0.5 s every 4 s": (
            replace(plain, outage=Schedule(every_s=4.0, lasts_ms=500.0, offset_s=2.0)),
            Faults(),
        ),
        "drafter stops for 1 s, 1 forward in 200": (plain, Faults(silence=0.005, silence_ms=1000.0)),
    }
    settings: list[tuple[str, DraftOptions, int, int]] = [
        *(
            (f"sync, {ms} ms", DraftOptions(mode=Mode.SYNC, lookahead=6), ms * 1000, 0)
            for ms in (50, 200, 500, 2000)
        ),
        ("stream, none", CHAIN, 0, 0),
        ("stream, 20 ms", CHAIN, 20_000, 0),
        ("stream, 100 ms", CHAIN, 100_000, 0),
        ("stream, adaptive", CHAIN, 0, 200_000),
    ]
    return [
        Case(
            "silent edges",
            situation,
            protocol,
            Trial(
                FleetPlan((WorkerPlan(),)),
                clients=2,
                options=options,
                patience_us=fixed,
                adaptive_us=adaptive,
                link=plain,
                up=up,
                faults=faults,
                seconds=9.0 if quick else 17.0,
            ),
        )
        for situation, (up, faults) in situations.items()
        for protocol, options, fixed, adaptive in settings
    ]


STUDIES: Final[Mapping[str, Callable[[bool], list[Case]]]] = MappingProxyType(
    {"moving": moving, "hedging": hedging, "patience": patience}
)


def run(case: Case, seeds: int) -> Row:
    """Simulate it."""
    return Row(case.study, case.situation, case.protocol, simulate(case.trial, seeds))
