"""Generates `shared/pb` from `proto/`: `python -m scripts.gen_proto` (or `make proto`).

The generators are the pinned `grpcio-tools` and `mypy-protobuf` of the extra `dev`; `tests/test_proto_fresh.py`
holds the result to what is checked in. protoc writes imports that start at its own root (`from slipstream.v1
import ...`): they are rewritten to the package in which the files lie, so that nothing needs `sys.path`.
"""

from __future__ import annotations

import argparse
import importlib.resources
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = ROOT / "shared" / "pb"
PACKAGE = "shared.pb"

_INIT = '"""Generated from `proto/{name}`: see `shared/pb/__init__.py`."""\n'


class GenerationError(Exception):
    """protoc refused the contract; it has said why on stderr."""


def generate(out: Path) -> tuple[Path, ...]:
    """Writes the code for every file of `proto/` below `out`, laid out like `proto/`.

    Returns what was written, relative to `out` and sorted; raises `GenerationError` when protoc does not succeed.
    """
    sources = sorted(PROTO.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name)
        _run_protoc(sources, raw)
        roots = {source.relative_to(PROTO).parts[0] for source in sources}
        written = [
            _place(path, raw, out, roots) for path in sorted(raw.rglob("*")) if path.suffix in {".py", ".pyi"}
        ]
    packages = {parent for path in written for parent in path.parents if parent != Path()}
    for package in sorted(packages):
        (out / package / "__init__.py").write_text(_INIT.format(name=package.as_posix()), encoding="utf-8")
        written.append(package / "__init__.py")
    return tuple(sorted(written))


def _run_protoc(sources: Sequence[Path], out: Path) -> None:
    # The plugins of mypy-protobuf lie beside the interpreter, which need not be on PATH.
    scripts = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={importlib.resources.files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *(str(source) for source in sources),
    ]
    status = protoc.main(arguments)
    if status != 0:
        raise GenerationError(f"protoc ended with status {status}")


def _place(path: Path, raw: Path, out: Path, roots: set[str]) -> Path:
    text = path.read_text(encoding="utf-8")
    for root in sorted(roots):
        text = text.replace(f"from {root}.", f"from {PACKAGE}.{root}.")
    relative = path.relative_to(raw)
    target = out / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return relative


def main() -> None:
    """Regenerates the code that is checked in; files whose source is gone disappear."""
    argparse.ArgumentParser(description="Generate shared/pb from proto/.").parse_args()
    for stale in sorted(path for path in GENERATED.iterdir() if path.is_dir()):
        shutil.rmtree(stale)
    for path in generate(GENERATED):
        print((GENERATED / path).relative_to(ROOT))


if __name__ == "__main__":
    main()
