"""`simulate describe`: the schema as tables, made from the models that read it, and the page that holds them."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scripts.simulate.schema import Scenario
from scripts.simulate.schema_base import allowed, kinds_of
from scripts.simulate.schema_draws import AnySpread, Between
from scripts.simulate.schema_fleets import AnyAcceptance, AnyArrivals
from shared.errors import UserError

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "scenarios.md"
BEGIN: Final = "<!-- made by `python -m scripts.simulate describe --write`: from here on -->"
END: Final = "<!-- made by `python -m scripts.simulate describe --write`: up to here -->"

NEEDED: Final = "**needed**"

_UNIONS: Final = {
    AnyArrivals: ("Arrivals", "kind", "When users ask."),
    AnyAcceptance: (
        "Acceptance",
        "process",
        "Where a drafter is right. A bare number is the rate of `profiled`.",
    ),
    AnySpread: ("Distribution", "kind", "A quantity that differs. A bare number is `constant`."),
}
"""Models of which one is chosen by a word."""


def describe(
    *, write: Annotated[bool, typer.Option("--write", help="Into docs/scenarios.md.")] = False
) -> int:
    """Every key of a scenario with what it may be, as Markdown."""
    if not write:
        print(tables())
        return 0
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def with_tables(page: str) -> str:
    """A page with today's tables between its two marks.

    Raises:
        UserError: it has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{PAGE}: the marks are missing between which the tables stand")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """A section for each model, in the order in which a reader meets them."""
    parts: list[str] = []
    for title, about, models in _sections():
        parts += [f"## {title}", "", about, ""]
        for word, model in models.items():
            if word:
                parts += [f"**`{word}`**: {_about(model)}", ""]
            parts += [*_table(model, word), ""]
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, str, dict[str, type[BaseModel]]]]:
    """Title, what it is, and its models: one, or those of which one is chosen."""
    waiting: list[Any] = [Scenario]
    met: list[Any] = []
    while waiting:
        kind = waiting.pop(0)
        if kind in met:
            continue
        met.append(kind)
        if kind in _UNIONS:
            title, key, about = _UNIONS[kind]
            models = kinds_of(kind, key)
        else:
            title, about, models = kind.__name__, _about(kind), {"": kind}
        yield title, about, models
        fields = [field for model in models.values() for field in model.model_fields.values()]
        waiting = [*(one for field in fields for one in _models(field)), *waiting]


def _about(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split())


def _table(model: type[BaseModel], word: str) -> list[str]:
    rows = ["| key | may be | left out | |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        chooses = bool(word) and field.default == word
        what = f"`{word}`" if chooses else _what(field)
        cells = (f"`{key}`", what, NEEDED if chooses else _default(field), field.description or "")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _what(field: FieldInfo) -> str:
    """What a value may be, with a link where that is told further down."""
    models = _models(field)
    if not models:
        return allowed(field.annotation, field.metadata)
    title = _UNIONS[models[0]][0] if models[0] in _UNIONS else models[0].__name__
    link = f"[{title}](#{title.lower()})"
    bounds = _bounds(field)
    if bounds is not None:
        return f"{link}, {bounds}"
    if _contains(field.annotation, tuple):
        return f"list of {link}"
    return f"{link} by name" if _contains(field.annotation, dict) else link


def _default(field: FieldInfo) -> str:
    value = NEEDED if field.is_required() else field.default
    match value:
        case None | () | "":
            return ""
        case BaseModel():
            return _short(value)
        case enum.Enum():
            return f"`{value.value}`"
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:g}`"
    return NEEDED if value is NEEDED else f"`{value}`"


def _short(value: BaseModel) -> str:
    """A model as it is if nothing is said."""
    said = {key: one for key, one in value.model_dump(mode="json").items() if not isinstance(one, dict)}
    word = said.get("kind")
    if word == "constant":
        return f"`{said['value']:g}`"
    return f"`{word}`" if word is not None else "as below"


def _models(field: FieldInfo) -> list[Any]:
    return list(_found(field.annotation))


def _found(kind: Any) -> Iterator[Any]:
    if kind in _UNIONS:
        yield kind
        return
    if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
        yield kind
        return
    for part in get_args(kind):
        yield from _found(part)


def _contains(kind: Any, container: type) -> bool:
    return get_origin(kind) is container or any(_contains(part, container) for part in get_args(kind))


def _bounds(field: FieldInfo) -> Between | None:
    """Of a distribution."""
    stack: list[Any] = [field.annotation, *field.metadata]
    while stack:
        one = stack.pop()
        if isinstance(one, Between):
            return one
        stack += get_args(one)
        stack += getattr(one, "__metadata__", ())
    return None
