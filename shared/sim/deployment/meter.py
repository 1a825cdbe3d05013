"""What the workers of a deployment have done since the warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shared.sim.deployment.record import WorkerRecord
from shared.sim.fleet import Usage
from shared.sim.server import Server


class Meter:
    """Subtracts what was done before."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._since = 0
        self._before: dict[int, Usage] = {}

    def begin(self, now: int) -> None:
        """What has been done so far belongs to the warm-up."""
        self._since = now
        usages = [usage for server in self._servers for usage in server.usages]
        self._before = {usage.number: replace(usage, busy=_busy(usage, now)) for usage in usages}

    def workers(self, now: int) -> tuple[WorkerRecord, ...]:
        """Of every worker that was there since, by number."""
        found = [
            self._worker(index, usage, now)
            for index, server in enumerate(self._servers)
            for usage in server.usages
            if usage.left is None or usage.left > self._since
        ]
        return tuple(sorted(found, key=lambda worker: worker.number))

    def _worker(self, server: int, usage: Usage, now: int) -> WorkerRecord:
        before = self._before.get(usage.number) or Usage(usage.number, usage.kind, usage.joined)
        left = now if usage.left is None else usage.left
        return WorkerRecord(
            server=server,
            number=usage.number,
            kind=usage.kind,
            present_ns=left - max(usage.joined, self._since),
            busy_ns=_busy(usage, now) - before.busy,
            steps=usage.steps - before.steps,
            nodes=usage.nodes - before.nodes,
            facts=usage.facts - before.facts,
        )


def _busy(usage: Usage, now: int) -> int:
    """With the step that is out."""
    return usage.busy + (0 if usage.out_since is None else now - usage.out_since)
