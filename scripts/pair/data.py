"""Token streams and the windows drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from scripts.pair.corpus import SourceFile
from scripts.pair.shape import END_OF_TEXT_ID

Tokens = npt.NDArray[np.uint16]


def encode_files(tokenizer: Tokenizer, files: Sequence[SourceFile]) -> Tokens:
    """One stream: each file's tokens after an end-of-text token."""
    pieces: list[Tokens] = []
    separator = np.array([END_OF_TEXT_ID], dtype=np.uint16)
    for encoding in tokenizer.encode_batch([file.text for file in files]):
        pieces += [separator, np.array(encoding.ids, dtype=np.uint16)]
    return np.concatenate(pieces)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Streams with the share of windows that each provides."""

    streams: tuple[Tokens, ...]
    shares: tuple[float, ...]

    def batch(self, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """int64 [rows, length]: windows of `length` tokens at random places."""
        chosen = rng.choice(len(self.streams), size=rows, p=np.array(self.shares) / sum(self.shares))
        windows = []
        for index in chosen:
            stream = self.streams[index]
            start = int(rng.integers(0, len(stream) - length + 1))
            windows.append(stream[start : start + length].astype(np.int64))
        return torch.from_numpy(np.stack(windows))


def consecutive_windows(stream: Tokens, length: int) -> torch.Tensor:
    """int64 [windows, length]: the stream cut up without overlap, the last incomplete window left out."""
    count = len(stream) // length
    return torch.from_numpy(stream[: count * length].reshape(count, length).astype(np.int64))


def training_mixture(tokenizer: Tokenizer, files: Sequence[SourceFile], library_share: float) -> Mixture:
    """The library proper with `library_share` of the windows, its test suite (where installed) with the rest."""
    library = encode_files(tokenizer, [file for file in files if not file.is_test])
    tests = [file for file in files if file.is_test]
    if not tests:
        return Mixture((library,), (1.0,))
    return Mixture((library, encode_files(tokenizer, tests)), (library_share, 1.0 - library_share))
