"""What each part is worth: a literal table of changes to the edge's and the server's options.

To add a row, add a line. Every row is measured beside the product's defaults, on the same prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from edge_client.policies import Belief, DraftOptions, Pace, Shape, Sizing, Spread
from scripts.bench_latency.arms import CLOUD, DEFAULT
from scripts.bench_latency.plan import Arm
from shared.session.front import CloudPolicies


@dataclass(frozen=True, slots=True)
class Change:
    """What differs from the defaults."""

    draft: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `DraftOptions`."""
    cloud: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `CloudPolicies`."""
    server: tuple[str, ...] = ()
    """Other options of `cloud-server serve`; the simulator does not know these."""


ROWS: Final[Mapping[str, Change]] = MappingProxyType(
    {
        "chain instead of a tree": Change({"shape": Shape.CHAIN}),
        "4 branches instead of 8": Change({"branches": 4, "width": 4}),
        "always all branches": Change({"spread": Spread.FIXED}),
        "drafts sent at once": Change({"pace": Pace.AT_ONCE}),
        "window as advised": Change({"sizing": Sizing.ADVISED}),
        "window of 64 nodes": Change({"sizing": Sizing.FIXED, "window": 64}),
        "window of 256 nodes": Change({"sizing": Sizing.FIXED, "window": 256}),
        "window by DSD's rule": Change({"sizing": Sizing.EMA}),
        "drafter's claims believed": Change({"belief": Belief.CLAIMED}),
        "no prompt lookup": Change(cloud={"prompt_lookup": False}),
        "no adaptive patience": Change(cloud={"adaptive_patience": False}),
    }
)


def ablation_arms() -> tuple[Arm, ...]:
    """The cloud alone, the defaults, and one arm for each row."""
    rows = [
        Arm(
            f"row{number}",
            name,
            replace(DraftOptions(), **change.draft),
            cloud=replace(CloudPolicies(), **change.cloud),
            server=change.server,
        )
        for number, (name, change) in enumerate(ROWS.items(), 1)
    ]
    return (CLOUD, DEFAULT, *rows)
