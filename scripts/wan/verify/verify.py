"""Measures profiles by enforcers: links, probing programs at both ends, checks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from scripts.processes import child, python
from scripts.wan.choose import Choice, Enforcer, choose_enforcer, obstacle
from scripts.wan.link import RunningLink, running_link
from scripts.wan.profiles import Handover, WanProfile
from scripts.wan.traffic import Traffic
from scripts.wan.verify.checks import (
    check_delays,
    check_events,
    check_handshake,
    check_loss,
    check_rates,
)
from scripts.wan.verify.edge import Measured, Plan
from scripts.wan.verify.peer import HEADERS, PROBE
from scripts.wan.verify.report import Verification, show
from scripts.wan.verify.trace import Pattern
from shared.errors import UserError
from shared.link import Schedule

LONGEST_S: Final = 20.0
INTERVAL_MS: Final = 20.0
"""Between probes; a link keeps order, so with much jitter one delays the next: the simulated probes do the same."""
LOSS_S: Final = 2.5
LOSS_PACKETS: Final = 6000
LOSS_LOAD: Final = 0.4
"""Of a rate: what the probes that count losses use."""
BULK_S: Final = 2.0
CONNECTS: Final = 5
EVENT_INTERVAL_MS: Final = 5.0
EVENT_OFFSET_S: Final = 2.0
"""When the event that is measured begins: the probing programs have started by then."""
EVENT_AFTER_S: Final = 1.0
MEASURE_S: Final = 300.0


def verify_profile(name: str, profile: WanProfile, choice: Choice, samples: int) -> Verification:
    """Measure one profile. Takes 10 to 30 s."""
    steady = replace(profile, outage=None, handover=None)
    pattern = Pattern(min(samples, round(LONGEST_S * 1000 / INTERVAL_MS)), INTERVAL_MS)
    measured, traffic = measure(steady, choice, plan_for(steady, pattern))
    checks = check_delays(steady, choice.enforcer, measured.probes)
    checks += check_loss(steady, measured.counted)
    checks += check_rates(steady, measured, choice.enforcer)
    checks.append(check_handshake(steady, measured, choice.enforcer))
    if profile.outage is not None or profile.handover is not None:
        soon = brought_forward(profile)
        lasts_ms = max(one.lasts_ms for one in (soon.outage, soon.handover) if one is not None)
        span_ms = (EVENT_OFFSET_S + EVENT_AFTER_S) * 1000 + 2 * lasts_ms
        often = Pattern(round(span_ms / EVENT_INTERVAL_MS), EVENT_INTERVAL_MS)
        found, _ = measure(soon, choice, Plan("", None, often, slowest_ms(soon)))
        checks += check_events(soon, choice.enforcer, often, found.probes)
    return Verification(name, choice.enforcer, tuple(checks), traffic)


def plan_for(profile: WanProfile, pattern: Pattern) -> Plan:
    """Everything, in proportion to the profile's rates."""
    rates = [rate for rate in (profile.up_kbit, profile.down_kbit) if rate]
    interval_ms = LOSS_S * 1000 / LOSS_PACKETS
    if rates:
        interval_ms = max(interval_ms, (PROBE.size + HEADERS) * 8 / (min(rates) * LOSS_LOAD))
    return Plan(
        tcp="",
        udp=None,
        pattern=pattern,
        slowest_ms=slowest_ms(profile),
        loss_probes=math.ceil(LOSS_S * 1000 / interval_ms),
        loss_interval_ms=interval_ms,
        up_kbit=profile.up_kbit,
        down_kbit=profile.down_kbit,
        bulk_s=BULK_S,
        connects=CONNECTS,
    )


def slowest_ms(profile: WanProfile) -> float:
    """A round trip, generously."""
    extra = profile.handover.extra_rtt_ms if profile.handover is not None else 0.0
    return profile.rtt_ms + 4 * profile.jitter_ms + extra


def brought_forward(profile: WanProfile) -> WanProfile:
    """The same events, soon after the link's beginning."""
    outage, handover = profile.outage, profile.handover
    if outage is not None:
        profile = replace(profile, outage=Schedule(outage.every_s, outage.lasts_ms, EVENT_OFFSET_S))
    if handover is not None:
        soon = Handover(handover.every_s, handover.lasts_ms, handover.extra_rtt_ms, EVENT_OFFSET_S)
        profile = replace(profile, handover=soon)
    return profile


def measure(profile: WanProfile, choice: Choice, plan: Plan) -> tuple[Measured, Traffic]:
    """Run the plan over a link of its own: streams through the relay as programs use it, packets without it."""
    with running_link(profile, choice) as link, _peer("127.0.0.1", link, at_cloud=False) as streams:
        plan = replace(plan, tcp=link.edge_address(streams))
        if link.cloud_host is None:
            return _measure(link, plan), link.traffic()
        with _peer(link.cloud_host, link, at_cloud=True) as datagrams:
            return _measure(link, replace(plan, udp=datagrams)), link.traffic()


def verify_all(
    profiles: Mapping[str, WanProfile],
    enforcers: Sequence[Enforcer] | None,
    samples: int,
    json_file: Path | None,
) -> bool:
    """Measure, show, and say whether all is within its tolerance.

    Raises:
        UserError: the machine does not allow an enforcer that was asked for, or FILE cannot be written.
    """
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise UserError(f"--json {json_file}: there is no such folder")
    chosen = enforcers or [one for one in Enforcer if obstacle(one) is None]
    choices = [choose_enforcer(enforcer) for enforcer in chosen]
    results = []
    for choice in choices:
        for name, profile in profiles.items():
            results.append(verify_profile(name, profile, choice, samples))
            show(results[-1])
    if json_file is not None:
        rows = [
            {
                "profile": one.profile,
                "enforcer": one.enforcer,
                "passed": one.passed,
                "traffic": asdict(one.traffic),
                "checks": [{**asdict(check), "passed": check.passed} for check in one.checks],
            }
            for one in results
        ]
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return all(one.passed for one in results)


def _measure(link: RunningLink, plan: Plan) -> Measured:
    command = link.edge_command(python("-m", "scripts.wan.verify.edge", json.dumps(asdict(plan))))
    with child("probing program", command, ready_s=None) as probing:
        return Measured.from_json(probing.line(MEASURE_S))


@contextmanager
def _peer(host: str, link: RunningLink, *, at_cloud: bool) -> Iterator[str]:
    command = python("-m", "scripts.wan.verify.peer", host)
    with child("peer", link.cloud_command(command) if at_cloud else command) as peer:
        yield peer.address
