"""YAML files as trees that know, for every value, where it was written: read, included, merged.

YAML 1.2's core schema, as people expect it: `1e3` is a number, `on` and `12:30` are texts. A key twice in one mapping
is refused, and so is a value that contains itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from shared.errors import UserError

MOST_BYTES: Final = 1 << 18
MOST_VALUES: Final = 200_000
MOST_FILES: Final = 100
MOST_DEPTH: Final = 50
MOST_DIGITS: Final = 40
FILES: Final = frozenset({"file", "hardware"})
"""Keys whose texts are names of files, relative to the file in which they stand."""

_STANDARD: Final = "tag:yaml.org,2002:"
_MERGE: Final = f"{_STANDARD}merge"
_CORE: Final = {
    f"{_STANDARD}null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    f"{_STANDARD}bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    f"{_STANDARD}int": re.compile(r"^[-+]?[0-9]+$"),
    f"{_STANDARD}float": re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    _MERGE: re.compile(r"^<<$"),
}
_TAGS: Final = {*_CORE, *(f"{_STANDARD}{kind}" for kind in ("str", "seq", "map"))}


class _Loader(yaml.SafeLoader):
    """The safe loader with the core schema's scalars."""


_Loader.yaml_implicit_resolvers = {None: list(_CORE.items())}


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it was written."""

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    where: str
    """File and line."""
    folder: Path
    """That names of files are relative to."""

    def plain(self, key: str = "") -> Any:
        """The value without its places; names of files are made absolute."""
        if isinstance(self.value, dict):
            return {name: one.plain(name) for name, one in self.value.items()}
        if isinstance(self.value, list):
            return [one.plain() for one in self.value]
        if key in FILES and isinstance(self.value, str):
            return str(self.folder / Path(self.value).expanduser())
        return self.value


def read_tree(path: Path) -> Node:
    """A file with everything that it includes.

    Raises:
        UserError: no such file, no YAML, a key twice, files that include each other, too much of anything.
    """
    return _Reading().file(path, ())


def parse_value(text: str, where: str, folder: Path) -> Node:
    """A value given on the command line.

    Raises:
        UserError: it is no YAML.
    """
    return _Reading().text(text, where, folder)


def merge(base: Node, over: Node) -> Node:
    """`base` with what `over` says instead.

    Mappings are merged key by key. Lists whose items all have a `name` are merged item by item: one of a known name
    with that one, others are appended. Everything else is replaced.
    """
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        merged = dict(base.value)
        for key, value in over.value.items():
            merged[key] = merge(merged[key], value) if key in merged else value
        return Node(merged, over.where, over.folder)
    if isinstance(base.value, list) and isinstance(over.value, list):
        known, new = _names(base.value), _names(over.value)
        if known is not None and new is not None:
            by_name = dict(zip(known, base.value, strict=True))
            for name, item in zip(new, over.value, strict=True):
                by_name[name] = merge(by_name[name], item) if name in by_name else item
            return Node(list(by_name.values()), over.where, over.folder)
    return over


def _names(items: Sequence[Node]) -> list[str] | None:
    """The names of a list's items; None: not all have one, or two have the same."""
    found = []
    for item in items:
        name = item.value.get("name") if isinstance(item.value, dict) else None
        if name is None or not isinstance(name.value, str):
            return None
        found.append(name.value)
    return found if found and len(set(found)) == len(found) else None


