"""What a generation brings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_client.stats import Stats
from shared.errors import SlipstreamError, Status
from shared.session.edge import Request


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that count: those that a stop string made superfluous do not."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What came out."""

    text: str
    """Without special tokens and without the stop string."""
    tokens: tuple[int, ...]
    """The completion: to the stop token, the token that completed a stop string, or the length asked for."""
    finish_reason: str
    """stop (a stop token or stop string), length, or context (the model can hold no more)."""
    usage: Usage
    stats: Stats
    seed: int | None
    """With it the same text comes again; None: greedy."""
    notes: tuple[str, ...]
    """What went otherwise than asked for, for people."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, for `json.dumps`."""
        return asdict(self)


class GenerationFailedError(SlipstreamError):
    """The server ended the generation, or stayed away for too long. What was shown before is valid."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(f"{message} ({status.value})")
        self.status = status


class ConnectionLostError(GenerationFailedError):
    """The connection was lost and did not come back in the time that was given."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(status, message)
        self.message = message

    def __str__(self) -> str:
        """Says it in words; a status code adds nothing for people."""
        return self.message


def notes_on(
    request: Request, stats: Stats, *, longest_alone_ns: int, drafter_error: Exception | None
) -> tuple[str, ...]:
    """See `GenerateResult.notes`; `longest_alone_ns` as in `EdgeDriver`."""
    notes: list[str] = []
    if drafter_error is not None:
        first = str(drafter_error).partition("\n")[0]
        notes.append(
            f"the drafter failed ({type(drafter_error).__name__}: {first}): the cloud decoded alone from there on"
        )
    if request.patience_us and longest_alone_ns >= request.patience_us * 1000:
        notes.append(
            f"the drafter was slower than the cloud's patience of {request.patience_us / 1000:g} ms: the cloud decoded "
            f"alone in {stats.self_decoded} of {stats.steps} steps"
        )
    return tuple(notes)
