"""Between text and tokens: the tokenizer, text that streams without ever being taken back, stop strings."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import tokenizers

from shared.errors import UserError
from shared.fingerprint import tokenizer_fingerprint

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """A `tokenizer.json`, with the same ids for the same text as the target's."""

    def __init__(self, path: str | Path) -> None:
        """Reads the file, or the one in the folder `path`.

        Raises:
            UserError: there is none, or it cannot be read as a tokenizer.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"{file} does not exist: copy the target's tokenizer.json there")
        try:
            self._inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises the base class itself
            raise UserError(
                f"{file} is not a tokenizer that tokenizers {tokenizers.__version__} reads"
            ) from error
        self._inner.no_truncation()
        self._inner.no_padding()
        added = self._inner.get_added_tokens_decoder()
        self.fingerprint = tokenizer_fingerprint(file)
        self.vocabulary_size = self._inner.get_vocab_size(with_added_tokens=True)
        self.special_tokens: Mapping[str, int] = MappingProxyType(
            {token.content: number for number, token in added.items() if token.special}
        )
        """Ids of the tokens that mark and are no text, by their names."""
        self._special_ids = frozenset(self.special_tokens.values())
        self._decoder_kinds = frozenset(_decoder_kinds(json.loads(self._inner.to_str())["decoder"]))

    def encode(self, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
        """Token ids of `text`. Names of special tokens within it become those tokens.

        Args:
            add_special_tokens: also what the tokenizer puts around a text, such as a token for its beginning.
        """
        return tuple(self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, without special tokens; ids that the tokenizer does not know are no text."""
        text: str = self._inner.decode(list(tokens), skip_special_tokens=True)
        return text

    def detokenizer(self) -> Detokenizer:
        """A fresh stream of text."""
        return _ByteDetokenizer(self) if self._decoder_kinds == {"ByteLevel"} else _WindowDetokenizer(self)

    def piece(self, token: int) -> str | None:
        """The vocabulary's entry for a token; None if the token is no text (special, or not in the vocabulary)."""
        return None if token in self._special_ids else self._inner.id_to_token(token)


def _decoder_kinds(decoder: Mapping[str, Any] | None) -> Iterable[str]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _decoder_kinds(part)
    else:
        yield decoder["type"]


class Detokenizer(Protocol):
    """Turns a stream of tokens into a stream of text: all of it together is the decoding of all tokens together."""

    def feed(self, token: int) -> str:
        """The text that is certain now and was not before: no later token changes it."""

    def finish(self) -> str:
        """What was held back, for no further token comes."""


class _ByteDetokenizer:
    """For byte-level vocabularies: a token is bytes, and only an unfinished character is held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._utf8.decode(self._bytes(token))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)

    def _bytes(self, token: int) -> bytes:
        piece = self._tokenizer.piece(token) or ""
        # An added token that is text may hold characters that stand for no byte: it is then what it says.
        known = [BYTE_OF.get(character) for character in piece]
        whole = [byte for byte in known if byte is not None]
        return bytes(whole) if len(whole) == len(known) else piece.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's way to write bytes as visible characters: those that are visible in Latin-1 as themselves, the others
    from U+0100 on, in their order.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF: Final = _byte_alphabet()


class _WindowDetokenizer:
    """For all other decoders: what a token adds to the text of the tokens shortly before it.

    A decoder may look at neighbours (spaces at the start, a character out of several byte tokens), so the text of a
    token is the difference of two decodings that begin at the same earlier token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._told = 0
        """How many tokens of the window have been told; they are there as neighbours."""

    def feed(self, token: int) -> str:
        piece = self._tokenizer.piece(token)
        if piece is None:
            return ""  # its neighbours are each other's: it must not part a run of byte tokens
        self._window.append(token)
        # A run of byte tokens is decoded together: one that is no character spoils those before it.
        if _is_byte(piece):
            return ""
        text = self._untold()
        if text.endswith(REPLACEMENT):
            return ""
        if text:
            del self._window[: self._told]
            self._told = len(self._window)
        return text

    def finish(self) -> str:
        text = self._untold()
        self._told = len(self._window)
        return text

    def _untold(self) -> str:
        before = self._tokenizer.decode(self._window[: self._told])
        return self._tokenizer.decode(self._window)[len(before) :]


def _is_byte(piece: str) -> bool:
    return len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">")


@dataclass(frozen=True, slots=True)
class StopMatch:
    """The stop string that ended a text."""

    string: str
    token_index: int
    """Index, in the stream, of the token with which the match became certain: usage counts through this one."""


class StopStrings:
    """Finds the stop string that is completed first (of several at the same place the longest), across all borders.

    Of a stop string nothing is ever shown: text that may become one is held back until that is decided.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """`strings` may be empty.

        Raises:
            ValueError: one of them is the empty string.
        """
        if "" in strings:
            raise ValueError("a stop string has at least one character")
        self._strings = tuple(strings)
        self._held = ""
        self.match: StopMatch | None = None

    def feed(self, text: str, token_index: int) -> str:
        """The text that may be shown now; after a match there is none."""
        if self.match is not None:
            return ""
        text = self._held + text
        found = [(at + len(string), at, string) for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            _, at, string = min(found)
            self.match, self._held = StopMatch(string, token_index), ""
            return text[:at]
        shown = len(text) - max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back, for no further text comes."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` are the beginning of `string`, at most all of it but one."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)


class TextStream:
    """A session's text: tokens in, text out, until a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()) -> None:
        self._detokenizer = tokenizer.detokenizer()
        self._stops = StopStrings(stop_strings)
        self._tokens = 0

    @property
    def match(self) -> StopMatch | None:
        """The stop string that was found; tokens fed after it are ignored."""
        return self._stops.match

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that committed tokens make certain."""
        pieces = []
        for token in tokens:
            if self.match is not None:
                break
            pieces.append(self._stops.feed(self._detokenizer.feed(token), self._tokens))
            self._tokens += 1
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back, for the log is closed. It may still complete a stop string."""
        if self.match is not None:
            return ""
        return self._stops.feed(self._detokenizer.finish(), max(0, self._tokens - 1)) + self._stops.finish()
