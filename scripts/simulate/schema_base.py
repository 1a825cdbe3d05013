"""What every part of a scenario is made of: frozen models that know their keys, and values that know their ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from shared.errors import UserError

MOST_EDGES: Final = 100_000
MOST_WORKERS: Final = 4_096
MOST_SECONDS: Final = 86_400.0
MOST_MS: Final = 3_600_000.0
MOST_TOKENS: Final = 1_000_000
MOST_FILE_BYTES: Final = 64 << 20


def wrong(text: str, *key: str | int) -> PydanticCustomError:
    """What is the matter with a value, or with the one below it at `key`; `load` puts it on one line."""
    return PydanticCustomError("wrong", "{text}", {"text": text, "key": key})


def unknown(name: object, names: Iterable[str], what: str, *key: str | int) -> PydanticCustomError:
    """A name that is none of those that there are."""
    return PydanticCustomError(
        "unknown_name", "unknown", {"name": name, "names": list(names), "what": what, "key": key}
    )


class Model(BaseModel):
    """A mapping of the file: frozen, and without a key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, data: Any) -> Any:
        # Before pydantic's own look at them: a mistyped key is also a missing one, and only the first is the matter.
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown(key, cls.model_fields, "key", str(key))
            for key, field in cls.model_fields.items():
                if field.is_required() and key not in data:
                    raise wrong(f"is missing ({allowed(field.annotation, field.metadata)})", key)
        return data


def allowed(kind: Any, metadata: Iterable[Any] = ()) -> str:
    """What a value of a field's type may be, in a few words.

    Args:
        kind: the annotation.
        metadata: what `Annotated` adds to it.
    """
    for one in metadata:
        if isinstance(one, Describing):
            return str(one)
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not type(None)]
    if origin is Annotated:
        return allowed(parts[0], parts[1:])
    if origin is Literal:
        return ", ".join(f"`{name}`" for name in parts)
    if origin in (Union, UnionType):
        each = list(dict.fromkeys(allowed(part) for part in parts))
        return each[0] if len(each) == 1 else " or ".join(each)
    if origin is tuple:
        return f"list of {allowed(parts[0])}"
    if origin is dict:
        return "mapping of names"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"mapping of {', '.join(kind.model_fields)}"
    return {bool: "`true` or `false`", str: "text"}[kind]


def kinds_of(union: Any, key: str) -> dict[str, type[BaseModel]]:
    """The models of a union by what they say at `key`."""
    return {str(model.model_fields[key].default): model for model in get_args(union)}


def says(data: Any, key: str, union: Any) -> Any:
    """A mapping that says of which kind it is; pydantic alone would not tell which kinds there are."""
    if isinstance(data, Mapping) and key not in data:
        raise wrong(f"is missing ({', '.join(kinds_of(union, key))})", key)
    return data


class Describing:
    """Part of an annotation that can say, as a text, what it allows."""

    __slots__ = ()


def _figure(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


@dataclass(frozen=True, slots=True)
class Within(Describing):
    """A number from `least` to `most`. `true` is no number, and neither is a text that looks like one."""

    least: float
    most: float
    whole: bool = False

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic's documentation of custom types."""
        return core_schema.no_info_plain_validator_function(self.check)

    def __str__(self) -> str:
        return f"{_figure(self.least)} to {_figure(self.most)}"

    def check(self, value: Any) -> float | int:
        """The number; a whole one may be written with a point."""
        kind = "a whole number" if self.whole else "a number"
        fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if not (fits and self.least <= value <= self.most and (not self.whole or value == int(value))):
            raise wrong(f"{shown(value)} is not {kind} from {self}")
        return int(value) if self.whole else float(value)


@dataclass(frozen=True, slots=True)
class Among(Describing):
    """One of some names."""

    names: Callable[[], Iterable[str]]
    what: str

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic's documentation of custom types."""
        return core_schema.no_info_plain_validator_function(self.check)

    def __str__(self) -> str:
        return ", ".join(f"`{name}`" for name in self.names())

    def check(self, value: Any) -> str:
        """The name."""
        if value not in list(self.names()):
            raise unknown(value, self.names(), self.what)
        return str(value)


@dataclass(frozen=True, slots=True)
class Matching(Describing):
    """A text of some form."""

    pattern: str
    what: str

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic's documentation of custom types."""
        return core_schema.no_info_plain_validator_function(self.check)

    def __str__(self) -> str:
        return self.what

    def check(self, value: Any) -> str:
        """The text."""
        if not isinstance(value, str) or re.fullmatch(self.pattern, value) is None:
            raise wrong(f"{shown(value)} is not {self.what}")
        return value


@dataclass(frozen=True, slots=True)
class ReadableBy(Describing):
    """A file that `read` accepts. Its name is relative to the file that names it; `load` makes it absolute."""

    read: Callable[[Path], object]
    what: str

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic's documentation of custom types."""
        return core_schema.no_info_plain_validator_function(
            self.check, serialization=core_schema.to_string_ser_schema()
        )

    def __str__(self) -> str:
        return f"the name of {self.what}"

    def check(self, value: Any) -> Path:
        """Its place."""
        if not isinstance(value, str | Path):
            raise wrong(f"{shown(value)} is not {self}")
        path = Path(value)
        if not path.is_file():
            raise wrong(f"there is no file {path}: give {self}")
        if path.stat().st_size > MOST_FILE_BYTES:
            raise wrong(f"{path} has more than {MOST_FILE_BYTES >> 20} MiB")
        try:
            self.read(path)
        except UserError as error:
            raise wrong(str(error)) from error
        return path


def shown(value: object) -> str:
    """A value in a message as YAML would have it, never long."""
    words = {True: "true", False: "false", None: "null"}
    text = words[value] if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


Name = Annotated[
    str,
    Matching(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,63}", "letters, digits, spaces and _.+-, at most 64 of them"),
]
Text = Annotated[str, Matching(r"(?s:.){0,10000}", "text of at most 10,000 characters")]
Milliseconds = Annotated[float, Within(0, MOST_MS)]
StepMilliseconds = Annotated[float, Within(0.001, 60_000)]
Seconds = Annotated[float, Within(0, MOST_SECONDS)]
Share = Annotated[float, Within(0, 1)]
Tokens = Annotated[int, Within(1, MOST_TOKENS, whole=True)]
Seed = Annotated[int, Within(0, 2**62, whole=True)]
Price = Annotated[float, Within(0, 1_000_000)]
Watts = Annotated[float, Within(0, 1_000_000)]
