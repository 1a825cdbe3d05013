"""The verifier: establishes facts with a real target, one ragged forward for all sessions of a step.

Law 6: a step names wanted paths. What is cached is found, what is not is computed, and when memory runs short the
least recently used session's cache goes; it is computed anew from its log when that session is next asked about.
What another session has computed of the same log is taken from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from cloud_server.kv_cache import SessionCache, Share
from cloud_server.kv_counters import KvCounters
from cloud_server.kv_pool import PAGE_SLOTS, KvPool, PoolFullError
from cloud_server.kv_sessions import SessionCaches
from cloud_server.kv_transfer import export_kv, import_kv, kind_of
from cloud_server.model import LoadedModel
from cloud_server.ragged import ForwardBuilder
from cloud_server.sampling import RowSpec, Sampler
from cloud_server.target import Target
from shared.errors import SlipstreamError, UserError
from shared.messages import Limits, ModelInfo
from shared.step import Fact, ItemOutcome, Step, StepItem, StepOutcome

log = logging.getLogger(__name__)

DEFAULT_KV_BYTES: Final = 1 << 30
"""On a CPU. An accelerator's memory is for this: see `default_kv_bytes`."""
ACTIVATION_SHARE: Final = 0.15
"""Of an accelerator's free memory, kept for activations, gathered keys and values, and logits."""
LEAST_ACTIVATION_BYTES: Final = 1 << 30
CHUNK_TOKENS: Final = 512
"""Trunk tokens of one session in one forward; a longer gap in the cache is filled by several forwards."""
FORWARD_ROWS: Final = 2048
"""Rows of one forward: bounds the memory of its activations."""


DRAFT_SLOTS: Final = Limits().max_live_nodes
"""Room for draft tokens beside the longest log."""


class SessionTooLongError(SlipstreamError):
    """One session's tokens do not fit into the KV cache, even alone: a log beyond `info.context_length`, or more nodes
    than any session may have alive.
    """

    def __init__(self, session: int, message: str) -> None:
        super().__init__(message)
        self.session = session


class OutOfDeviceMemoryError(SlipstreamError):
    """The accelerator's memory did not suffice for a step."""


@dataclass(slots=True)
class _Wave:
    """Shares that are computed by one forward."""

    shares: list[tuple[SessionCache, Share]] = field(default_factory=list)
    sessions: set[int] = field(default_factory=set)
    rows: int = 0


@dataclass(slots=True)
class _Answer:
    facts: dict[int, Fact] = field(default_factory=dict)
    computed: int = 0


