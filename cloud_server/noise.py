"""The noise of `shared.noise` as tensors: on the host through numpy, on an accelerator in torch, and its
cache.

Both sources give the same integers. The host has one of its own because numpy is two to three times faster
than torch at 64-bit products and at float64 logarithms on a CPU, measured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from shared.noise import MULTIPLIERS, NOISE_BITS, ROUNDS, WEYL, WORD, Int64, UInt64, gumbel, gumbel_rows

_LOW: Final = np.uint64(WORD)
_HALF: Final = np.uint64(32)


class NoiseKey(NamedTuple):
    """What a row of noise is a function of."""

    seed: int
    position: int


class NoiseSource(Protocol):
    """Gumbel noise of n keys, float64 on one device; see `shared.noise` for the map."""

    def rows(self, keys: Sequence[NoiseKey], vocabulary_size: int) -> Tensor:
        """The noise of every token: [n, vocabulary_size]."""

    def at(self, keys: Sequence[NoiseKey], token_ids: Tensor) -> Tensor:
        """The noise of the tokens int64 [n, m] (each row under its own key), or [m] (all rows): [n, m]."""


class HostNoise:
    """numpy's, for tensors that live on the CPU."""

    def rows(self, keys: Sequence[NoiseKey], vocabulary_size: int) -> Tensor:
        return torch.from_numpy(gumbel_rows(*_columns(keys), vocabulary_size))

    def at(self, keys: Sequence[NoiseKey], token_ids: Tensor) -> Tensor:
        seeds, positions = _columns(keys)
        return torch.from_numpy(gumbel(seeds[:, None], positions[:, None], token_ids.numpy()))


class DeviceNoise:
    """torch's, for any device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def rows(self, keys: Sequence[NoiseKey], vocabulary_size: int) -> Tensor:
        blocks = torch.arange((vocabulary_size + 1) // 2, device=self._device)
        pairs = torch.stack(self._philox(keys, blocks), dim=-1)
        return _gumbel(pairs.flatten(1)[:, :vocabulary_size])

    def at(self, keys: Sequence[NoiseKey], token_ids: Tensor) -> Tensor:
        return _gumbel(self.words_at(keys, token_ids))

    def words_at(self, keys: Sequence[NoiseKey], token_ids: Tensor) -> Tensor:
        """The 64-bit words behind `at`, as int64; their top 52 bits are k."""
        even, odd = self._philox(keys, token_ids >> 1)
        return torch.where((token_ids & 1).bool(), odd, even)

    def _philox(self, keys: Sequence[NoiseKey], blocks: Tensor) -> tuple[Tensor, Tensor]:
        """As in `shared.noise`, on packed words.

        int64 products wrap as uint64 ones do; a right shift drags the sign in, hence the masks.
        """
        seeds, positions = _columns(keys)
        place = positions.astype(np.uint64)
        key_0, key_1 = self._column(seeds & _LOW), self._column(seeds >> _HALF)
        a, b = blocks << 32, self._column((place & _LOW) << _HALF | place >> _HALF)
        for r in range(ROUNDS):
            from_a = (a >> 32 & WORD) * MULTIPLIERS[0]
            from_b = (b >> 32 & WORD) * MULTIPLIERS[1]
            a = (a ^ key_0 + r * WEYL[0]) << 32 ^ from_b
            b = (b ^ key_1 + r * WEYL[1]) << 32 ^ from_a
        return a, b

    def _column(self, words: UInt64) -> Tensor:
        return torch.from_numpy(words.view(np.int64)[:, None]).to(self._device)


class NoiseCache:
    """Rows of noise by key, least recently used out first, in one tensor of fixed size.

    Siblings, replicas and re-verification share positions, so that a row is often wanted again soon.
    """

    def __init__(
        self, source: NoiseSource, vocabulary_size: int, device: torch.device, max_bytes: int
    ) -> None:
        row_bytes = vocabulary_size * torch.float64.itemsize
        if max_bytes < row_bytes:
            raise ValueError(f"a noise cache needs at least one row, {row_bytes} bytes, not {max_bytes}")
        self._source = source
        self._pool = torch.empty(max_bytes // row_bytes, vocabulary_size, dtype=torch.float64, device=device)
        self._slots: OrderedDict[NoiseKey, int] = OrderedDict()

    @property
    def capacity(self) -> int:
        """Rows that fit, and the most keys that one call may name."""
        return len(self._pool)

    def rows(self, keys: Sequence[NoiseKey]) -> Tensor:
        """float64 [len(keys), V], a copy that the caller may overwrite."""
        if len(keys) > self.capacity:
            raise ValueError(f"{len(keys)} rows of noise asked of a cache of {self.capacity}")
        wanted = dict.fromkeys(keys)
        missing = [key for key in wanted if key not in self._slots]
        for key in wanted:
            if key in self._slots:
                self._slots.move_to_end(key)  # before any eviction: the oldest is then none of these
        if not missing:
            return self._gather(keys)
        fresh = self._source.rows(missing, self._pool.shape[1])
        self._pool[torch.tensor([self._claim(key) for key in missing], device=self._pool.device)] = fresh
        return fresh if len(missing) == len(keys) else self._gather(keys)

    def _gather(self, keys: Sequence[NoiseKey]) -> Tensor:
        slots = torch.tensor([self._slots[key] for key in keys], device=self._pool.device)
        return self._pool.index_select(0, slots)

    def _claim(self, key: NoiseKey) -> int:
        full = len(self._slots) == self.capacity
        slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
        self._slots[key] = slot
        return slot


def _columns(keys: Sequence[NoiseKey]) -> tuple[UInt64, Int64]:
    seeds = np.array([key.seed for key in keys], dtype=np.uint64)
    return seeds, np.array([key.position for key in keys], dtype=np.int64)


def _gumbel(words: Tensor) -> Tensor:
    bits = words >> (64 - NOISE_BITS) & (1 << NOISE_BITS) - 1
    u = bits.double().add_(0.5).mul_(2.0**-NOISE_BITS)
    return u.log_().neg_().log_().neg_()
