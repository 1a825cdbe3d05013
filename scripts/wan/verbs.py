"""What a running emulator is told on its standard input: one verb a line, one answer a line."""

from __future__ import annotations

import os
from typing import Protocol

from scripts.wan.addresses import parse_address
from scripts.wan.select_loop import SelectLoop
from scripts.wan.traffic import Traffic
from shared.errors import UserError


class Emulator(Protocol):
    """What obeys the verbs."""

    @property
    def traffic(self) -> Traffic:
        """What came out of the link so far."""
        ...

    def reach(self, server: tuple[str, int]) -> str:
        """HOST:PORT at the edge's end behind which `server` is."""
        ...

    def hold(self, seconds: float) -> None:
        """Nothing comes out for that long."""
        ...

    def cut(self) -> int:
        """Reset all connections; returns how many."""
        ...


def perform(emulator: Emulator, line: str) -> str:
    """Carry out one verb; the answer is `ok ...` or `error ...`."""
    match line.split():
        case ["reach", server]:
            try:
                return f"ok {emulator.reach(parse_address(server, 'server'))}"
            except UserError as error:
                return f"error {error}"
        case ["hold", seconds] if seconds.replace(".", "", 1).isdigit():
            emulator.hold(float(seconds))
            return "ok"
        case ["cut"]:
            return f"ok {emulator.cut()}"
        case ["traffic"]:
            return f"ok {emulator.traffic.to_json()}"
        case _:
            return f"error {line.strip()!r} is none of: reach HOST:PORT, hold SECONDS, cut, traffic"


class VerbReader:
    """Verbs from a descriptor, for an emulator that runs in a `SelectLoop`; the descriptor's end stops the loop."""

    def __init__(self, loop: SelectLoop, emulator: Emulator, fd: int) -> None:
        self._loop, self._emulator, self._fd = loop, emulator, fd
        self._left = b""
        loop.read(fd, self._read)

    def _read(self) -> None:
        data = os.read(self._fd, 4096)
        if not data:
            self._loop.stop()
        *lines, self._left = (self._left + data).split(b"\n")
        for line in lines:
            print(perform(self._emulator, line.decode()), flush=True)
