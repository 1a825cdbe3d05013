"""Published settings, as pairs and links to be measured here: a literal table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from scripts.bench_latency.plan import Pair
from shared.profiled import Profile, parse_profile


@dataclass(frozen=True, slots=True)
class Preset:
    """A published setting."""

    pairs: tuple[Pair, ...]
    rtts_ms: tuple[float, ...]
    claim: str
    """What was published for it, and where."""
    rate_kbit: float = 0.0
    """Each way; 0: unlimited."""


def profiled_pair(
    source: str, *, step_floor_ms: float = 0.0, draft_floor_ms: float = 0.0, note: str = ""
) -> Pair:
    """A pair of `profiled:...`.

    Raises:
        UserError: see `parse_profile`.
    """
    profile = parse_profile(source)
    return Pair(_name(profile), source, profile, step_floor_ms, draft_floor_ms, note)


def _name(profile: Profile) -> str:
    iid = " iid" if profile.iid else ""
    return f"{profile.step_ms:g}/{profile.draft_ms:g} ms, acceptance {profile.acceptance:g}{iid}"


def _pair(step_ms: float, draft_ms: float, acceptance: float, *, iid: bool = False) -> Pair:
    extra = ",iid=true" if iid else ""
    return profiled_pair(
        f"profiled:acceptance={acceptance:g},step_ms={step_ms:g},draft_ms={draft_ms:g}{extra}"
    )


def _dsi(row: int, models: str, step_ms: float, draft_ms: float, acceptance: float, claimed: float) -> Preset:
    claim = (
        f"DSI (arXiv 2405.14105), row {row}, {models}: claimed {claimed:g} times as fast as SI on one host, with up to "
        "7 targets at once; its SI pays a target pass too many for each rejection"
    )
    return Preset((_pair(step_ms, draft_ms, acceptance, iid=True),), (0.0,), claim)


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "acespec": Preset(
            pairs=tuple(_pair(72.0, 15.0, acceptance) for acceptance in (0.5, 0.6, 0.7, 0.8, 0.9)),
            rtts_ms=(20.0, 50.0, 100.0),
            rate_kbit=100_000.0,
            claim=(
                "AceSpec (arXiv 2609.02514), 0.6B drafter on a Jetson, 32B target on an A100: claimed 1.75 times as "
                "fast as the cloud alone, which writes 13.9 tokens/s (72 ms per step); the drafter's 15 ms and the "
                "range of acceptances are assumptions"
            ),
        ),
        "dsi-1": _dsi(1, "Vicuna 13B and 68M", 37.7, 2.5, 0.63, 1.47),
        "dsi-2": _dsi(2, "Vicuna 13B and 68M", 33.3, 2.5, 0.58, 1.41),
        "dsi-3": _dsi(3, "Vicuna 7B and 68M", 29.4, 2.5, 0.67, 1.29),
        "dsi-4": _dsi(4, "Vicuna 7B and 68M", 26.0, 2.5, 0.59, 1.70),
        "dsi-5": _dsi(5, "Starcoder 15B and 168M", 20.6, 6.8, 0.93, 1.92),
        "dsi-6": _dsi(6, "Starcoder 15B and 168M", 21.0, 6.8, 0.90, 1.66),
        "dsi-7": _dsi(7, "Phi-3 14B and 4B", 52.1, 34.0, 0.95, 1.41),
        "dsi-8": _dsi(8, "Phi-3 14B and 4B", 52.2, 34.3, 0.94, 1.37),
        "dsi-9": _dsi(9, "Phi-3 14B and 4B", 52.4, 34.6, 0.93, 1.39),
        "dsi-10": _dsi(10, "Phi-3 14B and 4B", 49.6, 33.4, 0.87, 1.60),
    }
)
