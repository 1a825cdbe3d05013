"""Between what a user writes and tokens: which tokenizer speaks for the server's model, or numbers if it has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from edge_client.profiled import NumberText
from edge_client.text import StopMatch, TextStream, Tokenizer
from shared.errors import UserError
from shared.messages import ModelInfo


class TextSink(Protocol):
    """The text of one generation; see `text.TextStream`."""

    @property
    def match(self) -> StopMatch | None:
        """The stop string that was found."""

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that committed tokens make certain."""

    def finish(self) -> str:
        """What was held back, for no more tokens come."""


class Language(Protocol):
    """Text to tokens and back, for one model."""

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt."""

    def stream(self, stop_strings: Sequence[str]) -> TextSink:
        """The text of one generation."""


class TokenizerLanguage:
    """The language of a `tokenizer.json`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """With the special tokens that the tokenizer puts around a text, as the target's own tools do by default."""
        return self._tokenizer.encode(text, add_special_tokens=True)

    def stream(self, stop_strings: Sequence[str]) -> TextSink:
        """The text of one generation."""
        return TextStream(self._tokenizer, stop_strings)


def language_for(info: ModelInfo, candidates: Sequence[Path]) -> Language:
    """The language of the server's model.

    Args:
        candidates: where a tokenizer may be, the best guess first: files, or folders with one in them or above them.
            The first that exists is taken.

    Raises:
        UserError: there is none although the server's model has one, or it is another one.
    """
    found = next((file for path in candidates if (file := _tokenizer_file(path)) is not None), None)
    if found is None:
        if not info.tokenizer_fingerprint:
            return NumberText()
        raise UserError("no tokenizer is at hand: give the target's tokenizer.json with --tokenizer")
    tokenizer = Tokenizer(found)
    if info.tokenizer_fingerprint and tokenizer.fingerprint != info.tokenizer_fingerprint:
        raise UserError(
            f"{found} is not the tokenizer of the server's model ({tokenizer.fingerprint[:12]}, the server's is "
            f"{info.tokenizer_fingerprint[:12]}): give the target's tokenizer.json with --tokenizer"
        )
    return TokenizerLanguage(tokenizer)


def _tokenizer_file(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".json":
        return path
    folder = path if path.is_dir() else path.parent
    return next((file for at in (folder, folder.parent) if (file := at / "tokenizer.json").is_file()), None)
