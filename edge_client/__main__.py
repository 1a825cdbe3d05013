"""Command line of the edge: `edge-client generate`, `edge-client assist`."""

from __future__ import annotations

from shared import interrupts

with interrupts.Silent():
    import asyncio
    import json
    import os
    import secrets
    import sys
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Final

    import typer
    import uvloop

    from edge_client.assist_command import assist
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
    from edge_client.policies import Belief, DraftOptions, Mode, Pace, Shape, Sizing, Spread
    from edge_client.result import GenerateResult, GenerationFailedError
    from shared.errors import Status, UserError
    from shared.policy.servers import Balance
    from shared.sampling import SamplingParams
    from shared.security import ClientSecurity

if TYPE_CHECKING:
    from edge_client.app import ClientOptions, GenerateOptions, Notice

MENDABLE: Final = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.OUT_OF_RANGE,
        Status.RESOURCE_EXHAUSTED,
        Status.UNAUTHENTICATED,
        Status.PERMISSION_DENIED,
    }
)
"""Ends of a stream that the user can do something about: exit code 2. All others: 1."""
SEED_BITS: Final = 53
"""Of a seed that is drawn here, so that every JSON reader keeps it exactly."""

app = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def cli() -> None:
    """The edge side of Slipstream: drafts here, shows the text that the target in the cloud decides."""


