"""The training text: the standard library's Python sources, less the held-out files.

Two shares: the library proper, and its test suite (where the distribution installs one), which is more text of
the same language. Held-out files come from the library proper only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from scripts.pair.prompts import HELD_OUT_FILE, held_out_files, library_root

# Third-party code (other licences) and machine-made tables (nothing to learn from).
EXCLUDED_PARTS = frozenset({"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"})
TEST_PARTS = frozenset({"test", "tests", "idle_test", "cjkencodings"})
HELD_OUT_ONE_IN = 20


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus: `path` is relative to the library and uses forward slashes."""

    path: str
    text: str
    sha256: str

    @property
    def is_test(self) -> bool:
        """Whether the file belongs to the test suite's share."""
        return not TEST_PARTS.isdisjoint(Path(self.path).parts)


def is_held_out_path(path: str) -> bool:
    """The rule that chose the held-out files: one library path in twenty, by the path's own hash."""
    if not TEST_PARTS.isdisjoint(Path(path).parts):
        return False
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def library_files(root: Path | None = None) -> list[SourceFile]:
    """Every UTF-8 Python source under `root`, by path; a file that is not UTF-8 is not part of the corpus."""
    root = library_root() if root is None else root
    files = []
    for source in sorted(root.rglob("*.py")):
        relative = source.relative_to(root)
        if not EXCLUDED_PARTS.isdisjoint(relative.parts):
            continue
        content = source.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:  # a few test files are in other encodings on purpose
            continue
        if text.strip():
            files.append(SourceFile(relative.as_posix(), text, hashlib.sha256(content).hexdigest()))
    return files


def training_files(root: Path | None = None, manifest: Path = HELD_OUT_FILE) -> list[SourceFile]:
    """The corpus less the held-out files, which are left out by rule, by pinned path and by pinned content."""
    pinned = held_out_files(manifest)
    paths = {entry.path for entry in pinned}
    hashes = {entry.sha256 for entry in pinned}
    return [
        file
        for file in library_files(root)
        if not (is_held_out_path(file.path) or file.path in paths or file.sha256 in hashes)
    ]


def held_out_texts(root: Path | None = None, manifest: Path = HELD_OUT_FILE) -> list[SourceFile]:
    """The held-out files whose content is pinned and installed."""
    hashes = {entry.sha256 for entry in held_out_files(manifest)}
    return [file for file in library_files(root) if file.sha256 in hashes]
