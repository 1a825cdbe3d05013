"""Before a generation begins: is there a server, do the two sides understand each other, is there a prompt?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from edge_client.result import GenerationFailedError
from edge_client.transport import CallFailedError, Transport
from shared.errors import ContractViolation, Status, UserError
from shared.messages import PROTOCOL_VERSION, ModelInfo

MOST_PINGS: Final = 4


def check_address(server: str) -> None:
    """Raises `UserError` unless `server` is HOST:PORT or a target URI."""
    if "://" in server or server.startswith("unix:"):
        return
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UserError(f"--server {server}: expected HOST:PORT, such as 127.0.0.1:50051")


def check_tokens(prompt: str | tuple[int, ...], tokens: Sequence[int], info: ModelInfo) -> None:
    """Raises `UserError` unless there are tokens and the server's model knows all of them."""
    if not prompt:
        raise UserError("the prompt is empty: give some text for the model to continue")
    if not tokens:
        raise UserError("the prompt has no tokens: give some text for the model to continue")
    beyond = next((token for token in tokens if not 0 <= token < info.vocabulary_size), None)
    if beyond is not None:
        raise UserError(
            f"token {beyond} is not in the vocabulary of {info.vocabulary_size} of the server's model {info.name}: "
            "use that model's tokenizer (--tokenizer)"
        )


async def introduce(transport: Transport, within_s: float) -> ModelInfo:
    """The server's model, once it is sure that the two sides understand each other; else `UserError`."""
    try:
        info = await transport.get_model(within_s)
    except CallFailedError as error:
        match error.status:
            case Status.UNAVAILABLE | Status.DEADLINE_EXCEEDED:
                raise UserError(
                    f"no server answers at {transport.server}: start one with `cloud-server serve`, or name another "
                    "with --server HOST:PORT"
                ) from error
            case Status.UNIMPLEMENTED:
                raise UserError(
                    f"the server at {transport.server} is not a Slipstream server: name another with --server HOST:PORT"
                ) from error
            case _:
                raise GenerationFailedError(error.status, f"{transport.server}: {error.message}") from error
    except ContractViolation as violation:
        raise UserError(
            f"the server at {transport.server} speaks another protocol ({violation.message}): use the same version on "
            "both sides"
        ) from violation
    if info.protocol_version != PROTOCOL_VERSION:
        raise UserError(
            f"the server at {transport.server} speaks protocol version {info.protocol_version}, this client "
            f"{PROTOCOL_VERSION}: use the same version on both sides"
        )
    return info


async def shortest_round_trip(transport: Transport, within_s: float, enough: Callable[[], bool]) -> int:
    """Nanoseconds of the fastest of up to `MOST_PINGS` calls on a connection that stands; at least one is made."""
    took: list[int] = []
    while not took or (len(took) < MOST_PINGS and not enough()):
        began = time.monotonic_ns()
        await introduce(transport, within_s)
        took.append(time.monotonic_ns() - began)
    return min(took)
