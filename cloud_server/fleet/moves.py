"""Sessions' states on their way from one worker to another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from cloud_server.fleet.fleet import Fleet
from cloud_server.worker import StateError
from shared.pool import Transfer

log = logging.getLogger(__name__)


class Moves:
    """Performs transfers, each in a task of its own. What does not work is told as that, and prefilled instead."""

    def __init__(
        self,
        fleet: Fleet,
        limit_s: float,
        log_of: Callable[[int], Sequence[int] | None],
        done: Callable[[Transfer, int | None], None],
    ) -> None:
        """Args:
        limit_s: how long one may take.
        log_of: a session's log; None: it has ended.
        done: told of each the tokens that its target now holds; None: it did not work.
        """
        self._fleet = fleet
        self._limit_s = limit_s
        self._log_of = log_of
        self._done = done
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, transfer: Transfer) -> None:
        """Bring a session's state to its new worker; `done` follows."""
        task = asyncio.create_task(self._move(transfer), name=f"move session {transfer.session}")
        self._tasks.add(task)  # the loop keeps weak references only
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up those that are on their way; nothing is told of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _move(self, transfer: Transfer) -> None:
        tokens = None
        try:
            async with asyncio.timeout(self._limit_s):
                tokens = await self._bring(transfer)
        except StateError as error:
            log.warning("a session's state did not get to worker %d: %s", transfer.target, error)
        except TimeoutError:
            log.warning("a session's state did not get to worker %d in %g s", transfer.target, self._limit_s)
        self._done(transfer, tokens)

    async def _bring(self, transfer: Transfer) -> int | None:
        state = await self._fleet.export_state(transfer.source, transfer.session)
        tokens = self._log_of(transfer.session)
        if state is None or tokens is None:
            return None
        held = await self._fleet.import_state(transfer.target, transfer.session, tuple(tokens), state)
        log.info("%d tokens of a session went to worker %d", held, transfer.target)
        return held
