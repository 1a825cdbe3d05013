"""Before a generation begins: are the files there, is there a server, do the two sides understand each other?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from edge_client.addresses import listed
from edge_client.handshake import diagnose
from edge_client.options import ClientOptions
from edge_client.result import GenerationFailedError
from edge_client.security import ClientSecurity
from edge_client.sources import drafter_path, is_profiled
from edge_client.transport import CallFailedError, Transport
from shared.acceptance import parse_pair
from shared.errors import ContractViolation, Status, UserError
from shared.messages import PROTOCOL_VERSION, ModelInfo

MOST_PINGS: Final = 4
LEAST_DIAGNOSIS_S: Final = 1.0
"""What is left to find out why nobody answers, when waiting for the answer took all the time there was."""


class NoAnswerError(UserError):
    """Nobody answers at a server's address, and nothing says why."""

    def __init__(self, servers: Sequence[str]) -> None:
        super().__init__(
            f"no server answers at {listed(servers, 'or')}: start one with `cloud-server serve`, or name another "
            "with --server HOST:PORT"
        )
        self.servers = tuple(servers)


def check_files(options: ClientOptions, *, drafter_given: bool) -> None:
    """What costs nothing to look at before a server is asked.

    Raises:
        UserError: the drafter or the tokenizer is not there, or a profile is none.
    """
    if is_profiled(options.drafter):
        parse_pair(options.drafter)
    path = drafter_path(options.drafter)
    if path is not None and not drafter_given and not path.exists():
        raise UserError(f"drafter {path} does not exist: give a folder with drafter.json, or an ONNX model")
    if options.tokenizer is not None and not options.tokenizer.exists():
        raise UserError(f"--tokenizer {options.tokenizer} does not exist: give the target's tokenizer.json")


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


async def introduce(transport: Transport, security: ClientSecurity, within_s: float) -> ModelInfo:
    """The server's model, once it is sure that the two sides understand each other; else `UserError`."""
    began = time.monotonic()
    try:
        info = await transport.get_model(within_s)
    except CallFailedError as error:
        match error.status:
            case Status.UNAVAILABLE | Status.DEADLINE_EXCEEDED:
                left = max(within_s - (time.monotonic() - began), LEAST_DIAGNOSIS_S)
                found = await asyncio.to_thread(diagnose, transport.server, security, transport.secrets, left)
                raise (NoAnswerError([transport.server]) if found is None else UserError(found)) from error
            case Status.UNAUTHENTICATED:
                raise UserError(_turned_away(transport.server, security)) from error
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


def _turned_away(server: str, security: ClientSecurity) -> str:
    if security.token_file is None:
        return f"the server at {server} wants a token: give one with --token-file FILE"
    return (
        f"the server at {server} does not know the token of --token-file {security.token_file}: ask whoever runs it "
        "for one"
    )


async def shortest_round_trip(
    transport: Transport, security: ClientSecurity, within_s: float, enough: Callable[[], bool]
) -> int:
    """Nanoseconds of the fastest of up to `MOST_PINGS` calls on a connection that stands; at least one is made."""
    took: list[int] = []
    while not took or (len(took) < MOST_PINGS and not enough()):
        began = time.monotonic_ns()
        await introduce(transport, security, within_s)
        took.append(time.monotonic_ns() - began)
    return min(took)
