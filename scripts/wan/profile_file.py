"""Profiles from a file of the user's own, and as text between processes.

[cafe]
rtt_ms = 45
jitter_ms = 12
jitter = "pareto"
down_kbit = 20000
up_kbit = 2000
loss_percent = 0.5
outage = { every_s = 30, lasts_ms = 400 }
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from scripts.wan.profiles import Handover, WanProfile
from shared.errors import UserError
from shared.link import Jitter, Schedule


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers that make sense."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:g}..{self.most:g}"


_DELAY: Final = Range(0, 60_000)
_RATE: Final = Range(0, 100_000_000)
_LOSS: Final = Range(0, 99)

FIGURES: Final[Mapping[str, Range]] = {
    "rtt_ms": _DELAY,
    "jitter_ms": _DELAY,
    "down_kbit": _RATE,
    "up_kbit": _RATE,
    "loss_percent": _LOSS,
    "up_delay_ms": _DELAY,
    "up_jitter_ms": _DELAY,
    "up_loss_percent": _LOSS,
}
_TIMES: Final = {"every_s": Range(0.01, 1e6), "lasts_ms": Range(0, 1e9), "offset_s": Range(0, 1e6)}
TABLES: Final[Mapping[str, Mapping[str, Range]]] = {
    "outage": _TIMES,
    "handover": {**_TIMES, "extra_rtt_ms": _DELAY},
}
TEXTS: Final[Mapping[str, str]] = {
    "jitter": f"one of {', '.join(Jitter)}",
    "source": "text: where the figures come from",
}


def read_profiles(path: Path) -> dict[str, WanProfile]:
    """The profiles in a TOML file, one table each.

    Raises:
        UserError: it cannot be read, or says something that this cannot emulate; names the key and what it may be.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--profile-file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--profile-file {path}: not TOML: {error}") from error
    if not tables:
        raise UserError(f"--profile-file {path}: no profile in it; each is a table, such as [cafe]")
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(
                f"--profile-file {path}: {name}: expected a table, such as [{name}] and rtt_ms below it"
            )
        found[name] = profile_from_table(table, f"{path} [{name}]")
    return found


def profile_from_table(table: Mapping[str, object], where: str) -> WanProfile:
    """A profile of named figures; `where` begins every message.

    Raises:
        UserError: a key is unknown, missing, of the wrong kind or outside its range.
    """
    known = [*FIGURES, *TABLES, *TEXTS]
    for key in table:
        if key not in known:
            allowed = ", ".join(f"{name} ({_allowed(name)})" for name in known)
            raise UserError(f"{where}: unknown key {key}; there are {allowed}")
    if "rtt_ms" not in table:
        raise UserError(f"{where}: rtt_ms ({_allowed('rtt_ms')}) is missing")
    figures = {
        key: _number(table[key], bounds, f"{where}: {key}") for key, bounds in FIGURES.items() if key in table
    }
    texts = {key: _text(table[key], f"{where}: {key}", _allowed(key)) for key in TEXTS if key in table}
    try:
        jitter = Jitter(texts.get("jitter", Jitter.UNIFORM))
    except ValueError:
        raise UserError(f"{where}: jitter {texts['jitter']!r}: expected {TEXTS['jitter']}") from None
    times = {key: _times(table[key], key, where) for key in TABLES if key in table}
    try:
        profile = WanProfile(
            **figures,
            source=texts.get("source", ""),
            jitter=jitter,
            outage=Schedule(**times["outage"]) if "outage" in times else None,
            handover=Handover(**times["handover"]) if "handover" in times else None,
        )
        _ = profile.up, profile.down  # each direction judges its own figures
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return profile


def profile_to_json(profile: WanProfile) -> str:
    """One line that `profile_from_json` reads."""
    return json.dumps({key: value for key, value in asdict(profile).items() if value is not None})


def profile_from_json(text: str) -> WanProfile:
    """The inverse.

    Raises:
        UserError: it is something else.
    """
    return profile_from_table(json.loads(text), "profile")


def _allowed(key: str) -> str:
    if key in FIGURES:
        return str(FIGURES[key])
    if key in TABLES:
        return "{ " + ", ".join(f"{name} {bounds}" for name, bounds in TABLES[key].items()) + " }"
    return TEXTS[key]


def _number(value: object, bounds: Range, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not bounds.least <= value <= bounds.most
    ):
        raise UserError(f"{where} {value!r}: expected a number in {bounds}")
    return float(value)


def _text(value: object, where: str, allowed: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} {value!r}: expected {allowed}")
    return value


def _times(value: object, key: str, where: str) -> dict[str, float]:
    bounds = TABLES[key]
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} {value!r}: expected {_allowed(key)}")
    for name in value:
        if name not in bounds:
            raise UserError(f"{where}: unknown key {key}.{name}; {key} is {_allowed(key)}")
    for name in bounds:
        if name not in value and name != "offset_s":
            raise UserError(f"{where}: {key}.{name} ({bounds[name]}) is missing")
    return {name: _number(one, bounds[name], f"{where}: {key}.{name}") for name, one in value.items()}
