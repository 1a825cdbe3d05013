"""The page, as Markdown: what was compared, how far apart the two are, and the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scripts.validate.configuration import FLAT_NODES, NODE_MS, STEP_MS
from scripts.validate.records import Results, Row
from scripts.validate.tables import Table, crowded, rows_table, summary_table
from scripts.validate.verdict import Aim, aims, summaries

WORDS: Final = {True: "met", False: "**not met**", None: "not judged"}
INTRODUCTION: Final = f"""\
# The simulator against the live runtime

`shared/sim` drives the product's own machines under a virtual clock. This page says how far what it predicts is
from what the running product does: real server and edge processes, real gRPC, an emulated link, a profiled pair
({STEP_MS:g} ms a step up to {FLAT_NODES} nodes and {NODE_MS:.3g} ms for each beyond; it sleeps instead of computing,
and its texts are a function of the prompt).

    .venv/bin/python -m scripts.validate          # the grid, live, then simulated: about 20 minutes
    .venv/bin/python -m scripts.validate report FILE --page docs/validation.md    # this page, from its rows.jsonl
"""
METHOD: Final = """\
## How

- **Both sides write the same texts.** The same closed-loop clients ask the same prompts for as many tokens,
  beginning equally far apart; every live text is compared with what the target alone writes. One function makes the
  figures of both sides from when each commit came to its edge (`scripts/validate/figures.py`).
- **Figures.** TPOT and TTFT are medians over generations; tokens/s is that of all clients together, from when the
  last of them has its first token until the first has its last. ITL is between tokens at the edge, 0 within a
  commit: where half of the tokens come together its median jumps between 0 and a step, so it is compared in ms, all
  others by their ratio (simulated by measured, less one). Acceptance is counted over tokens for which the cloud held
  a draft.
- **Time is stretched** by the factor in the table: step, drafter, link and a fixed patience last so many times as
  long, live and simulated alike, and figures are divided by it. Many drafters in one process and one core would
  otherwise measure that core.
- **Overheads.** Three constants are measured before the first row, by the probes of the latency benchmark (one
  client, unstretched), and told to every simulation as they are: they are not stretched, and no row has any of its
  own."""
ROWS: Final = """\
## Rows

Measured / simulated (off). Load: the machine's load average before the row. CPU: of one core by the clients'
process, of one by the server, of all by everybody.
"""


def page(results: Results, rows: Sequence[Row], picture: str) -> str:
    """Everything. `picture`: the plot's path, from the page."""
    return "\n".join(
        [
            INTRODUCTION,
            f"![simulated against measured]({picture})",
            "",
            *(_aim(one) for one in aims(rows)),
            "",
            *_markdown(summary_table(summaries(rows))),
            "",
            METHOD,
            *_overheads(results),
            "",
            ROWS,
            *_markdown(rows_table(rows)),
            "",
            *_remarks(results, rows),
            "",
        ]
    )


def _aim(one: Aim) -> str:
    return f"- {one.text}: {one.measured}: {WORDS[one.met]}"


def _overheads(results: Results) -> list[str]:
    told = results.header.overheads
    return [
        f"  Here: {told.step_ms:.2f} ms between two steps of the server beside the step (event loop, thread,",
        f"  granularity of the timer), {told.forward_ms:.2f} ms for a drafter's forward beside the forward,",
        f"  {told.message_ms:.2f} ms for a message each way beside the link (gRPC and the emulator). The summary says",
        "  what the simulator would be off without them.",
    ]


def _remarks(results: Results, rows: Sequence[Row]) -> list[str]:
    header = results.header
    facts = ", ".join(f"{name} {value}" for name, value in header.machine.items())
    most = max(row.measured.neighbours for row in rows)
    lines = [
        f"`{header.command}`, begun {header.began}; network emulated by {header.network}.",
        f"Others used up to {most:.0%} of the cores meanwhile. {facts}.",
    ]
    busy = crowded(rows)
    if busy:
        lines.append(f"More than 70 % of a core by one process, or of all cores: {'; '.join(busy)}.")
    return lines


def _markdown(table: Table) -> list[str]:
    return [
        f"| {' | '.join(table.headings)} |",
        f"|{'---|' * len(table.headings)}",
        *(f"| {' | '.join(cells)} |" for cells in table.rows),
    ]
