"""Python's collector of cycles, asked less often while a world runs: the machines make none that outlive an event."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = (50_000, 20, 100)
"""New objects before a look at the youngest, and looks at one generation before the next older one is looked at."""


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """As long as this lasts, and as before afterwards."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
