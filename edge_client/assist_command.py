"""`edge-client assist`: draft for sessions that belong to other edges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from edge_client.command_line import (
    AllowInsecure,
    Servers,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    TlsServerName,
    TokenFile,
    interruptible,
    remark,
)
from edge_client.policies import DraftOptions, Shape
from shared import interrupts
from shared.errors import UserError
from shared.messages import SessionNotice
from shared.security import ClientSecurity

if TYPE_CHECKING:
    from edge_client.assist import Assistant, AssistOptions, Helped
    from edge_client.options import ClientOptions


def assist(
    *,
    server: Servers = None,
    share: Annotated[
        Path | None, typer.Option(help="Draft for the session that `generate --share FILE` has written here.")
    ] = None,
    session_id: Annotated[
        str | None, typer.Option(help="Draft for this session; with --secret-file.")
    ] = None,
    secret_file: Annotated[Path | None, typer.Option(help="A file with its secret.")] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Draft for every session of the server, until Ctrl-C; it must let the token of --token-file do so.",
        ),
    ] = False,
    drafter: Annotated[
        str | None,
        typer.Option(
            help="Folder or .onnx file of a drafter, the name of a model below models/, or "
            "profiled[:acceptance=0.8,draft_ms=3]. [the demo's]"
        ),
    ] = None,
    shape: Annotated[Shape | None, typer.Option("--shape", help="Of the drafts. [tree]")] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Drafted tokens in flight at most, in one session. [tree 512, chain 64]"),
    ] = None,
    branches: Annotated[int, typer.Option(help="Tree: places that one drafter forward works on.")] = 8,
    give_up_after: Annotated[
        float, typer.Option(help="Seconds without progress after which a lost connection is final.")
    ] = 30.0,
    provider: Annotated[str, typer.Option(help="onnxruntime execution provider of the drafter.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of the drafter.")] = 1,
    draft_floor_ms: Annotated[
        float,
        typer.Option(help="Emulation: a drafter forward lasts at least this long, as on a slower device."),
    ] = 0.0,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
    allow_insecure_beyond_loopback: AllowInsecure = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each session that is over.")
    ] = False,
) -> None:
    """Draft for the session of another edge, or for all of a server: they get faster, and their text stays the same."""
    with interruptible():
        session = _session(share, session_id, secret_file, every=every)
        with interrupts.Silent():  # slow to import; --help does without
            from edge_client.assist import AssistOptions  # noqa: PLC0415
            from edge_client.options import DEFAULT_SERVER, ClientOptions  # noqa: PLC0415
            from edge_client.sources import DEMO_DRAFTER  # noqa: PLC0415

        try:
            asked = AssistOptions(DraftOptions(shape=shape, window=window, branches=branches), give_up_after)
            client = ClientOptions(
                server=",".join(server) if server is not None else DEFAULT_SERVER,
                drafter=drafter if drafter is not None else str(DEMO_DRAFTER),
                provider=provider,
                threads=threads,
                draft_floor_ms=draft_floor_ms,
                security=ClientSecurity(
                    tls=tls,
                    tls_ca=tls_ca,
                    tls_cert=tls_cert,
                    tls_key=tls_key,
                    tls_server_name=tls_server_name,
                    token_file=token_file,
                    insecure_beyond_loopback=allow_insecure_beyond_loopback,
                ),
            )
        except ValueError as error:
            raise UserError(f"{error}: see edge-client assist --help") from error
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_assist(client, asked, session, as_json=as_json))


async def _assist(
    client: ClientOptions, asked: AssistOptions, session: SessionNotice | None, *, as_json: bool
) -> None:
    from edge_client.assist import Assistant  # noqa: PLC0415 - see above

    def on_helped(helped: Helped) -> None:
        if as_json:
            typer.echo(json.dumps(helped.to_json(), allow_nan=False))
        else:
            remark(str(helped))

    async with Assistant(client, asked) as assistant:
        await _help(assistant, session, on_helped)


async def _help(
    assistant: Assistant, session: SessionNotice | None, on_helped: Callable[[Helped], None]
) -> None:
    if session is None:
        remark("watching: every session of the server gets drafts from here")
        await assistant.help_all(on_helped)
        return
    remark(f"attaching to session {session.session_id}")
    helped = await assistant.help_one(session)
    on_helped(helped)
    helped.check()


def _session(
    share: Path | None, session_id: str | None, secret_file: Path | None, *, every: bool
) -> SessionNotice | None:
    """Which session to draft for; None: all of them."""
    from edge_client.share import read_secret, read_share  # noqa: PLC0415 - see above

    named = session_id is not None or secret_file is not None
    if every + (share is not None) + named != 1:
        raise UserError(
            "say which session to draft for: --share FILE, or --session-id ID with --secret-file FILE, or --all"
        )
    if share is not None:
        return read_share(share)
    if every:
        return None
    if session_id is None or secret_file is None:
        raise UserError("--session-id and --secret-file go together: give both")
    secret, warning = read_secret(secret_file)
    if warning is not None:
        remark(warning)
    return SessionNotice(session_id, secret)
