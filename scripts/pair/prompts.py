"""Held-out prompts, read from the running interpreter's standard library.

`heldout.json` pins files by the SHA-256 of their content and prompts by byte offsets into them, for several
Python releases. The texts themselves are not in the repository: a prompt exists where a file with the pinned
content is installed. Files are never trained on, under any of their pinned contents (see `corpus.py`).

Pure standard library: importable without torch, onnxruntime or a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

HELD_OUT_FILE = Path(__file__).with_name("heldout.json")
FORMAT_VERSION = 1


class HeldOutError(LookupError):
    """The running interpreter's library holds fewer held-out prompts than were asked for."""


@dataclass(frozen=True, slots=True)
class HeldOutFile:
    """One pinned file: `path` relative to the library, `sha256` of its bytes, prompts as (start, end) byte offsets."""

    path: str
    sha256: str
    spans: tuple[tuple[int, int], ...]


def library_root() -> Path:
    """The folder that holds the running interpreter's standard library (the base one, inside a venv too)."""
    return Path(sysconfig.get_path("stdlib"))


@cache
def held_out_files(manifest: Path = HELD_OUT_FILE) -> tuple[HeldOutFile, ...]:
    """All pinned files of all releases. Raises ValueError if the manifest has another format version."""
    document = json.loads(manifest.read_text(encoding="utf-8"))
    if document["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{manifest.name}: format_version {document['format_version']}, not {FORMAT_VERSION}"
        )
    return tuple(
        HeldOutFile(entry["path"], entry["sha256"], tuple((start, end) for start, end in entry["spans"]))
        for entry in document["files"]
    )


def installed_prompts(root: Path | None = None, manifest: Path = HELD_OUT_FILE) -> list[str]:
    """Every held-out prompt that the library under `root` (default: the running interpreter's) holds.

    Round robin over the files in the manifest's order, so that any prefix of the list is varied.
    """
    root = library_root() if root is None else root
    per_file: list[list[str]] = []
    for pinned in held_out_files(manifest):
        source = root / pinned.path
        if not source.is_file():
            continue
        content = source.read_bytes()
        if hashlib.sha256(content).hexdigest() == pinned.sha256:
            per_file.append([content[start:end].decode("utf-8") for start, end in pinned.spans])
    return [prompt for row in zip_longest(*per_file) for prompt in row if prompt is not None]


def held_out_prompts(count: int, root: Path | None = None) -> list[str]:
    """The first `count` held-out prompts, always in the same order for the same interpreter release.

    Raises HeldOutError when fewer are installed, ValueError when `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be positive, not {count}")
    found = installed_prompts(root)
    if len(found) < count:
        where = library_root() if root is None else root
        raise HeldOutError(
            f"{count} held-out prompts wanted, {len(found)} found: the library under {where} differs from the "
            f"releases pinned in {HELD_OUT_FILE.name}; ask for fewer or run under one of those releases"
        )
    return found[:count]
