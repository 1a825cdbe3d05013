"""The product's own layout: a shared in-place key/value buffer and an attention bias, so a tree is one forward.

The graph's format is described beside its exporter. Slots are handed out by `SlotTree`; this file owns the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_client.drafter.candidates import TopTokens, top_tokens
from edge_client.drafter.runtime import ports
from edge_client.drafter.slot_tree import HIDDEN, SlotTree

FIRST_CAPACITY: Final = 512
"""Slots of the first buffer; it doubles when it is full."""
CHUNK: Final = 64
"""Log tokens in one forward at most: bounds the memory that logits and bias take during a long prefill."""
DEAD_SLACK: Final = 64
"""Slots beside the trunk that are tolerated before the dead ones among them are squeezed out."""
BIAS_VIEWS: Final = 4096
"""Bound views of the attention bias that are kept at most."""

TOP: Final = ("topk_ids", "topk_values")
LOGITS: Final = ("logits",)


class TreeModel:
    """Computes the likeliest next tokens at nodes of a tree; keeps what it has computed in slots."""

    supports_trees = True

    def __init__(
        self, session: ort.InferenceSession, max_slots: int, first_capacity: int = FIRST_CAPACITY
    ) -> None:
        """`session` runs the format's graph; `max_slots` is how many keys it can attend to."""
        self._session = session
        self._binding = session.io_binding()
        self._max_slots = max_slots
        self._capacity = min(first_capacity, max_slots)
        self._tree = SlotTree(self._capacity)
        self._compact_beyond = DEAD_SLACK
        inputs, outputs = ports(session)
        self._past = {
            name: np.zeros(tuple(size or self._capacity for size in port.shape), np.float32)
            for name, port in inputs.items()
            if name.startswith("past_key_values.")
        }
        self._top_names = TOP if all(name in outputs for name in TOP) else LOGITS
        self._widths = {name: int(outputs[name].shape[-1] or 0) for name in {*self._top_names, *LOGITS}}
        self._names: tuple[str, ...] = self._top_names
        """The outputs that are fetched; the graph computes no other."""
        self._buffers = {name: _Buffer(np.float32) for name in ("topk_values", "logits")}
        self._bias = np.zeros(0, np.float32)
        self._bias_views: dict[tuple[int, int], tuple[NDArray[np.float32], ort.OrtValue]] = {}
        self._buffers |= {name: _Buffer(np.int64) for name in ("input_ids", "position_ids", "topk_ids")}
        self._outputs: dict[str, NDArray[Any]] = {}
        self._seqlens_k = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)
        self._bind("seqlens_k", self._seqlens_k)
        self._bind("total_sequence_length", self._total)
        self._bind_past()
        self._rows = 0
        self._take_rows(1)

    def close(self) -> None:
        """Lets go of the session and of all memory bound to it."""
        del self._binding, self._session, self._past, self._buffers, self._outputs, self._bias_views

    # ---- the hot loop -------------------------------------------------------------------------------------------

    def top(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]], count: int
    ) -> TopTokens:
        """The `count` likeliest tokens after each path below `log[:log_length]` (or as many as the graph gives).

        Every path must fit: log_length + its length is at most `max_slots`. The answer is good until the next call.
        """
        self._fetch(self._top_names)
        if self._names == TOP:
            ids, values = self._compute(log, log_length, paths)
            return ids[:, :count], values[:, :count]
        return top_tokens(self._compute(log, log_length, paths)[0], count)

    def logits(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]]
    ) -> NDArray[np.float32]:
        """The whole scores [paths, V], under the same conditions as `top`."""
        self._fetch(LOGITS)
        return self._compute(log, log_length, paths)[0]

    def _compute(
        self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]]
    ) -> list[NDArray[Any]]:
        """The fetched outputs, a row per path."""
        tree = self._tree
        tree.follow(log, log_length)
        if not self._make_room(log_length, paths):
            if len(paths) > 1:
                middle = len(paths) // 2
                halves = [
                    list(map(np.copy, self._compute(log, log_length, half)))
                    for half in (paths[:middle], paths[middle:])
                ]
                return [np.concatenate(both) for both in zip(*halves, strict=True)]
            tree.cut(log_length - 1)  # so that even the end is computed in its own slot
            tree.drop_branches()
        # Into an empty buffer goes a plain prompt first: there the operator counts positions on by itself (rule 5 of
        # the format).
        while log_length - len(tree.trunk) > CHUNK or (tree.used == 0 and any(paths)):
            first, until = tree.used, min(len(tree.trunk) + CHUNK, log_length)
            self._place(log, until, ())
            self._run(first, [])
            tree.follow(log, until)
        first = tree.used
        ends = self._place(log, log_length, paths)
        # A node that was computed before and is asked again goes through the model once more, in a slot that nobody
        # remembers: its keys are there already, only its logits are gone.
        again = list(dict.fromkeys(slot for slot in ends if slot < first))
        self._run(first, again)
        behind = tree.used - first
        rows = [slot - first if slot >= first else behind + again.index(slot) for slot in ends]
        # A slice is a view, a list is a copy: the common case is one row.
        picked: slice | list[int] = slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows
        return [self._outputs[name][0, picked] for name in self._names]

    def _place(self, log: Sequence[int], log_length: int, paths: Sequence[tuple[int, ...]]) -> list[int]:
        """Gives slots to the log tokens and path tokens that have none; returns the slot of each path's end."""
        tree = self._tree
        missing = range(len(tree.trunk), log_length)
        end = tree.place(tree.end, [log[index] for index in missing])
        ends = [tree.place(end, path) for path in paths]
        return [slot for slot in ends if slot is not None]  # a log has at least one token, so there is none

    def _run(self, first: int, again: list[int]) -> None:
        """One forward over the slots from `first` on, then over scratch slots for those to compute `again`."""
        tree = self._tree
        slots = [*range(first, tree.used), *again]
        rows, total = len(slots), first + len(slots)
        self._take_rows(rows)
        self._ids[0] = [tree.tokens[slot] for slot in slots]
        self._positions[0] = [tree.positions[slot] for slot in slots]
        bias = self._take_bias(rows, total)
        for row, slot in enumerate(slots):
            parent = tree.parents[slot]
            if parent is not None and parent >= first:
                bias[row] = bias[parent - first]
            else:
                bias[row] = tree.trunk_bias[:total]
                for ancestor in tree.branch(parent):
                    bias[row, ancestor] = 0.0
            if slot < first:
                bias[row, slot] = HIDDEN
            bias[row, first + row] = 0.0
        self._seqlens_k[0] = total - 1
        self._total[()] = total
        try:
            self._session.run_with_iobinding(self._binding)
        except BaseException:
            self._tree = SlotTree(self._capacity)  # its slots hold nothing that was computed
            raise

    # ---- memory -------------------------------------------------------------------------------------------------

    def _make_room(self, log_length: int, paths: Sequence[tuple[int, ...]]) -> bool:
        """Whether there are free slots for all that a call can need, after doing what can be done for it."""
        tree = self._tree
        beside = tree.used - len(tree.trunk)
        wanted = log_length - len(tree.trunk) + sum(map(len, paths)) + len(paths)
        if beside > self._compact_beyond or tree.used + wanted > self._capacity:
            self._compact()
        if tree.used + wanted > self._capacity:
            self._grow(tree.used + wanted)
        if tree.used + wanted > self._capacity:
            tree.drop_branches()  # alive, but cheaper to compute again than to do without
        return tree.used + wanted <= self._capacity

    def _compact(self) -> None:
        first, sources = self._tree.compact()
        for past in self._past.values():
            past[:, :, first : first + len(sources)] = past[:, :, sources]
        self._compact_beyond = 2 * (self._tree.used - len(self._tree.trunk)) + DEAD_SLACK

    def _grow(self, needed: int) -> None:
        capacity = min(self._max_slots, max(2 * self._capacity, needed))
        if capacity == self._capacity:
            return
        for name, past in self._past.items():
            shape = (*past.shape[:2], capacity, past.shape[3])
            self._past[name] = np.zeros(shape, np.float32)
            self._past[name][:, :, : self._tree.used] = past[:, :, : self._tree.used]
        self._capacity = capacity
        self._tree.grow(capacity)
        self._bind_past()

    def _take_rows(self, rows: int) -> None:
        """Binds arrays for that many tokens: inputs to be filled in, outputs to be read."""
        if rows == self._rows:
            return
        self._rows = rows
        self._ids = self._buffers["input_ids"].view(1, rows)
        self._positions = self._buffers["position_ids"].view(1, rows)
        self._bind("input_ids", self._ids)
        self._bind("position_ids", self._positions)
        for name in self._names:
            self._outputs[name] = array = self._buffers[name].view(1, rows, self._widths[name])
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _fetch(self, names: tuple[str, ...]) -> None:
        """Binds these outputs in place of those that were fetched so far."""
        if names != self._names:
            self._names = names
            self._binding.clear_binding_outputs()
            self._bind_past()
            self._rows = 0
            self._take_rows(1)

    def _take_bias(self, rows: int, total: int) -> NDArray[np.float32]:
        """The bound attention bias, [rows, total], to be filled in.

        Its shape changes with every step, and to make a view and its value for onnxruntime costs more than to look
        them up: they come back with every rollback.
        """
        if rows * total > len(self._bias) or len(self._bias_views) > BIAS_VIEWS:
            self._bias = np.zeros(max(rows * self._capacity, len(self._bias)), np.float32)
            self._bias_views.clear()
        if (rows, total) not in self._bias_views:
            view = self._bias[: rows * total].reshape(1, 1, rows, total)
            self._bias_views[rows, total] = (view[0, 0], ort.OrtValue.ortvalue_from_numpy(view))
        bias, value = self._bias_views[rows, total]
        self._binding.bind_ortvalue_input("attention_bias", value)
        return bias

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_past(self) -> None:
        """Past in and present out are the same memory: a forward writes its keys where they belong."""
        for name, array in self._past.items():
            present = name.replace("past_key_values.", "present.", 1)
            self._bind(name, array)
            self._binding.bind_output(present, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class _Buffer:
    """Memory that is handed out in varying shapes and grows when it has to."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._flat: NDArray[Any] = np.zeros(0, kind)

    def view(self, *shape: int) -> NDArray[Any]:
        size = math.prod(shape)
        if size > len(self._flat):
            self._flat = np.zeros(max(size, 2 * len(self._flat)), self._flat.dtype)
        return self._flat[:size].reshape(shape)
