"""A recording of a real drafter along its target's own text: where it was right, and how sure it was.

For every token that the target wrote: the rank that the drafter gave this token among its candidates, and the cost of
each candidate. Tokens themselves are not recorded. Written by `scripts.record_trace`, replayed by `shared.acceptance`.

The file is a compressed .npz without pickled objects:

    format   0-d text, "slipstream-drafter-trace 1"
    source   0-d text, a JSON object with the fields of `TraceSource`
    lengths  uint32 [texts], tokens of each text, each at least 1
    ranks    uint8 [sum of lengths], the rank of the target's token from 0; the number of candidates: none of them
    costs    uint16 [sum of lengths, candidates], in 1/1024 nat, capped
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.errors import UserError

FORMAT: Final = "slipstream-drafter-trace 1"
PER_NAT: Final = 1024
MOST_CANDIDATES: Final = 16
_GREATEST: Final = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class Guess:
    """What the drafter said after one prefix of the target's text."""

    rank: int | None
    """Of the target's token among the candidates, from 0; None: it was none of them."""
    costs: tuple[float, ...]
    """Of the candidates, likeliest first: -ln of the estimate that the target draws them (nats); at least one."""


@dataclass(frozen=True, slots=True)
class TraceSource:
    """Where a recording comes from; for its reader only."""

    target: str
    drafter: str
    prompts: str
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DrafterTrace:
    """A recording: at least one text, each of at least one token, all with the same number of candidates.

    Raises:
        ValueError: it is not that.
    """

    texts: tuple[tuple[Guess, ...], ...]
    source: TraceSource

    def __post_init__(self) -> None:
        if not self.texts or not all(self.texts):
            raise ValueError("a recording has at least one text, and each text at least one token")
        kept = {len(guess.costs) for text in self.texts for guess in text}
        if len(kept) > 1 or not 1 <= self.candidates <= MOST_CANDIDATES:
            raise ValueError(f"each token has the same number of candidates, from 1 to {MOST_CANDIDATES}")

    @property
    def candidates(self) -> int:
        """Candidates per token."""
        return len(self.texts[0][0].costs)

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(map(len, self.texts))

    def right(self, rank: int) -> float:
        """Share of tokens that the drafter gave this rank."""
        return sum(guess.rank == rank for text in self.texts for guess in text) / self.tokens

    @property
    def acceptance(self) -> float:
        """Share of tokens for which the drafter's first candidate was right."""
        return self.right(0)


def write_trace(trace: DrafterTrace, path: Path) -> None:
    """Write the file; equal traces make equal files."""
    none = trace.candidates
    guesses = [guess for text in trace.texts for guess in text]
    costs = np.array([guess.costs for guess in guesses], dtype=np.float64)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            format=np.array(FORMAT),
            source=np.array(json.dumps(dataclasses.asdict(trace.source))),
            lengths=np.array([len(text) for text in trace.texts], dtype=np.uint32),
            ranks=np.array([none if one.rank is None else one.rank for one in guesses], dtype=np.uint8),
            costs=np.clip(np.rint(costs * PER_NAT), 0, _GREATEST).astype(np.uint16),
        )


def read_trace(path: Path) -> DrafterTrace:
    """Read a file that `write_trace` wrote.

    Raises:
        UserError: there is none, it is something else, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, npt.NDArray[Any]] = dict(file)
    except OSError as error:
        raise UserError(f"trace {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"trace {path} is not a file of scripts.record_trace") from error
    found = str(arrays.get("format", "nothing"))
    if found != FORMAT:
        raise UserError(f"trace {path} says it is {found!r}, not {FORMAT!r}: record it again")
    try:
        return _trace(arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"trace {path} is damaged ({error}): record it again") from error


def _trace(arrays: dict[str, npt.NDArray[Any]]) -> DrafterTrace:
    lengths, ranks = (arrays[name].astype(np.int64) for name in ("lengths", "ranks"))
    costs = arrays["costs"].astype(np.float64) / PER_NAT
    if costs.ndim != 2 or ranks.shape != costs.shape[:1] or lengths.sum() != len(ranks):
        raise ValueError(f"{lengths.sum()} tokens, {len(ranks)} ranks, costs {costs.shape}")
    none = costs.shape[1]
    if ranks.max(initial=0) > none:
        raise ValueError("a rank beyond the candidates")
    guesses = [
        Guess(None if rank == none else rank, tuple(row))
        for rank, row in zip(ranks.tolist(), costs.tolist(), strict=True)
    ]
    ends = np.cumsum(lengths).tolist()
    texts = (tuple(guesses[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True))
    return DrafterTrace(tuple(texts), TraceSource(**json.loads(str(arrays["source"]))))
