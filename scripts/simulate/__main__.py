"""The simulator's command line: `python -m scripts.simulate COMMAND`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from scripts.simulate.fuzz import fuzz
from scripts.simulate.predict import predict_command
from shared.errors import UserError

app = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)
app.command()(fuzz)
app.command(name="predict")(predict_command)


@app.callback()
def cli() -> None:
    """Slipstream's own machines under a virtual clock."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 well, 1 a world failed, 2 and one line for what the user can mend."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.exceptions.TyperException as error:
        # A bare command prints its help and has no message of its own.
        print(f"simulate: {error.format_message()}" if error.format_message() else "", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
