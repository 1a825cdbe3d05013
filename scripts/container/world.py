"""What the check runs: containers on a network of their own, secrets of two authorities, edges outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.container.engine import SAFE, Engine, EngineError
from scripts.container.images import IMAGES
from scripts.processes import ROOT, ChildError, python

PROMPT: Final = "def main():"
TOKENS: Final = 96
GENERATE_S: Final = 120.0
STOP_S: Final = 40
"""What the engine gives a container that is asked to stop; longer than any --drain-s here."""
SECRETS: Final = ("ca.crt", "tls.crt", "tls.key", "token")
"""What a container is shown of a folder of trial secrets."""


@dataclass(frozen=True, slots=True)
class World:
    """An engine with the images, and secrets of ours and of strangers."""

    engine: Engine
    network: str
    """Its name, which also begins the containers' names."""
    ours: Path
    theirs: Path

    @contextlib.contextmanager
    def container(
        self, alias: str, image: str, *arguments: str, secrets: Sequence[str] = SECRETS
    ) -> Iterator[str]:
        """Run an image in the background until the block is left; its name.

        Args:
            alias: its host name in the network.
            secrets: files of ours that it sees in /run/secrets.
        """
        name = f"{self.network}-{alias}"
        mounts = [f"--volume={self.ours / file}:/run/secrets/{file}:ro" for file in secrets]
        place = (f"--network={self.network}", f"--network-alias={alias}", "--publish=127.0.0.1::50051")
        options = (f"--name={name}", *place, *SAFE, *mounts)
        try:
            self.engine.ask("run", "--detach", *options, IMAGES[image].tag, *arguments)
            yield name
        finally:  # also one that was made and could not start; one that stays is told of when its network goes
            self.engine.attempt("rm", "--force", "--volumes", name)

    def address(self, container: str) -> str:
        """HOST:PORT of its published port, outside."""
        return self.engine.ask("port", container, "50051/tcp").split()[0]

    def credentials(self, *, client: Path | None = None) -> list[str]:
        """Options of the edge that show it the server's authority and our token."""
        options = ["--tls-ca", str(self.ours / "ca.crt"), "--token-file", str(self.ours / "token")]
        if client is not None:
            options += ["--tls-cert", str(client / "client.crt"), "--tls-key", str(client / "client.key")]
        return options


@contextlib.contextmanager
def world(engine: Engine) -> Iterator[World]:
    """A network and secrets, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="slipstream-check-") as folder:
        made = World(
            engine, f"slipstream-check-{os.getpid()}", Path(folder) / "ours", Path(folder) / "theirs"
        )
        for secrets in (made.ours, made.theirs):
            make_secrets(secrets)
        engine.ask("network", "create", made.network)
        try:
            yield made
        finally:
            engine.ask("network", "rm", made.network)


def make_secrets(folder: Path) -> None:
    """An authority, certificates and a token, by the script that a user would run.

    Raises:
        EngineError: it failed.
    """
    script = ROOT / "scripts" / "container" / "trial_secrets.sh"
    done = subprocess.run(["sh", script, folder], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise EngineError(f"{script.name} failed: {done.stderr}")


def generate(server: str, *options: str, tokens: int = TOKENS) -> dict[str, Any]:
    """What an edge on this machine, outside any container, prints for `PROMPT`.

    Raises:
        ChildError: it failed.
    """
    command = edge_command(server, "--json", *options, tokens=tokens)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=GENERATE_S, check=False)
    if done.returncode != 0:
        raise ChildError(f"edge-client ended with exit code {done.returncode}:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def edge_command(server: str, *options: str, tokens: int = TOKENS) -> list[str]:
    """The command line of an edge on this machine."""
    length = ("--max-new-tokens", str(tokens), "--ignore-eos")
    return python("-m", "edge_client", "generate", PROMPT, "--server", server, *length, *options)
