"""A failing world as a file: its seed, what was taken away from it, and what goes wrong in what is left."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.errors import UserError
from shared.sim.cuts import Cuts, cut, features, parts
from shared.sim.fuzz import draw_world
from shared.sim.shrink import Trouble

FORMAT: Final = "slipstream-fuzz 1"


@dataclass(frozen=True, slots=True)
class Case:
    """One failing world."""

    seed: int
    cuts: Cuts
    trouble: Trouble


def describe(seed: int, cuts: Cuts) -> str:
    """What is left of a world, in one line."""
    whole = draw_world(seed)
    left, counts = cut(whole, cuts), parts(whole)
    some = [f"{count} of {counts[name]} {name}" for name, count in parts(left).items() if counts[name]]
    tokens = max(edge.request.max_new_tokens for edge in left.edges)
    prompt = max(len(edge.request.prompt) for edge in left.edges)
    there = ", ".join(features(left)) or "nothing else"
    return f"{', '.join(some)}, at most {tokens} tokens after {prompt}; with {there}"


def write_case(case: Case, path: Path) -> None:
    """Write the file.

    Raises:
        OSError: it cannot be written.
    """
    document = {
        "format": FORMAT,
        "seed": case.seed,
        "world": draw_world(case.seed).fingerprint,
        "cuts": dataclasses.asdict(case.cuts),
        "left": describe(case.seed, case.cuts),
        "trouble": dataclasses.asdict(case.trouble),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_case(path: Path) -> Case:
    """Read a file that `write_case` wrote.

    Raises:
        UserError: there is none, it is something else, or its seed is another world in this version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not a world: not JSON") from error
    form = found.get("format") if isinstance(found, dict) else None
    if form != FORMAT:
        raise UserError(f"{path} is not a world: its format is {form!r}, not {FORMAT!r}")
    try:
        case = Case(_count(found["seed"]), _cuts(found["cuts"]), Trouble(**found["trouble"]))
        world = found["world"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a world: {error}") from error
    if draw_world(case.seed).fingerprint != world:
        raise UserError(f"{path}: seed {case.seed} is another world in this version than where it failed")
    return case


def _cuts(found: dict[str, Any]) -> Cuts:
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    for name in ("tokens", "prompt"):
        if found.get(name) is not None:
            _count(found[name])
    for name, value in lists.items():
        for one in value if name != "off" else ():
            _count(one)
    return Cuts(**{**found, **lists})


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a number from 0")
    return value
