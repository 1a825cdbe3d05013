"""A file by which the user of a session lets a second device draft for it: the session's id and secret.

Whoever can read it can read the session, draft for it and take it over: it is its owner's alone to read, and gone when
the generation is.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edge_client.driver import Event
from edge_client.transport import Received
from shared.errors import UserError
from shared.messages import Opened, SessionNotice
from shared.security import readable_by_all

FIELDS: Final = ("session_id", "secret")


class ShareFile:
    """Holds what the session was opened with last, from then on until the block is left."""

    def __init__(self, path: Path) -> None:
        """Raises `UserError` where no file can be written."""
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--share {path}: give the name of a file in a folder that exists")
        self._path = path
        self._written = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._written:
            self._path.unlink(missing_ok=True)

    def observe(self, now: int, event: Event) -> None:
        """See `driver.Observe`."""
        if isinstance(event, Received) and isinstance(event.message, Opened):
            self._write(event.message)

    def _write(self, opened: Opened) -> None:
        # Whole or not at all, and at no moment readable by others: mkstemp makes it for its owner alone.
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({"session_id": opened.session_id, "secret": opened.secret}, file)
            Path(name).replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise UserError(f"--share {self._path} cannot be written ({error.strerror})") from error
        self._written = True


def read_share(path: Path) -> SessionNotice:
    """What `ShareFile` wrote.

    Raises:
        UserError: it is not there, or something else.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"--share {path} cannot be read ({error.strerror}): edge-client generate --share FILE writes it once its "
            "session is open, and removes it in the end"
        ) from error
    except ValueError as error:
        raise UserError(f"--share {path} is not what edge-client generate --share FILE writes") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(field), str) for field in FIELDS):
        raise UserError(f"--share {path} is not what edge-client generate --share FILE writes")
    return SessionNotice(found["session_id"], found["secret"])


def read_secret(path: Path) -> tuple[str, str | None]:
    """The secret in a file of its own, and a warning if others can read it.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--secret-file {path} cannot be read: check the path") from error
    if not secret:
        raise UserError(f"--secret-file {path} is empty: write the session's secret into it")
    warning = f"--secret-file {path} can be read by every user of this machine: chmod 600 {path}"
    return secret, warning if readable_by_all(path) else None
