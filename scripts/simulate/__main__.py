"""The simulator's command line: `python -m scripts.simulate COMMAND`."""

from __future__ import annotations

from shared import interrupts

with interrupts.Silent():
    import sys
    from collections.abc import Sequence

    import typer

    from scripts.simulate.describe import describe
    from scripts.simulate.fuzz import fuzz
    from scripts.simulate.plan import plan
    from scripts.simulate.predict import predict_command
    from scripts.simulate.reproduce import reproduce
    from scripts.simulate.run import check, run
    from scripts.simulate.sweep import sweep
    from shared.errors import UserError

app = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)
app.command()(fuzz)
app.command(name="predict")(predict_command)
app.command()(run)
app.command()(sweep)
app.command()(plan)
app.command()(reproduce)
app.command()(check)
app.command()(describe)


@app.callback()
def cli() -> None:
    """Slipstream's own machines under a virtual clock."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 well, 1 a world failed, 2 and one line for what the user can mend, 130 Ctrl-C."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.exceptions.TyperException as error:
        # A bare command prints its help and has no message of its own.
        print(f"simulate: {error.format_message()}" if error.format_message() else "", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    if code == interrupts.INTERRUPTED:  # what typer makes of Ctrl-C
        print("simulate: interrupted", file=sys.stderr)
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
