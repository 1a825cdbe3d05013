"""What goes between the benchmark and the process in which its clients live: a JSON line each way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_client.options import ClientOptions
from edge_client.policies import DraftOptions
from scripts.bench_capacity.accounting import Window, Written

BEGUN: Final = "begun"
"""Said when the window begins, after the warm-up."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients are to do, as it is run: nothing here is unstretched."""

    client: ClientOptions
    draft: DraftOptions
    clients: int
    tokens: int
    vocabulary_size: int
    first_prompt: int
    """Number of the first client's first prompt."""
    warm_up_s: float
    window_s: float
    spread_s: float
    """Clients begin spread over this."""
    generations: int | None = None
    """Of each client; the last one's end is the window's. None: they go on until the window is over."""


@dataclass(frozen=True, slots=True)
class Served:
    """What came of it."""

    window: Window
    generations: int
    """Ended in all, warm-up included."""
    texts: tuple[tuple[int, tuple[int, ...]], ...]
    """(number of the prompt, tokens) of every generation, whole or as far as it came."""
    cpu_s: float
    """Of the clients' process, in the window."""
    written: tuple[Written, ...] = ()
    """Every generation, if a number of them was asked for."""
