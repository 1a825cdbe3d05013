"""The hub's usual layout: past in, a longer present out. Chains only; paths are done one after the other.

At a drafter's size plain numpy arrays beat onnxruntime's IO binding when the past grows with each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_client.drafter.candidates import TopTokens, top_tokens
from edge_client.drafter.runtime import Port, ports

CHUNK: Final = 64
"""Tokens in one forward at most: bounds the memory of a prefill."""

Feed = Callable[[int, NDArray[np.int64]], NDArray[Any]]
FEEDS: Final[dict[str, Feed]] = {
    "input_ids": lambda _past, tokens: tokens[None],
    "attention_mask": lambda past, tokens: np.ones((1, past + len(tokens)), np.int64),
    "position_ids": lambda past, tokens: np.arange(past, past + len(tokens), dtype=np.int64)[None],
    "cache_position": lambda past, tokens: np.arange(past, past + len(tokens), dtype=np.int64),
    "use_cache_branch": lambda past, _tokens: np.array([past > 0]),
    "num_logits_to_keep": lambda _past, _tokens: np.array(1, np.int64),
    "logits_to_keep": lambda _past, _tokens: np.array(1, np.int64),
}
"""The inputs that are understood, besides the past: (tokens in the past, new tokens) to what is fed."""

KINDS: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class ChainModel:
    """Computes the likeliest next tokens after a path; keeps keys and values of the last path."""

    supports_trees = False

    def __init__(self, session: ort.InferenceSession) -> None:
        """`session` runs a graph that `load` has checked."""
        self._session = session
        inputs, _ = ports(session)
        self._feeds = {name: FEEDS[name] for name in inputs if name in FEEDS}
        past = {name: port for name, port in inputs.items() if name not in FEEDS}
        self._empty = {name: _empty_past(port) for name, port in past.items()}
        self._past_names = list(past)
        self._outputs = ["logits", *(present_name(name) for name in past)]
        self._past = self._empty
        self._cached: list[int] = []
        """The tokens whose keys and values `_past` holds."""
        self._log: Sequence[int] = ()
        self._agreed = 0
        """How many of `_cached` are known to be the first tokens of `_log`."""

    def close(self) -> None:
        """Lets go of the session and of the past."""
        del self._session, self._past

    def top(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]], count: int
    ) -> TopTokens:
        """The `count` likeliest tokens after each path below `log[:log_length]`."""
        return top_tokens(self.logits(log, log_length, paths), count)

    def logits(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]]
    ) -> NDArray[np.float32]:
        """The whole scores [paths, V]."""
        return np.stack([self._logits(log, log_length, path) for path in paths])

    def _logits(self, log: Sequence[int], log_length: int, path: tuple[int, ...]) -> NDArray[np.float32]:
        common = min(self._common_length(log, log_length, path), log_length + len(path) - 1)
        self._truncate(common)
        missing = [*log[common:log_length], *path[max(0, common - log_length) :]]
        while len(missing) > CHUNK:
            self._extend(missing[:CHUNK])
            del missing[:CHUNK]
        return self._extend(missing)

    def _extend(self, tokens: list[int]) -> NDArray[np.float32]:
        ids = np.array(tokens, np.int64)
        feeds = {name: feed(len(self._cached), ids) for name, feed in self._feeds.items()}
        logits, *present = self._session.run(self._outputs, feeds | self._past)
        self._past = dict(zip(self._past_names, present, strict=True))
        self._cached += tokens
        return np.asarray(logits[0, -1], np.float32)

    def _common_length(self, log: Sequence[int], log_length: int, path: tuple[int, ...]) -> int:
        """How many tokens of log and path are cached: compares only what was not compared before."""
        if log is not self._log:
            self._log, self._agreed = log, 0
        cached, common = self._cached, min(self._agreed, log_length)
        while common < min(len(cached), log_length) and cached[common] == log[common]:
            common += 1
        self._agreed = max(self._agreed, common)
        if common == log_length:
            for drafted, token in zip(cached[log_length:], path, strict=False):
                if drafted != token:
                    break
                common += 1
        return common

    def _truncate(self, length: int) -> None:
        if length < len(self._cached):
            self._past = {
                name: np.ascontiguousarray(array[:, :, :length]) for name, array in self._past.items()
            }
            del self._cached[length:]
            self._agreed = min(self._agreed, length)


def present_name(past_name: str) -> str:
    """The output that continues an input: `past_key_values.0.key` to `present.0.key`."""
    return past_name.replace("past_key_values.", "present.", 1)


def _empty_past(port: Port) -> NDArray[Any]:
    _, heads, _, head_dim = port.shape
    return np.zeros((1, heads or 0, 0, head_dim or 0), KINDS[port.kind])
