"""The rooms and who may enter them: imports run one way, scripts -> {edge_client, cloud_server, shared.sim} -> shared.

Imports are read from the syntax tree, so one inside a function, behind TYPE_CHECKING or through
`importlib.import_module("...")` counts like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = frozenset({"shared", "edge_client", "cloud_server", "scripts", "tests"})

IMPURE = frozenset(
    {
        *(
            "asyncio",
            "concurrent",
            "datetime",
            "logging",
            "multiprocessing",
            "os",
            "pathlib",
            "queue",
            "random",
        ),
        *("sched", "secrets", "select", "selectors", "signal", "socket", "socketserver", "ssl", "subprocess"),
        *("tempfile", "threading", "time", "uuid"),
    }
)
"""Clocks, sockets, threads, files, environment, randomness: what the machines do not know (law 7)."""

BOTH_SIDES = frozenset({"grpc", "google", "numpy", "rich", "typer", "uvloop"})


@dataclass(frozen=True)
class Room:
    """What a package may import beside the standard library; a longer name's row replaces a shorter one's."""

    own: frozenset[str]
    """Own packages, each with everything below it, except those in `closed`."""
    third_party: frozenset[str] = frozenset()
    closed: frozenset[str] = field(default=frozenset())
    """Own packages below `own` that stay shut."""
    forbidden: frozenset[str] = frozenset()
    """Standard library."""


_SHARED = frozenset({"shared"})
_NO_SIM_NO_PB = frozenset({"shared.sim", "shared.pb"})
_NUMPY = frozenset({"numpy"})
_MACHINE = Room(own=_SHARED, third_party=_NUMPY, closed=_NO_SIM_NO_PB | {"shared.wire"}, forbidden=IMPURE)

TABLE = {
    "shared": Room(own=_SHARED, third_party=_NUMPY, closed=_NO_SIM_NO_PB),
    "shared.session": _MACHINE,
    "shared.pool": _MACHINE,
    "shared.policy": _MACHINE,
    "shared.noise": _MACHINE,
    "shared.sampling": _MACHINE,
    "shared.messages": _MACHINE,
    "shared.step": _MACHINE,
    "shared.errors": _MACHINE,
    "shared.wire": Room(
        own=_SHARED, third_party=frozenset({"google"}), closed=frozenset({"shared.sim"}), forbidden=IMPURE
    ),
    "shared.sim": Room(own=_SHARED, third_party=_NUMPY, closed=frozenset({"shared.pb"})),
    "edge_client": Room(
        own=_SHARED | {"edge_client"},
        third_party=BOTH_SIDES | {"jinja2", "onnxruntime", "tokenizers"},
        closed=frozenset({"shared.sim"}),
    ),
    "cloud_server": Room(
        own=_SHARED | {"cloud_server"},
        third_party=BOTH_SIDES
        | {
            "grpc_health",
            "grpc_reflection",
            "prometheus_client",
            "ray",
            "safetensors",
            "torch",
            "transformers",
        },
        closed=frozenset({"shared.sim"}),
    ),
}
"""`scripts` and `tests` may import everything, and nobody in this table imports them. `shared.pb` is generated."""


def test_the_tree_keeps_the_table() -> None:
    files = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ("shared", "edge_client", "cloud_server")
        for path in (ROOT / package).rglob("*.py")
        if not path.is_relative_to(ROOT / "shared" / "pb")
    }
    assert files
    assert violations(files) == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("shared/session/cloud.py", "import asyncio", "asyncio"),
        ("shared/session/edge.py", "def f():\n    from time import monotonic", "time"),
        ("shared/pool.py", "import random", "random"),
        ("shared/pool/batch.py", "import os.path", "os"),
        ("shared/policy/window.py", "import socket", "socket"),
        ("shared/policy/window.py", "from shared import wire", "shared.wire"),
        ("shared/session/cloud.py", "from shared.pb.slipstream.v1 import slipstream_pb2", "shared.pb"),
        ("shared/config.py", "import grpc", "grpc"),
        ("shared/config.py", "import yaml", "yaml"),
        ("shared/wire.py", "import grpc", "grpc"),
        ("shared/messages.py", "import torch", "torch"),
        ("shared/trace.py", "from .sim import world", "shared.sim"),
        ("shared/sim/world.py", "import edge_client.session", "edge_client"),
        ("edge_client/app.py", "if TYPE_CHECKING:\n    import torch", "torch"),
        ("edge_client/app.py", "import transformers.models", "transformers"),
        ("edge_client/app.py", "import cloud_server", "cloud_server"),
        ("edge_client/app.py", "from shared import sim", "shared.sim"),
        ("edge_client/app.py", "import importlib\nimportlib.import_module('torch')", "torch"),
        ("edge_client/drafter/onnx.py", "from scripts import pair", "scripts"),
        ("cloud_server/app.py", "import onnxruntime", "onnxruntime"),
        ("cloud_server/app.py", "from edge_client import app", "edge_client"),
        ("cloud_server/app.py", "import shared.sim.clock", "shared.sim"),
        ("cloud_server/app.py", "from tests import fakes", "tests"),
    ],
)
def test_a_breach_is_found(path: str, source: str, found: str) -> None:
    """Negative control: one import of each forbidden kind."""
    (violation,) = violations({path: source})
    assert violation.startswith(f"{path}:")
    assert f" imports {found}" in violation


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("shared/session/cloud.py", "import numpy as np\nfrom shared.step import Fact\nfrom . import tree"),
        ("shared/sim/world.py", "from shared.session import cloud\nimport heapq"),
        ("shared/wire.py", "from shared.pb.slipstream.v1 import slipstream_pb2"),
        (
            "edge_client/app.py",
            "import asyncio, grpc.aio\nfrom shared.session import edge\nimport onnxruntime",
        ),
        ("cloud_server/app.py", "import torch, time\nfrom shared import pool"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations({path: source}) == []


def violations(files: dict[str, str]) -> list[str]:
    """One line for each import that the table does not allow; `files` maps paths in the tree to sources."""
    return [
        f"{path}:{line} imports {refused}"
        for path, source in sorted(files.items())
        for line, name in imports(path, source)
        if (refused := refusal(module_of(path), name)) is not None
    ]


def module_of(path: str) -> str:
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts)


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported; `from a import b` yields a.b, which may be a module."""
    package = module_of(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom():
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def refusal(module: str, name: str) -> str | None:
    """The part of `name` that `module` may not import, or None."""
    room = TABLE[max((row for row in TABLE if below(module, row)), key=len)]
    top = name.partition(".")[0]
    if top in OWN:
        shut = next((closed for closed in room.closed if below(name, closed)), None)
        if shut is not None and not below(module, shut):
            return shut
        return None if any(below(name, own) for own in room.own) else top
    if top in sys.stdlib_module_names:
        return top if top in room.forbidden else None
    return None if top in room.third_party else top


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")
