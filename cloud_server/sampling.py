"""The target's draws: the law of `shared.sampling`, batched over the rows of a verify step, in torch.

Law 3: what comes out for a row depends on that row alone. The result is the reference's
(`shared.sampling.draw`), never an approximation: where a short list of candidates is used, it is used only if
it provably holds the whole support, and widened otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cloud_server.noise import DeviceNoise, HostNoise, NoiseCache, NoiseKey, NoiseSource
from shared.noise import MAX_POSITION
from shared.sampling import BadLogitsError, Draw, SamplingParams

FIRST_CANDIDATES: Final = 64
"""Length of the first short list; a trained model's nucleus seldom is longer."""
CANDIDATE_GROWTH: Final = 8
_CPU_ELEMENTS: Final = 1 << 16
"""Logits worked on at once on a CPU: a float64 buffer of this many stays in the second-level cache."""
_DEVICE_ELEMENTS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class RowSpec:
    """What one row of logits is drawn with."""

    params: SamplingParams
    position: int
    """Index of the token being drawn: the length of the prefix that the logits follow."""

    def __post_init__(self) -> None:
        if not 0 <= self.position <= MAX_POSITION:
            raise ValueError(f"position must lie in [0, 2^63), not {self.position}")


class Sampler:
    """Draws tokens from rows of logits. Not thread-safe: it belongs to the verifier's thread."""

    def __init__(
        self,
        vocabulary_size: int,
        device: torch.device | str = "cpu",
        *,
        noise_cache_bytes: int = 64 << 20,
        noise: NoiseSource | None = None,
    ) -> None:
        """`noise` defaults to the device's own. ValueError: the cache holds no row (8 bytes a token)."""
        self._device = torch.device(device)
        self._vocabulary_size = vocabulary_size
        on_cpu = self._device.type == "cpu"
        self._noise = noise or (HostNoise() if on_cpu else DeviceNoise(self._device))
        self._cache = NoiseCache(self._noise, vocabulary_size, self._device, noise_cache_bytes)
        self._elements = _CPU_ELEMENTS if on_cpu else _DEVICE_ELEMENTS

    @torch.inference_mode()
    def draw(self, logits: Tensor, rows: Sequence[RowSpec]) -> list[Draw]:
        """One draw per row.

        Args:
            logits: [R, V] on the sampler's device, any float type; -inf is a token that cannot be drawn. Not
                modified. rows: R of them.

        Raises:
            BadLogitsError: rows with a NaN, a +inf or no finite value, by number; the others are as good as
                before. ValueError: wrong shape.
        """
        if logits.shape != (len(rows), self._vocabulary_size):
            raise ValueError(f"logits are {tuple(logits.shape)}, not {(len(rows), self._vocabulary_size)}")
        if not rows:
            return []
        good = logits.amax(dim=1).isfinite()  # amax hands on a NaN
        if not bool(good.all()):
            raise BadLogitsError((~good).nonzero().flatten().tolist())
        x = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()

        greedy, plain, filtered = _groups(rows)
        table = torch.empty(len(rows), 3, dtype=torch.float64, device=self._device)
        if greedy:
            _place(table, greedy, _greedy(_take(x, greedy)))
        for part in self._parts(plain):
            _place(table, part, self._plain(_take(x, part), [rows[i] for i in part]))
        for part in self._parts(filtered):
            _place(table, part, self._filtered(_take(x, part), [rows[i] for i in part]))
        return [Draw(int(token), margin, logprob) for token, margin, logprob in table.tolist()]

    def _parts(self, rows: list[int]) -> list[list[int]]:
        size = min(self._cache.capacity, max(1, self._elements // self._vocabulary_size))
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _plain(self, x: Tensor, rows: Sequence[RowSpec]) -> Tensor:
        """Draws from all tokens: [n, 3] of token, margin, logprob."""
        z = _tempered(x, self._column([row.params.temperature for row in rows]))
        scores = self._cache.rows(_keys(rows)).add_(z)
        token, margin = _take_best(scores)
        log_total = z.exp().sum(dim=1, keepdim=True).log_()
        return torch.cat((token.double(), margin, z.gather(1, token) - log_total), dim=1)

    def _filtered(self, x: Tensor, rows: Sequence[RowSpec]) -> Tensor:
        """Draws under top-k, top-p, min-p: [n, 3]. Rows that a short list does not settle get a longer one."""
        filters = _Filters.of(rows, x)
        table = torch.empty(len(rows), 3, dtype=torch.float64, device=x.device)
        pending, width = list(range(len(rows))), min(FIRST_CANDIDATES, self._vocabulary_size)
        while pending:
            here = _take(x, pending)
            support = _support(here, filters.take(pending), width)
            settled = support.settled.tolist()
            done = [i for i, settles in enumerate(settled) if settles]
            if done:
                numbers = [pending[i] for i in done]
                _place(table, numbers, self._draw_from(support.take(done), [rows[i] for i in numbers]))
            pending = [row for row, settles in zip(pending, settled, strict=True) if not settles]
            width = min(width * CANDIDATE_GROWTH, self._vocabulary_size)
        return table

    def _draw_from(self, support: _Support, rows: Sequence[RowSpec]) -> Tensor:
        longest = int(support.count.max())
        ids, z = support.ids[:, :longest], support.z[:, :longest]
        dropped = torch.arange(longest, device=z.device) >= support.count
        z = z.masked_fill(dropped, -math.inf)
        place, margin = _take_best(self._noise.at(_keys(rows), ids).add_(z))
        log_total = z.exp().sum(dim=1, keepdim=True).log_()
        return torch.cat((ids.gather(1, place).double(), margin, z.gather(1, place) - log_total), dim=1)

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)[:, None]


@dataclass(frozen=True, slots=True)
class _Filters:
    """The rows' parameters as columns [n, 1]."""

    temperature: Tensor
    top_k: Tensor
    """The vocabulary size where off."""
    top_p: Tensor
    log_min_p: Tensor
    total: Tensor
    """Sum of exp(z) over the row where top-p acts on the whole of it, else nan."""

    @classmethod
    def of(cls, rows: Sequence[RowSpec], x: Tensor) -> _Filters:
        size = x.shape[1]
        params = [row.params for row in rows]
        columns = torch.tensor(
            [(p.temperature, min(p.top_k or size, size), p.top_p, p.log_min_p) for p in params],
            dtype=torch.float64,
            device=x.device,
        )
        temperature, top_k, top_p, log_min_p = columns.split(1, dim=1)
        total = torch.full_like(temperature, math.nan)
        whole = [i for i, p in enumerate(params) if p.top_p < 1.0 and not 0 < p.top_k < size]
        if whole:
            here = _take(x, whole)
            total[whole] = _tempered(here, temperature[whole]).exp_().sum(dim=1, keepdim=True)
        return cls(temperature, top_k, top_p, log_min_p, total)

    def take(self, rows: list[int]) -> _Filters:
        if len(rows) == len(self.top_k):
            return self
        columns = (self.temperature, self.top_k, self.top_p, self.log_min_p, self.total)
        return _Filters(*(column[rows] for column in columns))


@dataclass(frozen=True, slots=True)
class _Support:
    """Candidates of n rows, descending, ties by lowest id; the support is the first `count` of each."""

    ids: Tensor
    z: Tensor
    count: Tensor
    settled: Tensor
    """[n] bool: the support lies wholly within the candidates and in the right order."""

    def take(self, rows: list[int]) -> _Support:
        if len(rows) == len(self.ids):
            return self
        return _Support(self.ids[rows], self.z[rows], self.count[rows], self.settled[rows])


def _support(x: Tensor, filters: _Filters, width: int) -> _Support:
    """Applies top-k, top-p and min-p to the `width` best tokens of each row.

    Which of several tokens equal to the last candidate made the list is up to the library, but those above it
    are exactly the row's best in exactly the law's order. Each filter keeps a prefix of that order and
    decides on a token by its rank, its value and what stands before it. So a support that ends above the last
    candidate's value is exact.
    """
    if width == x.shape[1]:
        values, ids = x.sort(dim=1, descending=True, stable=True)
    else:
        values, ids = x.topk(width, dim=1, sorted=False)
        ids, order = ids.sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        ids = ids.gather(1, order)
    z = _tempered(values, filters.temperature)
    in_top_k = torch.arange(width, device=x.device) < filters.top_k
    reached = z.exp().mul_(in_top_k).cumsum(dim=1)
    total = torch.where(filters.total.isnan(), reached[:, -1:], filters.total)
    needed = torch.where(filters.top_p < 1.0, filters.top_p * total, math.inf)
    kept = in_top_k & (z >= filters.log_min_p) & (z > -math.inf)
    kept[:, 1:] &= reached[:, :-1] < needed
    count = kept.sum(dim=1, keepdim=True)
    # where top-p acts on a longer top-k than this list, its total is not known yet
    total_known = ~filters.total.isnan() | (filters.top_k <= width) | (filters.top_p == 1.0)
    settled = total_known & (values.gather(1, count - 1) > values[:, -1:])
    if width == x.shape[1]:
        settled.fill_(True)
    return _Support(ids, z, count, settled[:, 0])


def _greedy(x: Tensor) -> Tensor:
    """[n, 3] of token, margin, logprob; the last two in the logits' own precision: they decide nothing."""
    best, token = x.max(dim=1, keepdim=True)  # the first of equals: documented by torch
    others = (x - best).scatter_(1, token, -math.inf)
    margin = -others.amax(dim=1, keepdim=True)
    logprob = -others.exp_().sum(dim=1, keepdim=True).log1p_()
    return torch.cat((token.double(), margin.double(), logprob.double()), dim=1)


def _take_best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Column of the best score and its margin over the second, each [n, 1]. Overwrites the best."""
    best, place = scores.max(dim=1, keepdim=True)
    return place, best - scores.scatter_(1, place, -math.inf).amax(dim=1, keepdim=True)


def _tempered(x: Tensor, temperature: Tensor) -> Tensor:
    """Float64 z of the law, of whole rows or of their best tokens."""
    return x.double().sub(x.amax(dim=1, keepdim=True).double()).div_(temperature)


def _groups(rows: Sequence[RowSpec]) -> tuple[list[int], list[int], list[int]]:
    """Row numbers by the work they need: greedy, the whole distribution, a filtered one."""
    greedy: list[int] = []
    plain: list[int] = []
    filtered: list[int] = []
    for number, row in enumerate(rows):
        group = greedy if row.params.greedy else filtered if row.params.filtered else plain
        group.append(number)
    return greedy, plain, filtered


def _keys(rows: Sequence[RowSpec]) -> list[NoiseKey]:
    return [NoiseKey(row.params.seed, row.position) for row in rows]


def _take(x: Tensor, rows: list[int]) -> Tensor:
    """The rows of x, without a copy where they are a run of them."""
    run = rows[-1] - rows[0] + 1 == len(rows)
    return x[rows[0] : rows[-1] + 1] if run else x[rows]


def _place(table: Tensor, rows: list[int], values: Tensor) -> None:
    table[torch.tensor(rows, device=table.device)] = values
