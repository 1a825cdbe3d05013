"""Which cells are measured: a row each, with the arms that its table compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from edge_client.policies import DraftOptions, Shape
from scripts.bench_dsi.rows import ROWS, Row
from scripts.bench_latency.arms import CLOUD, COLOCATED
from scripts.bench_latency.plan import Arm, Cell, Place, Plan, units
from scripts.wan.profiles import WanProfile

WORKERS: Final = 7
"""As many targets at once as the paper has, and as many steps of one session."""
POOL: Final = ("--workers", str(WORKERS), "--sp-degree", str(WORKERS))

ALONE: Final = replace(CLOUD, place=Place.COLOCATED)
SI: Final = replace(COLOCATED, name="SI")
CHAIN: Final = Arm(
    "chain", "DSI (chain, SP 7)", DraftOptions(shape=Shape.CHAIN), Place.COLOCATED, server=POOL
)
POLICY: Final = Arm("slipstream", "Slipstream (SP 7)", DraftOptions(), Place.COLOCATED, server=POOL)
"""Tree or chain: its expansion goes as wide as pays."""
ARMS: Final = (ALONE, SI, CHAIN, POLICY)


def plan_of(rows: Sequence[Row] = ROWS, *, prompts: int, tokens: int) -> Plan:
    """Slow drafters and fast ones alternate: side by side, one of two rows hardly needs a core."""
    slow = [row for row in rows if row.pair.nominal is not None and row.pair.nominal.draft_ms > SLOW_MS]
    fast = [row for row in rows if row not in slow]
    order: list[Row] = []
    while slow or fast:
        order += slow[:1] + fast[:2]
        slow, fast = slow[1:], fast[2:]
    return Plan(
        tuple(
            Cell(
                key=row.key,
                pair=row.pair,
                link=WanProfile(0.0),
                arms=ARMS,
                units=units(prompts, (0,)),
                tokens=tokens,
                title=f"row {row.number}",
            )
            for row in order
        ),
        "dsi",
    )


SLOW_MS: Final = 20.0
"""A drafter whose forwards take longer."""
