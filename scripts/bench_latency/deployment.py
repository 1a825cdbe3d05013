"""Where things are in this invocation: folders, addresses, credentials. Never written into a result."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from edge_client.options import ClientOptions
from scripts.bench_latency.plan import Arm, Pair, Place
from scripts.processes import ROOT, python
from scripts.wan.link import Enforcer
from shared.security import ClientSecurity, is_loopback
from shared.session.front import CloudPolicies

DEMO = ROOT / "models" / "demo"


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a plan is carried out here."""

    target: Path = DEMO / "target"
    """Of a pair of real models."""
    drafter: Path = DEMO / "drafter"
    server: str | None = None
    """HOST:PORT of a server that is already deployed; None: servers are started here."""
    emulate: bool = True
    """Whether an emulated link lies in between."""
    enforcer: Enforcer | None = None
    """None: the best that this machine allows."""
    client: ClientOptions = field(default_factory=ClientOptions)
    """The edge's: what is said here holds for every edge, such as how it trusts the server."""
    threads: int = 1
    """Of a verify step of real models. The drafter wants a core too."""

    def server_command(self, pair: Pair, arm: Arm) -> list[str]:
        """The command line of an arm's server."""
        model = str(self.target) if pair.profile is None else pair.source
        command = [
            "-m",
            "cloud_server",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--model",
            model,
            "--drain-s",
            "1",
        ]
        if pair.profile is None:
            command += ["--device", "cpu", "--dtype", "float32", "--threads", str(self.threads)]
            command += ["--no-prefix-reuse"]  # all arms write after the same prompts, and each pays for them
        if pair.step_floor_ms:
            command += ["--step-floor-ms", str(pair.step_floor_ms)]
        return python(*command, *switches(arm.cloud), *arm.server)

    def client_options(self, pair: Pair, arm: Arm, address: str) -> ClientOptions:
        """The options of an arm's edge, which dials `address`."""
        drafter = str(self.drafter) if pair.profile is None else pair.source
        return replace(
            self.client,
            server=address,
            drafter=drafter,
            draft_floor_ms=pair.draft_floor_ms,
            security=self._security(arm),
        )

    def _security(self, arm: Arm) -> ClientSecurity:
        """What the edge dials is the emulator's end on this machine; what is beyond it decides how it trusts."""
        if self.server is None or arm.place is not Place.EDGE:
            return ClientSecurity(insecure_beyond_loopback=True)  # started here: no other machine is near
        asked = self.client.security
        if not self.emulate:
            return asked
        host = self.server.rpartition(":")[0].strip("[]")
        if asked.encrypted:
            return replace(asked, tls_server_name=asked.tls_server_name or host)
        return replace(asked, insecure_beyond_loopback=asked.insecure_beyond_loopback or is_loopback(host))


def switches(cloud: CloudPolicies) -> list[str]:
    """The server's options for what `cloud` switches on and off: each of these fields has one of its name."""
    values = {one.name.replace("_", "-"): getattr(cloud, one.name) for one in fields(cloud)}
    return [f"--{'' if value else 'no-'}{name}" for name, value in values.items() if isinstance(value, bool)]
