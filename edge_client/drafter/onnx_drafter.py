"""The drafter over an ONNX model of either layout: scores from the model, candidates from the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_client.drafter.candidates import (
    IDENTITY,
    Calibration,
    NoiseRows,
    TopTokens,
    draws_from_all,
    pool_size,
    rank,
    rank_all,
)
from edge_client.drafter.interface import Candidate
from shared.sampling import SamplingParams


class Model(Protocol):
    """What a layout has to do; `TreeModel` and `ChainModel` do it."""

    @property
    def supports_trees(self) -> bool: ...

    def top(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]], count: int
    ) -> TopTokens:
        """The `count` likeliest tokens (or as many as there are) after each of at least one path that fits."""

    def logits(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]]
    ) -> NDArray[np.float32]:
        """The whole scores [paths, V] after each of at least one path that fits."""

    def close(self) -> None: ...


class OnnxDrafter:
    """See `interface.Drafter`. It owns its model: one thread, one call at a time."""

    def __init__(
        self,
        model: Model,
        vocabulary_size: int,
        context_length: int,
        tokenizer_fingerprint: str,
        calibration: Calibration = IDENTITY,
    ) -> None:
        self.vocabulary_size = vocabulary_size
        self.context_length = context_length
        self.supports_trees = model.supports_trees
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self._model = model
        self._calibration = calibration
        self._noise = NoiseRows(vocabulary_size)

    def forward(
        self,
        log: Sequence[int],
        log_length: int,
        paths: Sequence[tuple[int, ...]],
        sampling: SamplingParams,
        width: int,
    ) -> list[list[Candidate]]:
        """See `interface.Drafter.forward`.

        Raises:
            ValueError: `log_length` or `width` is not positive.
            BadLogitsError: the model computed NaN or +inf.
        """
        if log_length < 1 or width < 1:
            raise ValueError(f"log_length and width must be at least 1, not {log_length} and {width}")
        fitting = [i for i, path in enumerate(paths) if log_length + len(path) <= self.context_length]
        answers: list[list[Candidate]] = [[] for _ in paths]
        if fitting:
            within = [paths[i] for i in fitting]
            positions = [log_length + len(path) for path in within]
            if draws_from_all(sampling, self.vocabulary_size):
                scores = self._model.logits(log, log_length, within)
                rows = rank_all(scores, sampling, positions, width, self._noise, self._calibration)
            else:
                top = self._model.top(log, log_length, within, pool_size(sampling, width))
                rows = rank(top, sampling, positions, width, self._calibration)
            for i, row in zip(fitting, rows, strict=True):
                answers[i] = row
        return answers

    def close(self) -> None:
        """See `interface.Drafter.close`."""
        self._model.close()