@app.command()
def generate(
    *,
    prompt: Annotated[str | None, typer.Argument(help="Text to continue; - reads standard input.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Read the prompt from a file.")] = None,
    server: Servers = None,
    balance: Annotated[
        Balance,
        typer.Option(
            help="Of several servers: the one with the most room, the one whose cache has prompts that begin like "
            "this, or the first that answers."
        ),
    ] = Balance.LOAD,
    drafter: Annotated[
        str | None,
        typer.Option(
            help="Folder or .onnx file of a drafter, the name of a model below models/, "
            "profiled[:acceptance=0.8,draft_ms=3], or none. [the demo's]"
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest completion.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the likeliest so many tokens; 0 is off.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Keep the likeliest tokens that reach this probability; 1 is off.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Keep tokens at least so likely, relative to the likeliest; 0 is off.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text. [drawn]")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text, which is not shown. May be repeated.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on past the model's own end-of-text tokens.")
    ] = False,
    mode: Annotated[
        Mode,
        typer.Option(
            help="stream: drafts fly ahead, nobody waits. sync: a block up, its verdict down. cloud: no drafts."
        ),
    ] = Mode.STREAM,
    shape: Annotated[
        Shape | None,
        typer.Option("--shape", help="Of the drafts in stream mode. [tree]"),
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="The same as --shape tree.")] = False,
    chain: Annotated[bool, typer.Option("--chain", help="The same as --shape chain.")] = False,
    lookahead: Annotated[int, typer.Option(help="Sync mode: tokens in a block.")] = 4,
    window: Annotated[
        int | None,
        typer.Option(
            help="Drafted tokens in flight at most; the server may advise fewer. [tree 512, chain 64]"
        ),
    ] = None,
    branches: Annotated[int, typer.Option(help="Tree: places that one drafter forward works on.")] = 8,
    spread: Annotated[
        Spread, typer.Option(help="Tree: branches in a forward, as many as pay or always --branches.")
    ] = Spread.MARGINAL,
    pace: Annotated[
        Pace, typer.Option(help="Drafts are sent in time for the next verify step, or after every forward.")
    ] = Pace.COALESCED,
    sizing: Annotated[
        Sizing | None,
        typer.Option(
            help="Tokens in flight, or in a block: as measured, the server's advice, --window, DSD's rule, or learned. "
            "[measured; sync: --lookahead]"
        ),
    ] = None,
    belief: Annotated[
        Belief,
        typer.Option(help="The drafter's estimates are calibrated as its drafts are judged, or believed."),
    ] = Belief.CALIBRATED,
    patience_ms: Annotated[
        float | None,
        typer.Option(
            help="How long the cloud waits for a draft. [as it finds worth while; sync: 2000, or what it grants]"
        ),
    ] = None,
    give_up_after: Annotated[
        float, typer.Option(help="Seconds without progress after which a lost connection is final.")
    ] = 30.0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The target's tokenizer.json or its folder. [the drafter's]")
    ] = None,
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
    share: Annotated[
        Path | None,
        typer.Option(
            help="Write the session's id and secret to this file while it is open, for edge-client assist --share FILE."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end instead of text as it comes.")
    ] = False,
) -> None:
    """Continue PROMPT with the model that the server holds. Text goes to stdout, remarks to stderr."""
    with interruptible():
        text = _prompt(prompt, prompt_file)
        if temperature > 0.0 and seed is None:
            seed = secrets.randbits(SEED_BITS)
            if not as_json:
                remark(f"seed {seed} was drawn: --seed {seed} gives the same text again")
        with interrupts.Silent():  # slow to import; --help does without
            from edge_client.app import ClientOptions, GenerateOptions  # noqa: PLC0415
            from edge_client.options import DEFAULT_SERVER  # noqa: PLC0415
            from edge_client.sources import DEMO_DRAFTER, NO_DRAFTER  # noqa: PLC0415

        try:
            asked = GenerateOptions(
                prompt=text,
                max_new_tokens=max_new_tokens,
                sampling=SamplingParams(temperature, top_k, top_p, min_p, seed if seed is not None else 0),
                stop_strings=tuple(stop or ()),
                stop_tokens=() if ignore_eos else None,
                draft=DraftOptions(
                    mode=mode,
                    shape=_shape(shape, tree=tree, chain=chain),
                    lookahead=lookahead,
                    window=window,
                    branches=branches,
                    spread=spread,
                    pace=pace,
                    sizing=sizing,
                    belief=belief,
                    patience_ms=patience_ms,
                ),
                give_up_after_s=give_up_after,
                share=share,
            )
            default = NO_DRAFTER if mode is Mode.CLOUD else str(DEMO_DRAFTER)
            client = ClientOptions(
                server=",".join(server) if server is not None else DEFAULT_SERVER,
                drafter=drafter if drafter is not None else default,
                tokenizer=tokenizer,
                provider=provider,
                threads=threads,
                draft_floor_ms=draft_floor_ms,
                balance=balance,
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
            raise UserError(f"{error}: see edge-client generate --help") from error
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(_generate(asked, client, show=not as_json))
        if as_json:
            print(json.dumps(result.to_json(), allow_nan=False))
        for note in result.notes:
            remark(note)


app.command()(assist)


async def _generate(asked: GenerateOptions, client: ClientOptions, *, show: bool) -> GenerateResult:
    from edge_client.app import generate as generate_once  # noqa: PLC0415 - see above

    shown = False

    def on_notice(notice: Notice) -> None:
        if shown and sys.stdout.isatty() and sys.stderr.isatty():
            print(file=sys.stderr)  # the text stands on the line that the cursor is on
        remark(str(notice))

    def on_text(piece: str) -> None:
        nonlocal shown
        shown = True
        print(piece, end="", flush=True)

    try:
        return await generate_once(asked, client, on_text=on_text if show else None, on_notice=on_notice)
    finally:
        if shown:
            print(flush=True)


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise UserError("two prompts: give either PROMPT or --prompt-file")
    if file is None and prompt is None:
        raise UserError("no prompt: give PROMPT, --prompt-file FILE, or - to read standard input")
    text = prompt if prompt is not None and prompt != "-" else _read(file)
    if not text:
        raise UserError("the prompt is empty: give some text for the model to continue")
    if any(
        "\ud800" <= character <= "\udfff" for character in text
    ):  # how Python spells bytes that are not UTF-8
        raise UserError("the prompt is not UTF-8: convert it first")
    return text


def _read(file: Path | None) -> str:
    if file is None and sys.stdin is None:
        raise UserError("standard input is closed: give PROMPT or --prompt-file")
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"--prompt-file {file} cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt is not UTF-8 (byte {error.start}): convert it first") from error


def _shape(shape: Shape | None, *, tree: bool, chain: bool) -> Shape | None:
    asked = {shape} - {None} | ({Shape.TREE} if tree else set()) | ({Shape.CHAIN} if chain else set())
    if len(asked) > 1:
        raise UserError("a draft is either a tree or a chain: give one of --tree and --chain")
    return next(iter(asked), None)


def main() -> None:
    """Entry point of `edge-client`: exit code 2 and one line for what the user can mend, 1 for other failures."""
    # gRPC's C core writes its own lines to stderr, beside the one that says the same; read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app()
    except UserError as error:
        remark(str(error))
        sys.exit(2)
    except GenerationFailedError as error:
        remark(str(error))
        sys.exit(2 if error.status in MENDABLE else 1)
    except ModuleNotFoundError as error:
        remark(f"{error.name} is not installed: install the edge's packages with pip install '.[edge]'")
        sys.exit(2)


if __name__ == "__main__":
    main()
