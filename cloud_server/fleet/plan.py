"""Which workers a server is to have, and the places that this means."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Final

from cloud_server.fleet.dialling import secrets_for
from cloud_server.fleet.member import Place
from cloud_server.fleet.places import ProcessPlace, RemotePlace
from cloud_server.fleet.thread import ThreadPlace
from cloud_server.loading import WorkerSpec, make_workers, threads_each
from shared.errors import UserError
from shared.security import ClientSecurity

RAY: Final = "ray"


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What the command line says of workers."""

    spec: WorkerSpec
    """Of each."""
    workers: int = 1
    """This server's own."""
    processes: bool = False
    """Whether those run in processes of their own."""
    devices: tuple[str, ...] = ()
    """Where they compute, in turn; none: `spec.device`."""
    remote: tuple[str, ...] = ()
    """Addresses of workers that somebody else has started."""
    ray: int = 0
    """Workers that Ray is to place."""
    worker_options: tuple[str, ...] = ()
    """Of `cloud-server worker`, for those."""
    security: ClientSecurity = ClientSecurity()  # noqa: RUF009 - a frozen value
    """Of connections to remote workers."""
    deadline_s: float = 5.0
    """When a worker that does not answer is lost."""
    verbose: bool = False

    def specs(self) -> list[WorkerSpec]:
        """Of each of this server's own."""
        devices = self.devices or (self.spec.device,)
        specs = [replace(self.spec, device=devices[number % len(devices)]) for number in range(self.workers)]
        if self.workers > 1 and self.spec.threads is None:
            each = threads_each(self.workers)
            specs = [replace(spec, threads=each) for spec in specs]
        return specs


def plan(
    spec: WorkerSpec,
    *,
    workers: int | None,
    kind: str | None,
    devices: str | None,
    cluster: str | None,
    worker_options: str,
    security: ClientSecurity,
    deadline_s: float,
    verbose: bool,
    sp_degree: int = 1,
) -> FleetPlan:
    """What the options of the command line mean together.

    Raises:
        UserError: they contradict each other, or one makes no sense.
    """
    named = _listed(devices, "--devices")
    if named and spec.device is not None:
        raise UserError("--device and --devices: give one of them")
    remote, ray = _cluster(cluster)
    if workers is None:
        workers = len(named) or (0 if remote or ray else 1)
    if workers < len(named):
        raise UserError(f"--devices names {len(named)} devices for {workers} workers: give as many --workers")
    if kind is None:
        kind = "process" if len(set(named)) > 1 else "thread"
    if kind == "thread" and len(set(named)) > 1:
        raise UserError("--worker-kind thread: threads share one copy of the model, on one of --devices")
    if workers == 0 and not remote and not ray:
        raise UserError("--workers 0 without --cluster: nobody would compute anything")
    if worker_options and not ray:
        raise UserError(
            "--cluster-worker-options without --cluster ray: nobody would start workers with them"
        )
    if sp_degree > (most := workers + len(remote) + ray):
        raise UserError(
            f"--sp-degree {sp_degree} with {_counted(most)}: steps of a session run at once on different workers only, "
            f"give as many --workers"
        )
    more = tuple(shlex.split(worker_options))
    if ray and security.insecure_beyond_loopback:
        more = (*more, "--allow-insecure-beyond-loopback")
    return FleetPlan(
        spec, workers, kind == "process", named, remote, ray, more, security, deadline_s, verbose=verbose
    )


def make_places(plan: FleetPlan) -> list[Place]:
    """The places of a plan. Models of threads are loaded here.

    Raises:
        UserError: the model cannot be had, an address makes no sense, or must not be reached like this.
    """
    places: list[Place] = []
    specs = plan.specs()
    if plan.processes:
        for number, spec in enumerate(specs, 1):
            name = f"process {number} of {len(specs)} on {spec.place}"
            places.append(ProcessPlace(name, spec, plan.deadline_s, verbose=plan.verbose))
    elif specs:
        made = make_workers(specs[0], len(specs))
        for number, worker in enumerate(made, 1):
            places.append(ThreadPlace(worker, f"thread {number} of {len(made)} on {specs[0].place}"))
    secrets = secrets_for(plan.remote, plan.security)
    places += [RemotePlace(address, secrets, plan.deadline_s) for address in plan.remote]
    if plan.ray:
        from cloud_server.fleet.ray_places import ray_places  # noqa: PLC0415 - an optional extra

        places += ray_places(plan.ray, plan.spec, secrets, plan.worker_options, plan.deadline_s)
    return places


def _counted(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _listed(text: str | None, flag: str) -> tuple[str, ...]:
    if text is None:
        return ()
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise UserError(f"{flag} {text}: expected names with commas between them")
    return parts


def _cluster(text: str | None) -> tuple[tuple[str, ...], int]:
    """Addresses, and the number of workers that Ray is to place."""
    parts = _listed(text, "--cluster")
    if not any(part.partition(":")[0] == RAY for part in parts):
        return parts, 0
    _, _, count = parts[0].partition(":")
    if len(parts) > 1 or (count and not (count.isdecimal() and int(count))):
        raise UserError(f"--cluster {text}: expected ray, ray:N, or HOST:PORT[,HOST:PORT...]")
    return (), int(count or 1)
