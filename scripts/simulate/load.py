"""From a file to a `Scenario`, or to one line that says what is wrong with it and where."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from scripts.simulate.documents import Node, parse_value, read_tree
from scripts.simulate.schema import Scenario
from scripts.simulate.schema_base import shown
from shared.errors import UserError

_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]+)\]")
_UNHASHED: Final = frozenset({"seed", "description"})

Key = tuple[str | int, ...]


def load(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read a scenario with everything that it includes.

    Args:
        path: of a YAML file.
        overrides: values by key path, such as `{"fleets[0].count": 10}`; they come last. A list's item may also be
            named: `fleets[phones].count`. Names of files are relative to the working folder.

    Raises:
        UserError: one line that names the file, the key and what is allowed there.
    """
    tree = read_tree(Path(path))
    for key, value in (overrides or {}).items():
        tree = _put(tree, _steps(key), value, key)
    try:
        return Scenario.model_validate(tree.plain())
    except ValidationError as error:
        raise UserError(_line(error, tree)) from error


def parse_override(text: str) -> tuple[str, Any]:
    """A key path and a value from `fleets[0].count=10`; the value is YAML.

    Raises:
        UserError: it is something else.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: not KEY.PATH=VALUE, such as fleets[0].count=10")
    return key, parse_value(value or "null", f"--set {key}", Path.cwd())


def digest(scenario: Scenario) -> str:
    """SHA-256 of what the scenario comes to after includes and overrides: all but its seed and its description, files
    by what is in them.
    """
    resolved = {key: value for key, value in scenario.model_dump(mode="json").items() if key not in _UNHASHED}
    text = json.dumps(_with_contents(resolved), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _with_contents(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: hashlib.sha256(Path(one).read_bytes()).hexdigest()
            if key == "file" and one is not None
            else _with_contents(one)
            for key, one in value.items()
        }
    return [_with_contents(one) for one in value] if isinstance(value, list) else value


# ---- overrides ----


def _steps(key: str) -> list[str]:
    """`fleets[0].count` is `fleets`, `[0]`, `count`."""
    found = [match.group() for match in _STEP.finditer(key)]
    if "".join(found) != key or not found or key.startswith((".", "[")):
        raise UserError(f"--set {key}: not a key path, such as fleets[0].count")
    return [step.removeprefix(".") for step in found]


def _put(node: Node, steps: Sequence[str], value: Any, key: str) -> Node:
    """The tree with another value at a place; mappings on the way there are made where they are missing."""
    where, folder = f"--set {key}", Path.cwd()
    if not steps:
        return value if isinstance(value, Node) else _node(value, where, folder)
    step, rest = steps[0], steps[1:]
    if step.startswith("["):
        items = node.value if isinstance(node.value, list) else []
        number = _item(items, step[1:-1], where)
        changed = [_put(one, rest, value, key) if place == number else one for place, one in enumerate(items)]
        return Node(changed, node.where, node.folder)
    if isinstance(node.value, list):
        raise UserError(f"{where}: a list stands before {step}: say which of it, such as [0]")
    # A bare name or number stands for a mapping; whoever sets a key of that means the mapping.
    known = node.value if isinstance(node.value, dict) else {}
    below = known.get(step, Node({}, where, folder))
    return Node({**known, step: _put(below, rest, value, key)}, node.where, node.folder)


def _item(items: Sequence[Node], which: str, where: str) -> int:
    names = [
        one.value["name"].value if isinstance(one.value, dict) and "name" in one.value else None
        for one in items
    ]
    if which in names:
        return names.index(which)
    if which.isdecimal() and int(which) < len(items):
        return int(which)
    if not items:
        raise UserError(f"{where}: [{which}]: there is no list, or nothing in it")
    known = [str(name) for name in names if name is not None]
    raise UserError(
        f"{where}: [{which}]: from 0 to {len(items) - 1}, or one of {', '.join(known) or 'no names'}"
    )


def _node(value: Any, where: str, folder: Path) -> Node:
    if isinstance(value, Mapping):
        return Node({str(name): _node(one, where, folder) for name, one in value.items()}, where, folder)
    if isinstance(value, list | tuple):
        return Node([_node(one, where, folder) for one in value], where, folder)
    return Node(value, where, folder)


# ---- one line ----


def _line(error: ValidationError, tree: Node) -> str:
    every = error.errors(include_url=False)
    found = [one for one in every if one["type"] != "too_short" or not _below(one["loc"], every)]
    # Names first: what is misspelt is often also what something else misses.
    first = min(found, key=lambda one: one["type"] != "unknown_name")
    context = first.get("ctx", {})
    key, where = _place(tree, (*first["loc"], *context.get("key", ())), missing=bool(context.get("key")))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{where}: {key or 'the scenario'}: {_text(key, first)}{more}"


def _below(loc: Key, errors: Iterable[Mapping[str, Any]]) -> bool:
    """Whether there is an error in an item of this list, which then counts as too short without it."""
    return any(one["loc"][: len(loc)] == loc and one["loc"] != loc for one in errors)


def _place(tree: Node, loc: Key, *, missing: bool) -> tuple[str, str]:
    """A key path as the file has it, and where that stands.

    pydantic's places also name the kinds among which a value was to choose; the file does not, so they are left out.
    """
    text, node = "", tree
    for number, step in enumerate(loc):
        below: Node | None = None
        if isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            text, below = f"{text}[{step}]", node.value[step]
        elif isinstance(node.value, dict) and step in node.value:
            text, below = f"{text}.{step}", node.value[str(step)]
        elif isinstance(node.value, dict) and missing and number == len(loc) - 1:
            text = f"{text}.{step}"
        node = below if below is not None else node
    return text.removeprefix("."), node.where


def _text(key: str, error: Mapping[str, Any]) -> str:
    """What is wrong, and what would be right."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    name = key.rpartition(".")[2]
    match kind:
        case "wrong":
            return str(context["text"])
        case "unknown_name":
            return _unknown(context["name"], context["names"], context["what"])
        case "enum" | "literal_error":
            return _unknown(value, _quoted(context["expected"]), name)
        case "union_tag_invalid":
            tags, what = _quoted(context["expected_tags"]), context["discriminator"].strip("'")
            return _unknown(context["tag"], tags, what)
        case "too_short":
            return f"must have at least {context['min_length']}"
        case "too_long":
            return f"must have at most {context['max_length']:,}"
    expected = _EXPECTED.get(kind)
    return f"{shown(value)} is not {expected}" if expected is not None else str(error["msg"])


_EXPECTED: Final = {
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of names",
    "tuple_type": "a list",
    "string_type": "a text",
    "bool_type": "true or false",
}


def _unknown(name: object, names: Iterable[str], what: str) -> str:
    known = list(names)
    near = difflib.get_close_matches(str(name), known, 1, 0.5)
    said = "unknown key" if what == "key" else f"{shown(name)} is no {what}"
    return f"{said}{f' (did you mean {near[0]}?)' if near else ''}: one of {', '.join(known)}"


def _quoted(text: str) -> list[str]:
    """The names in pydantic's own enumeration of them."""
    return re.findall(r"'([^']*)'", text)
