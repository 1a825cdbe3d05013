"""The memory of one verifier's keys and values: a pool of pages, and tables that say whose they are.

A page is a run of `PAGE_SLOTS` global slots. It is in use, kept or empty. Kept are the pages of a table that nobody
uses at the moment, for whoever comes with the same beginning. They count as free: a table that grows gets them as it
gets empty ones, and then their former table loses all of its pages and its keeper is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.errors import SlipstreamError, UserError

Slots = npt.NDArray[np.int64]

PAGE_SLOTS: Final = 64
NEWCOMERS_SHARE: Final = 16
"""Empty pages in a row that a new table is to find: what a session may grow to, but no more than this part of all."""
EMPTY: Final = 0
IN_USE: Final = np.iinfo(np.int64).max
"""As a page's stamp. Between the two lies when it was kept, a count."""


class PoolFullError(SlipstreamError):
    """The pool has too few free pages; nothing has been changed."""


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one token's keys and values need, over all layers."""

    layers: int
    heads: int
    """Key/value heads."""
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        return self.layers * self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class PageTable:
    """A session's pages, in the order of its local slots."""

    pages: list[int] = field(default_factory=list)
    contiguous: bool = True
    """Whether the pages follow each other in the pool, so that a view can be taken."""

    @property
    def capacity(self) -> int:
        """Local slots that the pages hold."""
        return len(self.pages) * PAGE_SLOTS

    @property
    def start(self) -> int:
        """Global slot of local slot 0; a contiguous table's slots all follow from it."""
        return self.pages[0] * PAGE_SLOTS if self.pages else 0

    def to_global(self, local: Slots) -> Slots:
        """Local slots to global ones, any shape."""
        if self.contiguous:
            return local + self.start
        return np.asarray(self.pages, dtype=np.int64)[local // PAGE_SLOTS] * PAGE_SLOTS + local % PAGE_SLOTS

    def runs(self, begin: int, end: int, *, split: bool = False) -> Iterator[slice]:
        """Global slots of the local ones from `begin` to `end`, as slices in their order: one if the pages are
        contiguous and `split` does not ask for one per page.
        """
        while begin < end:
            upto = end if self.contiguous and not split else min(end, (begin // PAGE_SLOTS + 1) * PAGE_SLOTS)
            first = self.pages[begin // PAGE_SLOTS] * PAGE_SLOTS + begin % PAGE_SLOTS
            yield slice(first, first + upto - begin)
            begin = upto

    def set_pages(self, pages: list[int]) -> None:
        """From now on these."""
        self.pages = pages
        self.contiguous = not pages or pages == list(range(pages[0], pages[0] + len(pages)))


class KvPool:
    """All sessions' keys and values, addressed by pages."""

    def __init__(self, shape: KvShape, *, limit_bytes: int, reserve_slots: int) -> None:
        """`reserve_slots`: what one session may grow to; new sessions are placed with that much room where there is.

        Raises:
            UserError: `limit_bytes` holds not even one page.
        """
        count = limit_bytes // (shape.token_bytes * PAGE_SLOTS)
        if count < 1:
            raise UserError(
                f"a KV cache of {limit_bytes} bytes holds no page of {PAGE_SLOTS} tokens: "
                f"give it at least {shape.token_bytes * PAGE_SLOTS} bytes"
            )
        self.shape = shape
        self._reserve_pages = -(-reserve_slots // PAGE_SLOTS)
        self._stamps = np.full(count, EMPTY, dtype=np.int64)
        self._clock = EMPTY
        self._owners: dict[int, PageTable] = {}
        """Of kept pages."""
        self._kept: dict[PageTable, Callable[[], None]] = {}
        self._pending: tuple[list[Slots], list[Slots]] = ([], [])
        slots = count * PAGE_SLOTS
        # Not zeroed: on a CPU the system gives memory to pages that are written, so a generous limit costs nothing.
        # Zeros would be needed if masked slots were read as 0 * NaN, so padded gathers point at slots in use instead.
        sizes = [(shape.layers, shape.heads, slots, dim) for dim in (shape.key_dim, shape.value_dim)]
        try:
            self.keys, self.values = (
                torch.empty(size, dtype=shape.dtype, device=shape.device) for size in sizes
            )
        except RuntimeError as error:  # torch has no error of its own for a host that is out of memory
            raise UserError(
                f"there is no memory for a KV cache of {limit_bytes >> 20} MB: give it less (--kv-cache-mb)"
            ) from error

    @property
    def pages(self) -> int:
        return len(self._stamps)

    @property
    def page_bytes(self) -> int:
        return self.shape.token_bytes * PAGE_SLOTS

    @property
    def slots(self) -> int:
        """Tokens that the pool holds at most."""
        return self.pages * PAGE_SLOTS

    @property
    def free_pages(self) -> int:
        """Pages that a table can get: empty ones and kept ones."""
        return int(np.count_nonzero(self._stamps != IN_USE))

    @property
    def kept_pages(self) -> int:
        """Free pages that hold something for later."""
        return len(self._owners)

    @property
    def kept_tables(self) -> int:
        return len(self._kept)

    # ---- whose is what ----

    def grow(self, table: PageTable, slots: int) -> None:
        """Make `table` hold at least `slots` local slots, adjacent to what it has if possible.

        Raises:
            PoolFullError: too few free pages; the table is unchanged.
        """
        missing = -(-slots // PAGE_SLOTS) - len(table.pages)
        if missing <= 0:
            return
        if missing > self.free_pages:
            raise PoolFullError(f"{missing} pages wanted, {self.free_pages} free of {self.pages}")
        pages = self._choose(table, missing)
        for owner in list(dict.fromkeys(self._owners[page] for page in pages if page in self._owners)):
            self._give_up(owner)
        self._stamps[pages] = IN_USE
        table.set_pages(table.pages + pages)

    def shrink(self, table: PageTable, slots: int) -> None:
        """Take the pages back that a table in use does not need for its first `slots` local slots."""
        needed = -(-slots // PAGE_SLOTS)
        if needed < len(table.pages):
            self.apply_moves()  # see `release`
            self._stamps[table.pages[needed:]] = EMPTY
            table.set_pages(table.pages[:needed])

    def release(self, table: PageTable) -> None:
        """Take all of a table's pages back, in use or kept."""
        self.apply_moves()  # a queued move must not write into pages that are somebody else's by then
        if self.keeps(table):
            self.revive(table)
        self._stamps[table.pages] = EMPTY
        table.set_pages([])

    def keep(self, table: PageTable, lost: Callable[[], None]) -> None:
        """Nobody uses a table for now: its pages stay as they are until they are needed. `lost` is called if they are;
        the table has no pages then.
        """
        self.apply_moves()
        self._clock += 1
        self._stamps[table.pages] = self._clock
        self._owners.update(dict.fromkeys(table.pages, table))
        self._kept[table] = lost

    def keeps(self, table: PageTable) -> bool:
        return table in self._kept

    def revive(self, table: PageTable) -> None:
        """A kept table is used again."""
        del self._kept[table]
        for page in table.pages:
            del self._owners[page]
        self._stamps[table.pages] = IN_USE

    def drop_kept(self) -> None:
        """Keep nothing any more; nobody is told."""
        for table in list(self._kept):
            self.release(table)

    def _give_up(self, table: PageTable) -> None:
        lost = self._kept[table]
        self.release(table)
        lost()

    # ---- what they hold ----

    def queue_move(self, source: Slots, target: Slots) -> None:
        """Copy K/V between global slots before the next forward. Moves of one session between two forwards form one
        permutation: all sources are read before any target is written.
        """
        self._pending[0].append(source)
        self._pending[1].append(target)

    def apply_moves(self) -> None:
        """Perform what `queue_move` has collected."""
        if not self._pending[0]:
            return
        ends = np.stack([np.concatenate(self._pending[0]), np.concatenate(self._pending[1])])
        self._pending = ([], [])
        source, target = torch.from_numpy(ends).to(self.shape.device)
        for store in (self.keys, self.values):
            store.index_copy_(2, target, store.index_select(2, source))

    def copy(self, source: PageTable, target: PageTable, begin: int, end: int) -> None:
        """Copy what local slots `begin` to `end` - 1 of one table hold into the same ones of another."""
        self.apply_moves()
        split = not (source.contiguous and target.contiguous)
        runs = zip(source.runs(begin, end, split=split), target.runs(begin, end, split=split), strict=True)
        for one, other in runs:
            for store in (self.keys, self.values):
                store[:, :, other] = store[:, :, one]

    def read(self, table: PageTable, end: int) -> tuple[Tensor, Tensor]:
        """Keys [layers, heads, end, key_dim] and values of local slots 0 to `end` - 1, contiguous, on the CPU."""
        self.apply_moves()
        runs = list(table.runs(0, end))
        keys, values = (
            torch.cat([store[:, :, run] for run in runs], dim=2).cpu() for store in (self.keys, self.values)
        )
        return keys, values

    def write(self, table: PageTable, begin: int, keys: Tensor, values: Tensor) -> None:
        """Put keys [layers, heads, n, key_dim] and values into local slots `begin` to `begin` + n - 1."""
        self.apply_moves()
        at = 0
        for run in table.runs(begin, begin + keys.shape[2]):
            count = run.stop - run.start
            self.keys[:, :, run] = keys[:, :, at : at + count].to(self.shape.device)
            self.values[:, :, run] = values[:, :, at : at + count].to(self.shape.device)
            at += count

    # ---- where a table grows ----

    def _choose(self, table: PageTable, missing: int) -> list[int]:
        """The pages for a table's next slots, of those that are free. Adjacent ones first, though somebody's kept ones
        may be younger there than elsewhere: a scattered table is attended more slowly at every step.
        """
        first: int | None
        if table.pages:
            first = table.pages[-1] + 1
            if first + missing > self.pages or IN_USE in self._stamps[first : first + missing]:
                first = None
        else:
            first = self._room_for_a_session(missing)
        if first is not None:
            return list(range(first, first + missing))
        oldest = np.argsort(self._stamps, kind="stable")[:missing]
        return sorted(int(page) for page in oldest)

    def _room_for_a_session(self, missing: int) -> int | None:
        """First page of a place where a new session can grow: among empty pages if that can be, else where what is
        kept was left longest ago. None: there are not so many free pages in a row.
        """
        wanted = max(missing, min(self._reserve_pages, self.pages // NEWCOMERS_SHARE))
        begin, length = _longest_run(self._stamps == EMPTY)
        if length < wanted:
            youngest = _greatest_of_runs(self._stamps, wanted)
            oldest = int(youngest.argmin())
            if youngest[oldest] != IN_USE:
                return oldest
            begin, length = _longest_run(self._stamps != IN_USE)
            if length < missing:
                return None
        # As far behind the run's left neighbour as that one may grow itself, but no further than the middle.
        grows = begin > 0 and self._stamps[begin - 1] == IN_USE
        gap = min(self._reserve_pages, length // 2) if grows else 0
        return begin + max(0, min(gap, length - missing))


def _longest_run(chosen: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Begin and length of the longest run of True; a length of 0 if there is none."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return 0, 0
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest] - begins[longest])


def _greatest_of_runs(values: Slots, length: int) -> Slots:
    """The maximum of values[i : i + length] for every i for which there are so many."""
    found, span = values, 1
    while span < length:
        more = min(span, length - span)
        found = np.maximum(found[: len(found) - more], found[more:])
        span += more
    return found
