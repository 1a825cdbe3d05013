"""Networks by name. Figures are rounded from published measurements; where none is named they are assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from shared.errors import UserError
from shared.link import LinkProfile


@dataclass(frozen=True, slots=True)
class Handover:
    """A path that is longer for a while, again and again."""

    every_s: float
    lasts_ms: float
    extra_rtt_ms: float


@dataclass(frozen=True, slots=True)
class WanProfile:
    """A network as one edge sees it. Both directions take half of the round trip and half of its jitter."""

    rtt_ms: float
    jitter_ms: float = 0.0
    """Greatest deviation of a round trip from `rtt_ms`: each direction adds a uniform draw of half of it."""
    down_kbit: float = 0.0
    """Rate towards the edge; 0: unlimited."""
    up_kbit: float = 0.0
    """Rate towards the cloud; 0: unlimited."""
    loss_percent: float = 0.0
    """Told for comparison and never applied: a TCP proxy cannot lose a segment."""
    handover: Handover | None = None
    source: str = ""

    @property
    def up(self) -> LinkProfile:
        """Edge to cloud."""
        return LinkProfile(self.rtt_ms / 2, self.jitter_ms / 2, self.up_kbit)

    @property
    def down(self) -> LinkProfile:
        """Cloud to edge."""
        return LinkProfile(self.rtt_ms / 2, self.jitter_ms / 2, self.down_kbit)


_ERRANT = "ERRANT, emulation models of European mobile networks (github.com/marty90/errant)"

PROFILES: Final[Mapping[str, WanProfile]] = MappingProxyType(
    {
        "lan": WanProfile(1.0, source="assumed: a quiet switched network"),
        "wifi": WanProfile(
            20.0, 8.0, loss_percent=0.2, source="assumed: a home access point and a near data centre"
        ),
        "5g": WanProfile(40.0, 5.0, 150_000, 18_000, loss_percent=0.05, source=_ERRANT),
        "lte": WanProfile(
            70.0, 25.0, 20_000, 8_000, loss_percent=0.3, source=f"{_ERRANT}; round trip as WebPageTest's LTE"
        ),
        "lte-poor": WanProfile(
            100.0, 50.0, 5_000, 1_000, loss_percent=1.0, source=f"{_ERRANT}; compare Lighthouse's slow 4G"
        ),
        "transatlantic": WanProfile(
            95.0, 3.0, loss_percent=0.05, source="assumed: fibre plus access at both ends"
        ),
        "leo": WanProfile(
            50.0,
            7.0,
            loss_percent=0.5,
            handover=Handover(every_s=15.0, lasts_ms=200.0, extra_rtt_ms=40.0),
            source="APNIC's measurements of Starlink, which reassigns satellites every 15 s",
        ),
        "geo": WanProfile(
            600.0,
            20.0,
            source="FCC, Measuring Broadband America: latency of geostationary satellite services",
        ),
    }
)


def find_profile(name: str) -> WanProfile:
    """The profile of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PROFILES:
        raise UserError(f"there is no network profile {name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
