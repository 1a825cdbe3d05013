"""Networks by name. Figures are rounded from published measurements; where none is named they are assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from shared.errors import UserError
from shared.link import Jitter, LinkProfile, Schedule


@dataclass(frozen=True, slots=True)
class Handover:
    """A path that is longer for a while, again and again."""

    every_s: float
    lasts_ms: float
    extra_rtt_ms: float
    offset_s: float = 0.0
    """When the first one begins."""


@dataclass(frozen=True, slots=True)
class WanProfile:
    """A network as one edge sees it. Without figures of its own, the way up takes half of the round trip's."""

    rtt_ms: float
    jitter_ms: float = 0.0
    """Spread of a round trip's delay, the sum of both directions' `LinkProfile.jitter_ms`."""
    down_kbit: float = 0.0
    """Rate towards the edge; 0: unlimited."""
    up_kbit: float = 0.0
    """Rate towards the cloud; 0: unlimited."""
    loss_percent: float = 0.0
    """Share of packets lost, each way."""
    handover: Handover | None = None
    source: str = ""
    jitter: Jitter = Jitter.UNIFORM
    outage: Schedule | None = None
    """Nothing passes meanwhile, either way."""
    up_delay_ms: float | None = None
    """How much of `rtt_ms` lies on the way up; None: half of it."""
    up_jitter_ms: float | None = None
    """How much of `jitter_ms` lies on the way up; None: half of it."""
    up_loss_percent: float | None = None
    """Loss on the way up; None: `loss_percent`."""

    @property
    def up(self) -> LinkProfile:
        """Edge to cloud."""
        delay_ms = self.rtt_ms / 2 if self.up_delay_ms is None else self.up_delay_ms
        jitter_ms = self.jitter_ms / 2 if self.up_jitter_ms is None else self.up_jitter_ms
        loss = self.loss_percent if self.up_loss_percent is None else self.up_loss_percent
        return self._way(delay_ms, jitter_ms, self.up_kbit, loss)

    @property
    def down(self) -> LinkProfile:
        """Cloud to edge."""
        up = self.up
        return self._way(
            self.rtt_ms - up.delay_ms, self.jitter_ms - up.jitter_ms, self.down_kbit, self.loss_percent
        )

    @property
    def ideal(self) -> bool:
        """Whether the network does nothing."""
        return self.up.nothing and self.down.nothing

    def _way(self, delay_ms: float, jitter_ms: float, kbit: float, loss_percent: float) -> LinkProfile:
        handover = self.handover
        return LinkProfile(
            delay_ms,
            jitter_ms,
            kbit,
            jitter=self.jitter,
            loss=loss_percent / 100,
            outage=self.outage,
            handover=Schedule(handover.every_s, handover.lasts_ms, handover.offset_s) if handover else None,
            handover_ms=handover.extra_rtt_ms / 2 if handover else 0.0,
        )


_ERRANT = "ERRANT, emulation models of European mobile networks (github.com/marty90/errant)"

PROFILES: Final[Mapping[str, WanProfile]] = MappingProxyType(
    {
        "ideal": WanProfile(0.0, source="no network at all: what the emulator itself costs"),
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
            handover=Handover(every_s=15.0, lasts_ms=200.0, extra_rtt_ms=40.0, offset_s=5.0),
            source="APNIC's measurements of Starlink, which reassigns satellites every 15 s",
        ),
        "geo": WanProfile(
            600.0,
            20.0,
            source="FCC, Measuring Broadband America: latency of geostationary satellite services",
        ),
    }
)


def find_profile(name: str, more: Mapping[str, WanProfile] | None = None) -> WanProfile:
    """The profile of that name, of those built in or of `more`, which come first.

    Raises:
        UserError: there is none.
    """
    known = {**PROFILES, **(more or {})}
    if name not in known:
        raise UserError(f"there is no network profile {name!r}: choose one of {', '.join(known)}")
    return known[name]
