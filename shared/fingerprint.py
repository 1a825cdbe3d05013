"""Fingerprints that edge and cloud must compute alike."""

from __future__ import annotations

import hashlib
from pathlib import Path


def tokenizer_fingerprint(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of a `tokenizer.json`, byte for byte; `path` is that file or the folder that holds it.

    Empty if there is no such file: a target without a tokenizer makes no claim about token ids.

    Raises:
        OSError: the file exists and cannot be read.
    """
    file = Path(path)
    if file.name != "tokenizer.json":
        file = file / "tokenizer.json"
    if not file.exists():
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest()
