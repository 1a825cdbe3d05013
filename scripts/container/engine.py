"""A container engine by its command line: docker's, or podman's, which understands the same words."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.errors import SlipstreamError, UserError

LAST_WORDS: Final = 15
"""Lines of a failed command's output that its error repeats."""
PROBE_S: Final = 20.0
"""How long an engine may take to say whether it works."""
SAFE: Final = (
    *("--read-only", "--tmpfs", "/tmp"),  # noqa: S108 - in the container, where nobody else is
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
"""How every container here runs: it writes nowhere but to /tmp, and can gain no rights."""


class EngineError(SlipstreamError):
    """A command of the engine failed; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that works."""

    name: str
    """docker or podman."""
    command: tuple[str, ...]
    """What its arguments follow."""
    build_options: tuple[str, ...] = ()

    def ask(self, *arguments: str, within_s: float = 60.0) -> str:
        """What a command prints.

        Raises:
            EngineError: it failed, or took longer.
        """
        code, output, words = self.attempt(*arguments, within_s=within_s)
        if code != 0:
            raise EngineError(f"{self.name} {arguments[0]} failed with exit code {code}:\n{words}")
        return output

    def attempt(self, *arguments: str, within_s: float = 60.0) -> tuple[int, str, str]:
        """Exit code, standard output and the last lines of standard error.

        Raises:
            EngineError: it took longer.
        """
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=within_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"{self.name} {arguments[0]} took longer than {within_s:g} s") from None
        return done.returncode, done.stdout, "\n".join(done.stderr.splitlines()[-LAST_WORDS:])

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that the caller waits for; what it says is not shown."""
        return subprocess.Popen(
            [*self.command, *arguments],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def healthy(self, container: str) -> bool:
        """Whether the image's own health check passes."""
        if self.name == "docker":
            return self.ask("inspect", "--format", "{{.State.Health.Status}}", container).strip() == "healthy"
        # podman leaves its schedule to systemd, which a container host need not have: this runs the check now.
        return self.attempt("healthcheck", "run", container)[0] == 0

    def wait_healthy(self, container: str, within_s: float) -> float:
        """Seconds until the health check passed, from now.

        Raises:
            EngineError: it did not, or the container ended.
        """
        begun = time.monotonic()
        while not self.healthy(container):
            running = self.ask("inspect", "--format", "{{.State.Running}}", container).strip() == "true"
            if not running or time.monotonic() - begun > within_s:
                _, out, err = self.attempt("logs", container)
                state = "is not healthy" if running else "ended"
                raise EngineError(f"the container {container} {state}:\n{out}{err}")
            time.sleep(0.2)
        return time.monotonic() - begun

    def size(self, image: str) -> int:
        """Bytes of an image, unpacked, its base included."""
        return int(self.ask("image", "inspect", "--format", "{{.Size}}", image))


def find_engine(candidates: Sequence[str] = ("docker", "podman")) -> Engine:
    """The first engine that works: a docker client whose daemon does not answer does not.

    Raises:
        UserError: there is none.
    """
    found = []
    for name in candidates:
        if shutil.which(name) is None:
            continue
        # BuildKit, which older dockers do not use by themselves, is what knows about secrets.
        command = ("env", "DOCKER_BUILDKIT=1", "docker") if name == "docker" else (name,)
        engine = Engine(name, command, () if name == "docker" else ("--format", "docker"))
        try:
            code, _, words = engine.attempt("info", "--format", _VERSION[name], within_s=PROBE_S)
        except EngineError as error:
            code, words = 1, str(error)
        if code == 0:
            return engine
        found.append(f"{name} is here but does not work ({words.splitlines()[-1] if words else 'no reason'})")
    raise UserError(f"no container engine: {'; '.join(found) or 'install docker or podman'}")


_VERSION: Final = {"docker": "{{.ServerVersion}}", "podman": "{{.Version.Version}}"}
