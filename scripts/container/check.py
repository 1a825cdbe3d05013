"""What must hold of the images, tried out: each step is one row of the table that is printed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from scripts.container.engine import SAFE, Engine, EngineError
from scripts.container.images import IMAGES, build
from scripts.container.pip_settings import PipSettings
from scripts.container.refusals import Caller, call, certificate_callers, token_callers
from scripts.container.world import (
    GENERATE_S,
    PROMPT,
    STOP_S,
    TOKENS,
    World,
    edge_command,
    generate,
    world,
)
from scripts.processes import ROOT, child, python
from scripts.wan.process import wan_process
from scripts.wan.profiles import PROFILES

PROFILE: Final = "lte"
HEALTHY_S: Final = 90.0
DRAINED_TOKENS: Final = 160
STEP_FLOOR_MS: Final = 40
"""Of the server that is stopped: the generation that runs meanwhile takes some seconds."""
SERVE: Final = (
    "serve",
    "--listen=0.0.0.0:50051",
    "--tls-cert=/run/secrets/tls.crt",
    "--tls-key=/run/secrets/tls.key",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was tried."""

    what: str
    held: bool
    detail: str
    seconds: float


def check(engine: Engine, pip: PipSettings) -> Iterator[Row]:
    """Build, run, and try everything; rows come as they are known.

    Raises:
        EngineError: the engine failed at something that is no promise of ours.
        ChildError: a process outside the containers did.
    """
    for name, image in IMAGES.items():
        built = build(engine, image, pip)
        yield Row(
            f"the {name} image builds", held=True, detail=f"{built.size / 1e6:.0f} MB", seconds=built.seconds
        )
    begun = time.monotonic()
    alone = _reference()
    length = len(alone["tokens"])
    yield Row(
        "reference", length == DRAINED_TOKENS, f"{length} tokens by the target alone, outside", _since(begun)
    )
    with world(engine) as made:
        yield _refuses_to_start(made)
        yield from _default_command(made, alone)
        yield from _client_certificates_and_drain(made, alone)


def _reference() -> dict[str, Any]:
    """What the target alone writes, on this machine without any container."""
    command = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--device", "cpu")
    with child("server outside", command) as server:
        return generate(server.address, "--mode", "cloud", tokens=DRAINED_TOKENS)


def _refuses_to_start(made: World) -> Row:
    begun = time.monotonic()
    code, _, words = made.engine.attempt("run", "--rm", *SAFE, IMAGES["server"].tag)
    told = next((line for line in words.splitlines() if line.startswith("cloud-server:")), "nothing said")
    return Row(
        "without secrets the server does not start", code == 2 and "--tls-cert" in told, told, _since(begun)
    )


def _default_command(made: World, alone: dict[str, Any]) -> Iterator[Row]:
    """The image as it is, with secrets in place."""
    begun = time.monotonic()
    with made.container("server", "server") as container:
        made.engine.wait_healthy(container, HEALTHY_S)
        yield Row(
            "its health check passes", held=True, detail="TLS and token by default", seconds=_since(begun)
        )
        begun, address = time.monotonic(), made.address(container)
        with wan_process(address, PROFILES[PROFILE]) as wan:
            answer = generate(wan.address, *made.credentials())
        same = answer["tokens"] == alone["tokens"][:TOKENS]
        detail = (
            f"{TOKENS} tokens over {PROFILE}, {'the same' if same else 'NOT the same'} as the target alone"
        )
        yield Row("an edge outside generates", same, detail, _since(begun))
        token = (made.ours / "token").read_text(encoding="ascii").strip()
        for caller in token_callers(made.ours, token):
            yield _called(address, caller)
        yield _inside(made, alone)


def _inside(made: World, alone: dict[str, Any]) -> Row:
    """Emulator and edge from their images too, beside the server's."""
    begun = time.monotonic()
    proxy = ("proxy", "--target=server:50051", "--listen=0.0.0.0:50052", f"--profile={PROFILE}")
    secrets = [f"--volume={made.ours / file}:/run/secrets/{file}:ro" for file in ("ca.crt", "token")]
    security = ("--tls-ca=/run/secrets/ca.crt", "--token-file=/run/secrets/token")
    length = (f"--max-new-tokens={TOKENS}", "--ignore-eos")
    with made.container("wan", "wan", *proxy, secrets=()):
        place = ("--rm", f"--network={made.network}", *SAFE, *secrets, IMAGES["edge"].tag)
        text = made.engine.ask("run", *place, "generate", PROMPT, "--server=wan:50052", *security, *length)
    same = text.removesuffix("\n") != "" and alone["text"].startswith(text.removesuffix("\n"))
    return Row(
        "the edge image generates through the wan image", same, f"{len(text)} characters", _since(begun)
    )


def _client_certificates_and_drain(made: World, alone: dict[str, Any]) -> Iterator[Row]:
    """A server that wants client certificates, stopped while it is at work."""
    security = ("--token-file=/run/secrets/token", "--tls-client-ca=/run/secrets/ca.crt")
    slow = (f"--step-floor-ms={STEP_FLOOR_MS}", "--drain-s=30")
    with made.container("server", "server", *SERVE, *security, *slow) as container:
        address = made.address(container)
        token = (made.ours / "token").read_text(encoding="ascii").strip()
        ours, *others = certificate_callers(made.ours, made.theirs, token)
        end = (
            time.monotonic() + HEALTHY_S
        )  # its health check presents no certificate: it is asked from outside
        while call(address, ours) is not ours.expected and time.monotonic() < end:
            time.sleep(0.2)
        for caller in (ours, *others):
            yield _called(address, caller)
        yield _drains(made, container, address, alone)


def _drains(made: World, container: str, address: str, alone: dict[str, Any]) -> Row:
    command = edge_command(
        address, "--mode", "cloud", *made.credentials(client=made.ours), tokens=DRAINED_TOKENS
    )
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as edge:
        if edge.stdout is None:
            raise AssertionError("it was asked for")
        text = edge.stdout.read(1)  # the generation runs
        begun = time.monotonic()
        stop = made.engine.begin("stop", "-t", str(STOP_S), container)
        text += edge.stdout.read()
        code, finished = edge.wait(GENERATE_S), _since(begun)
        stop.wait(STOP_S + 10)
    ended = made.engine.ask("inspect", "--format", "{{.State.ExitCode}}", container).strip()
    same = text.removesuffix("\n") == alone["text"]
    detail = (
        f"edge: exit code {code}, {'the whole text' if same else 'NOT the text'}, {finished:.1f} s after the stop; "
        f"server: exit code {ended}"
    )
    held = same and code == 0 and ended == "0" and finished > 1.0
    return Row(f"{made.engine.name} stop lets a generation finish", held, detail, _since(begun))


def _called(address: str, caller: Caller) -> Row:
    begun = time.monotonic()
    status = call(address, caller)
    expected = caller.expected
    held, what = status is expected, "is let in" if expected.name == "OK" else "is refused"
    detail = status.name if held else f"{status.name} instead of {expected.name}"
    return Row(f"a call {caller.who} {what}", held, detail, _since(begun))


def _since(begun: float) -> float:
    return time.monotonic() - begun


__all__ = ["EngineError", "Row", "check"]