class _Reading:
    """One reading: counts what it has read."""

    def __init__(self) -> None:
        self._files = 0

    def file(self, path: Path, from_: tuple[Path, ...]) -> Node:
        place = path.resolve()
        if place in from_:
            names = [one.name for one in (*from_[from_.index(place) :], place)]
            raise UserError(f"{path}: include goes round in a circle: {' -> '.join(names)}")
        self._files += 1
        if self._files > MOST_FILES:
            raise UserError(f"{path}: include: more than {MOST_FILES} files in all")
        tree = self.text(_read(path), str(path), path.parent)
        if not isinstance(tree.value, dict):
            raise UserError(
                f"{path}: a scenario is a mapping of keys, such as `name: office`; see docs/scenarios.md"
            )
        included = tree.value.pop("include", None)
        whole: Node | None = None
        for name, where in _included(included):
            part = self._include(path.parent / name, where, (*from_, place))
            whole = part if whole is None else merge(whole, part)
        return tree if whole is None else merge(whole, tree)

    def _include(self, path: Path, where: str, from_: tuple[Path, ...]) -> Node:
        if not path.is_file():
            raise UserError(f"{where}: include: there is no file {path}")
        return self.file(path, from_)

    def text(self, text: str, where: str, folder: Path) -> Node:
        try:
            _check_depth(text, where)
            loader = _Loader(text)
            root = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = where if mark is None or where.startswith("--") else f"{where}:{mark.line + 1}"
            raise UserError(f"{place}: not YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
        if root is None:
            raise UserError(f"{where}: there is nothing in it")
        _check_size(root, where)
        return self._node(root, where, folder)

    def _node(self, node: yaml.Node, name: str, folder: Path) -> Node:
        where = _at(name, node)
        if node.tag not in _TAGS:
            raise UserError(f"{where}: the tag {node.tag} means nothing here: leave it out")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, name, folder), where, folder)
        if isinstance(node, yaml.SequenceNode):
            return Node([self._node(one, name, folder) for one in node.value], where, folder)
        return Node(_scalar(node, where), where, folder)

    def _mapping(self, node: yaml.MappingNode, name: str, folder: Path) -> dict[str, Node]:
        found: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            where = _at(name, key)
            if key.tag == _MERGE:
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(one, yaml.MappingNode):
                        raise UserError(f"{where}: << takes a mapping, or a list of them")
                    merged = {**self._mapping(one, name, folder), **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{where}: a key is a text, not a list or a mapping")
            if key.value in found:
                raise UserError(f"{where}: {key.value} stands twice in one mapping")
            found[key.value] = self._node(value, name, folder)
        return {**merged, **found}


def _at(name: str, node: yaml.Node) -> str:
    """The line matters in a file, not on a command line."""
    return name if name.startswith("--") else f"{name}:{node.start_mark.line + 1}"


def _scalar(node: yaml.Node, where: str) -> str | int | float | bool | None:
    text: str = node.value
    fits = node.tag not in _CORE or _CORE[node.tag].match(text) is not None  # a tag may also be written out
    match node.tag.rpartition(":")[2] if fits else None:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if len(text) <= MOST_DIGITS:
            return int(text)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise UserError(f"{where}: {text[:40]!r} is neither text, number, true, false nor null ({node.tag})")


def _included(node: Node | None) -> Iterator[tuple[str, str]]:
    """Names of files, and where they are asked for."""
    if node is None:
        return
    for one in node.value if isinstance(node.value, list) else [node]:
        if not isinstance(one.value, str):
            raise UserError(f"{one.where}: include takes the name of a file, or a list of them")
        yield one.value, one.where


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: more than {MOST_BYTES >> 10} KiB: a scenario is a page of text")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the name") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: byte {error.start} is not UTF-8") from error


def _check_depth(text: str, where: str) -> None:
    """Before anything recurses."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise UserError(f"{where}: more than {MOST_DEPTH} levels deep")


def _check_size(root: yaml.Node, where: str) -> None:
    """Aliases are the same node again: a few lines can stand for billions of values, or for themselves."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > MOST_DEPTH:
            raise UserError(f"{where}: more than {MOST_DEPTH} levels deep, or within itself")
        if id(node) not in sizes:
            parts: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                parts = [one for pair in node.value for one in pair]
            elif isinstance(node, yaml.SequenceNode):
                parts = node.value
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if size(root, 0) > MOST_VALUES:
        raise UserError(f"{where}: more than {MOST_VALUES:,} values, aliases counted")
