"""`--cluster ray[:N]`: Ray finds machines for workers and starts them there; facts go over gRPC, not through Ray.

An actor on the machine that Ray has chosen runs `cloud-server worker` and says at which address. Where it is lost, it
is given back, and Ray is asked for another place. Every machine of the cluster has this package installed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Final

from cloud_server.fleet.link import dial
from cloud_server.fleet.member import Member, Place, StartError
from cloud_server.fleet.places import DIAL_S, START_S
from cloud_server.loading import WorkerSpec
from shared.errors import UserError
from shared.security import ClientSecrets

READY: Final = "listening on "
"""What `cloud-server worker` says."""


class Host:
    """What Ray places: runs one worker on its machine. Ray calls its methods, in a process of its own there."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, spec: str, front_node: str, options: Sequence[str]) -> str:
        """Start the worker, which ends when this process does; returns HOST:PORT.

        Args:
            spec: a `WorkerSpec` as JSON.
            front_node: Ray's id of the machine on which the server is: there the worker listens on loopback.
            options: more of `cloud-server worker`.

        Raises:
            RuntimeError: it does not come up; the text says why.
        """
        import ray  # noqa: PLC0415 - an optional extra

        node = ray.get_runtime_context().get_node_id()
        host = "127.0.0.1" if node == front_node else ray.util.get_node_ip_address()
        named = WorkerSpec.from_json(spec).to_options()
        command = [sys.executable, "-m", "cloud_server", "worker", f"--listen={host}:0", *named, *options]
        with tempfile.TemporaryFile("w+") as words:
            self._process = subprocess.Popen(  # noqa: S603 - this product's own program
                [*command, "--until-stdin-ends"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
            stdout = self._process.stdout
            line = "" if stdout is None else stdout.readline()
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
            self._process.kill()
            self._process.wait()
            words.seek(0)
            raise RuntimeError(words.read().strip() or "it ended without a word")


class RayPlace:
    """See `Place`."""

    local = True

    def __init__(
        self,
        name: str,
        spec: WorkerSpec,
        secrets: ClientSecrets,
        options: Sequence[str],
        deadline_s: float,
        resources: dict[str, float],
    ) -> None:
        """`resources`: what a worker takes, by Ray's names; `options`: more of `cloud-server worker`."""
        self.name = name
        self._spec = spec
        self._secrets = secrets
        self._options = tuple(options)
        self._deadline_s = deadline_s
        self._resources = resources

    async def open(self) -> Member:
        """See `Place.open`."""
        import ray  # noqa: PLC0415 - an optional extra

        node = ray.get_runtime_context().get_node_id()
        host: Any = ray.remote(Host).options(**self._resources).remote()
        try:
            async with asyncio.timeout(START_S):
                address: str = await host.start.remote(self._spec.to_json(), node, self._options)
            link = await dial(
                address,
                f"{self.name} at {address}",
                self._secrets,
                deadline_s=self._deadline_s,
                within_s=DIAL_S,
                wait=False,
            )
        except BaseException as error:
            ray.kill(host)
            if isinstance(error, ray.exceptions.RayError | TimeoutError):
                raise StartError(str(error).strip().rsplit("\n", 1)[-1]) from error
            raise

        async def release(_: bool) -> str:
            await asyncio.to_thread(ray.kill, host)
            return "its place was given back to Ray"

        link.release = release
        return link

    async def close(self) -> None:
        """See `Place.close`."""


def ray_places(
    count: int, spec: WorkerSpec, secrets: ClientSecrets, options: Sequence[str], deadline_s: float
) -> list[Place]:
    """Places for so many workers in the cluster that Ray finds, or on this machine alone where it finds none.

    Raises:
        UserError: Ray is not installed, or cannot be reached.
    """
    try:
        import ray  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        raise UserError(
            "--cluster ray: Ray is not installed: install it with pip install '.[cluster]', on every machine"
        ) from error
    try:
        ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"--cluster ray: no cluster can be reached ({error}): see `ray status`") from error
    resources: dict[str, float] = {"num_cpus": float(spec.threads or 1)}
    on_gpu = spec.device is None or spec.device.startswith("cuda")
    if on_gpu and not spec.profiled and ray.cluster_resources().get("GPU", 0.0) > 0.0:
        resources["num_gpus"] = 1.0
    return [
        RayPlace(f"worker {number} of {count} by Ray", spec, secrets, options, deadline_s, resources)
        for number in range(1, count + 1)
    ]
