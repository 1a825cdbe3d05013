"""Frozen dataclasses to plain JSON values and back, by their annotations: for result lines and the edge's pipe."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: Any) -> Any:
    """What `json.dumps` takes. Fields that are not given to the constructor, or hold a function, are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        given = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        return {name: encode(field) for name, field in given.items() if not callable(field)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], value: Any) -> T:
    """The value of type `kind` that `encode` made `value` of. Fields that are missing take their defaults.

    Raises:
        ValueError: it is not one; the message names the type.
    """
    decoded: T = _decode(kind, value)
    return decoded


def _decode(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), value)
    if is_dataclass(kind):
        return _dataclass(kind, value)
    if origin is tuple:
        return _tuple(get_args(kind), value)
    if origin in (dict, Mapping):
        key, item = get_args(kind)
        return {_key(key, name): _decode(item, one) for name, one in _checked(dict, value).items()}
    if isinstance(kind, type) and issubclass(kind, Enum | Path):
        return kind(value)
    if kind is float:
        return float(_checked(int | float, value))
    return value if kind is Any else _checked(kind, value)


def _union(choices: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in choices:
        return None
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _decode(choice, value)
        except (TypeError, ValueError):
            continue
    raise ValueError(f"{value!r} is none of {choices}")


def _dataclass(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    known = {one.name for one in fields(kind) if one.init}
    given = _checked(dict, value)
    if unknown := given.keys() - known:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    try:
        return kind(**{name: _decode(hints[name], one) for name, one in given.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def _tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    items = _checked(list, value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item) for item in items)
    if len(kinds) != len(items):
        raise ValueError(f"{len(items)} values where {len(kinds)} belong")
    return tuple(_decode(kind, item) for kind, item in zip(kinds, items, strict=True))


def _key(kind: Any, name: str) -> Any:
    return kind(name) if kind in (int, float) else name


def _checked(kind: Any, value: Any) -> Any:
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right:
        raise ValueError(f"{value!r} is no {kind}")
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