class Verifier:
    """A `Worker` with a target of its own. Not thread-safe: it lives in its model's thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        step_floor_ms: float = 0.0,
        kv_limit_bytes: int | None = None,
        prefix_reuse: bool = True,
        portable: bool = False,
        target: Target | None = None,
    ) -> None:
        """Takes `loaded.module` over.

        Args:
            step_floor_ms: emulation of a slower target: a step with items lasts at least this long.
            kv_limit_bytes: memory for all sessions' keys and values; None: `default_kv_bytes`.
            prefix_reuse: let a session whose log begins like another's start from what that one computed, also when
                it is over. Texts do not depend on it; but how soon a text begins then tells whether somebody else has
                sent the same beginning, and a benchmark that repeats its prompts measures something else.
            portable: compute on a CPU as an accelerator does, with nothing that is made for a CPU. Slower; what runs
                on an accelerator can thus be tested without one.
            target: of another verifier of the same model, whose weights are to be shared.

        Raises:
            UserError: the model cannot be served exactly, or the limit is too small for anything.
        """
        self._target = Target(loaded, portable=portable) if target is None else target
        self._device = loaded.device
        self._floor_ns = round(step_floor_ms * 1e6)
        longest = loaded.context_length
        limit = default_kv_bytes(loaded.device) if kv_limit_bytes is None else kv_limit_bytes
        self._pool = KvPool(self._target.shape, limit_bytes=limit, reserve_slots=longest)
        self._builder = ForwardBuilder(
            self._pool, group=self._target.group, context_length=longest, portable=portable
        )
        self._info = replace(
            loaded.info,
            vocabulary_size=self._target.vocabulary_size,
            # So that no session can outgrow the cache: its log is closed before.
            context_length=_served_context(longest, self._pool),
        )
        self._sampler = Sampler(self._target.vocabulary_size, loaded.device)
        self._caches = SessionCaches(self._pool, sharing=prefix_reuse)
        self._kind = kind_of(loaded.model_fingerprint, self._pool.shape)
        log.info(
            "verifying with %s: %s on %s, KV cache of %d tokens",
            loaded.name,
            self._target.kind,
            loaded.device,
            self._pool.slots,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def target(self) -> Target:
        """The model, which other verifiers in this process may share: a forward changes nothing in it."""
        return self._target

    @property
    def pool(self) -> KvPool:
        """The KV memory, to be looked at only."""
        return self._pool

    @property
    def kv_tokens(self) -> int | None:
        return self._pool.slots

    @property
    def evictions(self) -> int:
        """Sessions whose cache was dropped for memory so far."""
        return self._caches.counters.evictions

    @property
    def kv_counters(self) -> KvCounters:
        """What the KV cache did and holds. Readable from any thread."""
        return self._caches.counters

    def close(self) -> None:
        self._caches.forget_all()

    @torch.inference_mode()
    def step(self, step: Step) -> StepOutcome:
        """Establish the step's wanted facts.

        Raises:
            SessionTooLongError: a session does not fit into the KV cache even alone.
            BadLogitsError: the target computed NaN or inf.
            OutOfDeviceMemoryError: the accelerator's memory did not suffice.
            Whatever else torch raises. After any of them all caches are empty, and the next step is as good as ever.
        """
        began = time.perf_counter_ns()
        for session in step.released:
            self._caches.end(session)
        answers = {item.session: _Answer() for item in step.items}
        try:
            for wave in self._waves(step):
                self._perform(wave, answers)
            self._synchronise()
        except torch.OutOfMemoryError as error:
            self._caches.forget_all()
            torch.cuda.empty_cache()
            raise OutOfDeviceMemoryError(
                f"{self._device} has too little memory for step {step.number} beside a KV cache of "
                f"{self._pool.slots * self._pool.shape.token_bytes >> 20} MB: give that less (--kv-cache-mb)"
            ) from error
        except BaseException:
            self._caches.forget_all()  # the caches count tokens as held whose forward did not come to its end
            raise
        outcomes = tuple(self._outcome(item, answers[item.session]) for item in step.items)
        self._pool.apply_moves()  # of items that needed no forward; the next step's moves build on them
        if step.items and (rest := self._floor_ns - (time.perf_counter_ns() - began)) > 0:
            time.sleep(rest / 1e9)
        return StepOutcome(outcomes, (time.perf_counter_ns() - began) // 1000)

    @torch.inference_mode()
    def export_state(self, session: int) -> bytes | None:
        """What is held of a session's log, for `import_state` of another worker (see `kv_state`); None: nothing."""
        cache = self._caches.get(session)
        return None if cache is None or not cache.length else export_kv(self._kind, cache, self._pool)

    @torch.inference_mode()
    def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """Hold what another worker exported, as far as it is this log; returns how many tokens of it are held now.

        Raises:
            StateError: the state is damaged, of another format, model or dtype, or there is no room for it.
        """
        return import_kv(self._kind, self._caches, session, log, state)

    def _synchronise(self) -> None:
        """A step that draws nothing, a prefill, would come back before the accelerator is done with it, and the next
        one would be charged for its time.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _perform(self, wave: _Wave, answers: dict[int, _Answer]) -> None:
        """One forward: everything between a step's tokens and its facts."""
        self._pool.apply_moves()
        forward = self._builder.build([share for _, share in wave.shares])
        logits = self._target.logits(forward)
        for cache, share in wave.shares:
            cache.ready = cache.length
            answers[share.item.session].computed += share.rows
        if not forward.wanted:
            return
        specs = [RowSpec(row.share.item.sampling, row.position) for row in forward.wanted]
        for row, draw in zip(forward.wanted, self._sampler.draw(logits, specs), strict=True):
            fact = Fact(draw.token, draw.margin, draw.logprob)
            answers[row.share.item.session].facts.update(dict.fromkeys(row.keys, fact))

    def _waves(self, step: Step) -> Iterator[_Wave]:
        """The step's items in as few forwards as memory allows: one, unless a cache has a long gap to fill."""
        wave = _Wave()
        for asked in step.items:
            while (item := self._caches.reuse(asked, wave.sessions)) is None:
                yield wave
                wave = _Wave()
            for part in self._parts(item):
                if item.session in wave.sessions or wave.rows >= FORWARD_ROWS:
                    yield wave
                    wave = _Wave()
                while (placed := self._place(part, wave)) is None:
                    yield wave
                    wave = _Wave()
                if placed[1].rows:
                    wave.shares.append(placed)
                    wave.sessions.add(item.session)
                    wave.rows += placed[1].rows
        if wave.shares:
            yield wave

    def _parts(self, item: StepItem) -> Iterator[StepItem]:
        """The item, after prefill chunks that leave it no more than one chunk of trunk to compute."""
        cache = self._caches.get(item.session)
        held = 0 if cache is None else cache.length
        while item.length - held > CHUNK_TOKENS:
            held += CHUNK_TOKENS
            yield replace(item, length=held, nodes=(), end_key=None)
        yield item

    def _place(self, item: StepItem, wave: _Wave) -> tuple[SessionCache, Share] | None:
        """The session's cache and the item's share, after evicting other sessions if need be; None: the wave must be
        computed first.

        Raises:
            SessionTooLongError: there is nobody left to evict.
        """
        cache = self._caches.use(item.session)
        while True:
            try:
                share = cache.place(item, self._pool)
            except PoolFullError as full:
                if self._caches.evict({item.session, *wave.sessions}):
                    continue
                if wave.shares:
                    return None
                raise SessionTooLongError(
                    item.session,
                    f"session {item.session} with {item.length} tokens does not fit into a KV cache of "
                    f"{self._pool.slots} tokens: raise its limit ({full})",
                ) from full
            self._caches.note(cache)
            return cache, share

    def _outcome(self, item: StepItem, answer: _Answer) -> ItemOutcome:
        wanted = [] if item.end_key is None else [item.end_key]
        wanted += [node.key for node in item.nodes if node.wanted]
        cache = self._caches.get(item.session)
        return ItemOutcome(
            session=item.session,
            facts=tuple((key, answer.facts[key]) for key in wanted),
            cached_length=0 if cache is None else cache.length,
            computed=answer.computed,
        )


def default_kv_bytes(device: torch.device) -> int:
    """Memory for keys and values where nobody says how much: on an accelerator what is free beside the model, less a
    share for the activations of a step.
    """
    if device.type != "cuda":
        return DEFAULT_KV_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, free - max(LEAST_ACTIVATION_BYTES, round(ACTIVATION_SHARE * free)))


def _served_context(longest: int, pool: KvPool) -> int:
    """The context length that one session can use in this pool.

    Raises:
        UserError: none to speak of.
    """
    room = pool.slots - DRAFT_SLOTS
    if room < min(longest, PAGE_SLOTS):
        needed = pool.shape.token_bytes * (longest + DRAFT_SLOTS)
        raise UserError(
            f"the KV cache holds {pool.slots} tokens, too few for one session with {DRAFT_SLOTS} draft tokens: "
            f"give it {needed} bytes for the model's whole context"
        )
    if room < longest:
        log.warning("the KV cache limits sessions to %d tokens; the model could do %d", room, longest)
    return min(longest, room)
