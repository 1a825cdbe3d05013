"""What a generation is asked for with. Frozen values; a value out of its range raises `ValueError`, naming both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_client.policies import DraftOptions
from edge_client.security import ClientSecurity
from edge_client.sources import DEMO_DRAFTER
from shared.policy.servers import Balance
from shared.sampling import SamplingParams

DEFAULT_SERVER: Final = "127.0.0.1:50051"
MOST_NEW_TOKENS: Final = 1 << 30
"""Lengths are 32-bit numbers on the wire."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """A server, or several of them, and a drafter."""

    server: str = DEFAULT_SERVER
    """HOST:PORT, or a target URI that gRPC dials; several with commas between. A name with several addresses is several
    servers."""
    drafter: str = str(DEMO_DRAFTER)
    """A path, a name below `models/`, `profiled:acceptance=0.8,...` (`shared.profiled.Profile`), or `none`."""
    tokenizer: Path | None = None
    """A tokenizer.json or its folder; None: the drafter's, else the demo's."""
    provider: str = "cpu"
    """onnxruntime's execution provider, by its short name."""
    threads: int = 1
    """Of the drafter."""
    draft_floor_ms: float = 0.0
    """Emulation: every drafter forward lasts at least this long."""
    answer_within_s: float = 5.0
    """How long the server may take to introduce itself."""
    security: ClientSecurity = ClientSecurity()  # noqa: RUF009 - a frozen value
    balance: Balance = Balance.LOAD
    """How generations are spread over several servers."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if not 0.0 <= self.draft_floor_ms < float("inf"):
            raise ValueError(f"draft_floor_ms must be at least 0, not {self.draft_floor_ms}")
        if not self.answer_within_s > 0.0:
            raise ValueError(f"answer_within_s must be above 0, not {self.answer_within_s}")


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """One generation."""

    prompt: str | tuple[int, ...]
    """Text, or token ids."""
    max_new_tokens: int = 256
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009 - a frozen value
    stop_strings: tuple[str, ...] = ()
    """The text ends before the first of these, and the generation with the token that completes it."""
    stop_tokens: tuple[int, ...] | None = None
    """A token that ends the generation and is part of it; None: the model's own."""
    draft: DraftOptions = DraftOptions()  # noqa: RUF009 - a frozen value
    give_up_after_s: float = 30.0
    """A lost stream is opened again until nothing was committed for so long."""
    share: Path | None = None
    """A file for the session's id and secret as long as it is open, by which a second device may draft for it."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= MOST_NEW_TOKENS:
            raise ValueError(f"max_new_tokens must lie in 1..{MOST_NEW_TOKENS}, not {self.max_new_tokens}")
        if "" in self.stop_strings:
            raise ValueError("a stop string must not be empty")
