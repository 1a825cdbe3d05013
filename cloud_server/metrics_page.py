"""The counters of a server as Prometheus reads them: `--metrics-listen HOST:PORT`. Numbers only, never tokens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cloud_server.listening import host_and_port
from cloud_server.metrics import Metrics
from shared.errors import UserError
from shared.security import is_loopback

FLAG = "--metrics-listen"


def check(listen: str, *, insecure_beyond_loopback: bool) -> None:
    """Whether this address may be listened on: what is there can be read by everybody who reaches it.

    Raises:
        UserError: it is not HOST:PORT, or other machines could connect.
    """
    host, _ = host_and_port(listen, FLAG)
    if not insecure_beyond_loopback and not is_loopback(host):
        raise UserError(
            f"{FLAG} {listen} would let other machines read how much this server has to do: listen on 127.0.0.1, or "
            "say --allow-insecure-beyond-loopback"
        )


@contextlib.contextmanager
def page(listen: str, metrics: Metrics) -> Iterator[str]:
    """Serve the page in a thread of its own while the block is entered; yields the address as it was bound.

    Raises:
        UserError: the address cannot be listened on.
    """
    host, port = host_and_port(listen, FLAG)
    registry = CollectorRegistry()
    registry.register(ServerCollector(metrics))
    try:
        server, thread = start_http_server(port, host.removeprefix("[").removesuffix("]"), registry)
    except OSError as error:
        raise UserError(f"cannot listen on {listen}: choose another with {FLAG}, or port 0") from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ServerCollector:
    """Reads a server's counters when it is asked; also from another thread, for each number is read at once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        metrics = self._metrics
        yield GaugeMetricFamily("slipstream_sessions", "Sessions that are open.", metrics.open_sessions)
        for name, words, value in (
            ("steps", "Verify steps.", metrics.steps),
            ("failed_steps", "Verify steps that raised.", metrics.failed_steps),
            ("step_seconds", "Time in verify steps, over all workers.", metrics.step_us / 1e6),
            ("facts", "Facts established.", metrics.facts),
            ("computed_tokens", "Tokens forwarded, prompts included.", metrics.computed_tokens),
            ("committed_tokens", "Tokens sent to edges.", metrics.committed_tokens),
            ("refused", "Streams refused for want of room.", metrics.refused),
            ("workers_joined", "Workers that came up.", metrics.workers_joined),
            ("workers_left", "Workers that were lost, or stopped.", metrics.workers_left),
            ("transfers", "Sessions' states brought from one worker to another.", metrics.transfers),
            ("transferred_tokens", "Tokens of these states.", metrics.transferred_tokens),
            ("failed_transfers", "States that did not arrive.", metrics.failed_transfers),
            *self._of_pool(),
        ):
            yield CounterMetricFamily(f"slipstream_{name}", words, value)
        yield self._endings()
        yield from self._workers()

    def _of_pool(self) -> Iterator[tuple[str, str, float]]:
        pool = self._metrics.pool
        if pool is None:
            return
        yield "hedged_steps", "Steps that took too long and were asked of another worker.", pool.counts.hedged
        yield "lost_steps", "Steps that were out on a worker when it was lost.", pool.counts.lost_steps
        yield "helped_steps", "Steps of a session on another worker than its own.", pool.counts.helped
        yield "checked_facts", "Facts that a second worker established once more.", pool.checked
        yield "near_ties", "Of these, others within rounding of the first.", pool.near_ties
        yield "disagreements", "Of these, others for no such reason.", pool.incidents

    def _endings(self) -> Metric:
        endings = CounterMetricFamily(
            "slipstream_endings", "Streams ended by this side, by status.", labels=["status"]
        )
        for status, count in list(self._metrics.endings.items()):
            endings.add_metric([status.value], count)
        return endings

    def _workers(self) -> Iterator[Metric]:
        now = time.monotonic()
        labels = ["worker", "place"]
        busy = GaugeMetricFamily(
            "slipstream_worker_busy_share",
            "Share of a worker's time in steps, since it came up.",
            labels=labels,
        )
        steps = CounterMetricFamily("slipstream_worker_steps", "Verify steps of a worker.", labels=labels)
        facts = CounterMetricFamily("slipstream_worker_facts", "Facts of a worker.", labels=labels)
        for worker, counts in list(self._metrics.workers.items()):
            place = [str(worker), counts.name]
            busy.add_metric(place, counts.busy_share(now))
            steps.add_metric(place, counts.steps)
            facts.add_metric(place, counts.facts)
        yield from (busy, steps, facts)
