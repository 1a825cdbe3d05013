"""How plots look, by day and by night. Colours of Okabe and Ito (2008): told apart by all eyes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a plot, as hex."""

    name: str
    ground: str
    ink: str
    faint: str
    """Of grids and notes."""


LIGHT: Final = Theme("light", "#ffffff", "#1b1f24", "#c9d1d9")
DARK: Final = Theme("dark", "#161b22", "#e6edf3", "#3d444d")

ARMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cloud": "#8b949e",
        "lookup": "#6e5494",
        "sync": "#d55e00",
        "colocated": "#e69f00",
        "slipstream": "#0072b2",
        "chain": "#56b4e9",
        "tree": "#009e73",
        "generate": "#a2845e",
        "assisted": "#cc79a7",
    }
)
OTHERS: Final = ("#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#e69f00", "#8c6bb1", "#b8a800", "#5f9ea0")


def colour(key: str, number: int) -> str:
    """Of an arm; `number`: its place among the arms without a colour of their own."""
    return ARMS.get(key, OTHERS[number % len(OTHERS)])


def colours(keys: list[str]) -> dict[str, str]:
    """Of all arms of a plot."""
    unknown = [key for key in keys if key not in ARMS]
    return {key: colour(key, unknown.index(key) if key in unknown else 0) for key in keys}
