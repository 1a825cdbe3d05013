"""Verifications for people: asked above achieved, a block for each profile and enforcer as soon as it is done."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.wan.choose import Enforcer
from scripts.wan.traffic import Packets, Traffic
from scripts.wan.verify.checks import Check


@dataclass(frozen=True, slots=True)
class Verification:
    """One profile by one enforcer."""

    profile: str
    enforcer: Enforcer
    checks: tuple[Check, ...]
    traffic: Traffic
    """Of the main measurement."""

    @property
    def passed(self) -> bool:
        """Whether nothing is outside its tolerance."""
        return all(check.passed is not False for check in self.checks)


def show(result: Verification) -> None:
    """Print one result; what is outside its tolerance is marked."""
    table = Table(
        title=f"{result.profile} by {result.enforcer}: {'pass' if result.passed else 'FAIL'}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for check in result.checks:
        table.add_column(f"{check.name}\n{check.unit}", justify="right")
    table.add_row("asked", *(_figure(check.asked) for check in result.checks))
    table.add_row("achieved", *(_figure(check.achieved) for check in result.checks))
    table.add_row("may be off", *(_tolerance(check) for check in result.checks))
    console = Console()
    console.print(table)
    for way, packets in (("up", result.traffic.packets_up), ("down", result.traffic.packets_down)):
        if packets is not None and packets.late:
            console.print(_lateness(way, packets), highlight=False)


def _lateness(way: str, packets: Packets) -> str:
    share = 100 * packets.late / packets.delivered
    return (
        f"{way}: {packets.late} of {packets.delivered} packets ({share:.2f} %) came out more than 1 ms after their "
        f"time, {packets.latest_ms:.1f} ms at worst: the machine was busy"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _tolerance(check: Check) -> str:
    if check.passed is None:
        return "-"
    return f"{check.tolerance:.2f}" + ("" if check.passed else " FAIL")
