"""Where workers run beside this process: in processes of this host, and on other machines."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from cloud_server.fleet.child import MOMENT_S, Child
from cloud_server.fleet.link import Link, dial
from cloud_server.fleet.member import HopelessError, StartError
from cloud_server.loading import WorkerSpec
from shared.security import ClientSecrets

USER_ERROR: Final = 2
"""Exit code of a process whose user has something to mend."""
START_S: Final = 1800.0
"""Large models take minutes to load."""
GRACE_S: Final = 2.0
"""For a process to end in order."""
DIAL_S: Final = 5.0
"""For a worker on another machine to answer: three round trips with TLS, and its own business."""


class ProcessPlace:
    """See `Place`."""

    local = True

    def __init__(self, name: str, spec: WorkerSpec, deadline_s: float, *, verbose: bool = False) -> None:
        """`verbose`: what the process says while it starts is repeated here."""
        self.name = name
        self._spec = spec
        self._deadline_s = deadline_s
        self._verbose = verbose

    async def open(self) -> Link:
        """See `Place.open`."""
        # Nobody else may enter. Once the connection stands the way to it is not needed any more, and nothing is left of
        # it when this process is killed.
        folder = Path(tempfile.mkdtemp(prefix="slipstream-"))
        try:
            return await self._open(folder / "worker")
        finally:
            shutil.rmtree(folder)

    async def close(self) -> None:
        """See `Place.close`."""

    async def _open(self, socket: Path) -> Link:
        said = "verbose" if self._verbose else "quiet"
        command = [sys.executable, "-m", "cloud_server.fleet.process", str(os.getpid()), str(socket)]
        child = Child([*command, self._spec.to_json(), said], aloud=self._verbose)
        target = f"unix:{socket}"
        dialled = asyncio.create_task(
            dial(
                target,
                self.name,
                ClientSecrets(),
                deadline_s=self._deadline_s,
                within_s=START_S,
                wait=True,
            )
        )
        ended = asyncio.create_task(child.ended())
        try:
            await asyncio.wait((dialled, ended), return_when=asyncio.FIRST_COMPLETED)
            if dialled.done():
                link = dialled.result()
                child.aloud = True
                link.release = partial(_release, child)
                return link
        except BaseException:
            await child.stop(0.0)
            raise
        finally:
            dialled.cancel()
            ended.cancel()
            await asyncio.gather(dialled, ended, return_exceptions=True)
        raise _failed(child)


class RemotePlace:
    """A worker that somebody has started at an address. See `Place`."""

    local = False

    def __init__(self, address: str, secrets: ClientSecrets, deadline_s: float) -> None:
        """`address` is HOST:PORT."""
        self.name = address
        self._secrets = secrets
        self._deadline_s = deadline_s

    async def open(self) -> Link:
        """See `Place.open`."""
        return await dial(
            self.name, self.name, self._secrets, deadline_s=self._deadline_s, within_s=DIAL_S, wait=False
        )

    async def close(self) -> None:
        """See `Place.close`."""


async def _release(child: Child, kill: bool) -> str:
    """A process that is lost is killed, be it frozen or not."""
    await child.stop(MOMENT_S if kill else GRACE_S)
    return child.ending


def _failed(child: Child) -> StartError:
    words = child.words
    if child.code == USER_ERROR and words:
        return HopelessError(words[-1])
    return StartError("\n".join([child.ending, *words]))
