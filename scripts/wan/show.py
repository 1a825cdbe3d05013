"""Tables for people: profiles, and what this machine allows."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.wan.choose import CANNOT_SHOW, Enforcer, choose_enforcer, obstacle
from scripts.wan.profiles import WanProfile
from shared.link import LinkProfile


def show_profiles(profiles: Mapping[str, WanProfile]) -> None:
    """One row each, the way up before the way down where they differ."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("profile", no_wrap=True)
    for column in ("RTT ms", "jitter ms", "up / down Mbit/s", "loss %"):
        table.add_column(column, justify="right")
    table.add_column("in time")
    for name, wan in profiles.items():
        up, down = wan.up, wan.down
        rtt = f"{wan.rtt_ms:g}" + _both(up.delay_ms, down.delay_ms)
        jitter = f"{wan.jitter_ms:g}" + _both(up.jitter_ms, down.jitter_ms)
        if wan.jitter_ms:
            jitter += f" {wan.jitter}"
        loss = f"{down.loss * 100:g}" if up.loss == down.loss else f"{up.loss * 100:g} / {down.loss * 100:g}"
        rates = " / ".join(_rate(way) for way in (up, down)) if up.kbit_per_s or down.kbit_per_s else "-"
        table.add_row(name, rtt, jitter, rates, loss, _in_time(wan))
    console = Console()
    console.print(table)
    console.print("Figures from:")
    for name, wan in profiles.items():
        console.print(f"  {name}: {wan.source or 'no source named'}", highlight=False, markup=False)


def show_enforcers() -> None:
    """What can be had here, why not, and what it cannot show."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("enforcer", "here", "cannot show"):
        table.add_column(column, no_wrap=column == "enforcer")
    for enforcer in Enforcer:
        missing = obstacle(enforcer)
        table.add_row(enforcer, "yes" if missing is None else f"no: {missing}", CANNOT_SHOW[enforcer] or "-")
    console = Console()
    console.print(table)
    console.print(f"Without --enforcer: {choose_enforcer(None).enforcer}.")


def _both(up: float, down: float) -> str:
    return "" if up == down else f" ({up:g} + {down:g})"


def _rate(way: LinkProfile) -> str:
    return f"{way.kbit_per_s / 1000:g}" if way.kbit_per_s else "-"


def _in_time(wan: WanProfile) -> str:
    found = []
    if wan.outage is not None:
        found.append(f"out for {wan.outage.lasts_ms:g} ms every {wan.outage.every_s:g} s")
    if wan.handover is not None:
        one = wan.handover
        found.append(f"+{one.extra_rtt_ms:g} ms for {one.lasts_ms:g} ms every {one.every_s:g} s")
    return ", ".join(found)
