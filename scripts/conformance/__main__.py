"""Command line: `python -m scripts.conformance HOST:PORT`, `--edge COMMAND` or `--assist COMMAND`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from scripts.conformance.dial import Access, UnreachableError, dial
from scripts.conformance.edge import ASSIST_RULES, CommandEdge, Recordings
from scripts.conformance.edge import RULES as EDGE_RULES
from scripts.conformance.edge.scripts import ASSIST_SCRIPTS
from scripts.conformance.rules import Outcome, Rule, Subject, Verdict, judge
from scripts.conformance.server import RULES as SERVER_RULES

STYLES: Final = {Outcome.KEPT: "green", Outcome.BROKEN: "bold red", Outcome.SKIPPED: "yellow"}

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    server: Annotated[
        str | None, typer.Argument(metavar="HOST:PORT", help="Check the server that listens there.")
    ] = None,
    edge: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Check an edge: a command that generates once with the server at {server}, at most {tokens} tokens.",
        ),
    ] = None,
    assist: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Check an edge that drafts for the session {session} of {server}, whose secret is in {secret_file}.",
        ),
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule. May be repeated.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The server's authority, PEM: it speaks TLS.")] = None,
    cert: Annotated[Path | None, typer.Option(help="The certificate to present to it, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="The token that the server wants.")] = None,
    watch_token_file: Annotated[
        Path | None, typer.Option(help="One that it has set aside for WatchSessions.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array in the place of a table.")
    ] = False,
) -> int:
    """Check a server, or an edge, against the contract, rule by rule."""
    if sum(one is not None for one in (server, edge, assist)) != 1:
        raise UnreachableError(
            "say what to check: HOST:PORT for a server, --edge COMMAND or --assist COMMAND"
        )
    if edge is not None:
        recordings = Recordings(CommandEdge(edge))
        return _show([judge(one, recordings) for one in _asked(EDGE_RULES, rule)], as_json=as_json)
    if assist is not None:
        recordings = Recordings(CommandEdge(assist), tuple(ASSIST_SCRIPTS))
        return _show([judge(one, recordings) for one in _asked(ASSIST_RULES, rule)], as_json=as_json)
    access = Access(str(server), ca, cert, key, token_file, watch_token_file)
    with dial(access) as looked_at:
        return _show([judge(one, looked_at) for one in _asked(SERVER_RULES, rule)], as_json=as_json)


def _asked(rules: Iterable[Rule[Subject]], names: Sequence[str] | None) -> list[Rule[Subject]]:
    chosen = [rule for rule in rules if not names or rule.name in names]
    unknown = set(names or ()) - {rule.name for rule in chosen}
    if unknown:
        raise UnreachableError(f"no such rule: {', '.join(sorted(unknown))}; docs/conformance.md lists them")
    return chosen


def _show(verdicts: Sequence[Verdict[Subject]], *, as_json: bool) -> int:
    """Exit code: 0 if no rule is broken, else 1."""
    broken = sum(verdict.outcome is Outcome.BROKEN for verdict in verdicts)
    if as_json:
        rows = [
            {
                "rule": one.rule.name,
                "where": one.rule.where,
                "outcome": one.outcome.value,
                "detail": one.detail,
                "seconds": round(one.seconds, 3),
            }
            for one in verdicts
        ]
        print(json.dumps(rows, indent=1))
        return int(broken > 0)
    table = Table("rule", "where", "", "why", box=None, pad_edge=False)
    for one in verdicts:
        style = STYLES[one.outcome]
        table.add_row(one.rule.name, one.rule.where, f"[{style}]{one.outcome.value}[/]", one.detail)
    console = Console()
    console.print(table)
    counts = {outcome: sum(one.outcome is outcome for one in verdicts) for outcome in Outcome}
    console.print(", ".join(f"{count} {outcome.value}" for outcome, count in counts.items()))
    return int(broken > 0)


def run(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 every rule is kept or skipped, 1 one is broken, 2 and one line for what the user can mend."""
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except typer.exceptions.TyperException as error:
        print(f"conformance: {error.format_message()}", file=sys.stderr)
        return 2
    except UnreachableError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
