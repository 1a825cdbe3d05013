"""Where a benchmark writes its rows: a folder of its own, or one whose rows are kept and gone on with."""

from __future__ import annotations

import time
from pathlib import Path

from shared.errors import UserError


def results_folder(out: Path | None, *, under: Path | str, name: str, records: str, resume: bool) -> Path:
    """`out`, or a new folder `under`/`name`-DATE-TIME, made. It holds a file `records` already only if `resume`.

    Raises:
        UserError: it holds results that are not to be kept, it cannot be made, or nobody said which to resume.
    """
    if resume and out is None:
        raise UserError("--resume: say with --out where the rows are that are to be kept")
    folder = out if out is not None else Path(under) / time.strftime(f"{name}-%Y-%m-%d-%H%M%S")
    if (folder / records).exists() and not resume:
        raise UserError(f"--out {folder}: it holds results already; choose another folder, or --resume")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error
    return folder
