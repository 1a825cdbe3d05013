"""Facts are what transformers computes over the whole prefix, whatever was cached, batched, cut or evicted before."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_server import ragged
from cloud_server.kv_pool import PAGE_SLOTS
from cloud_server.model import load_model
from cloud_server.verifier import DRAFT_SLOTS, SessionTooLongError, Verifier
from cloud_server.worker import Worker
from shared.errors import UserError
from shared.sampling import BadLogitsError, SamplingParams, draw
from shared.step import Step, StepItem, StepNode
from tests.cloud_server.session_world import World
from tests.cloud_server.tiny_target import (
    CONTEXT,
    VOCABULARY,
    Bench,
    Reference,
    chain,
    greatest_error,
    item,
    path_to,
    random_tokens,
    random_tree,
    save_tiny,
)

TOLERANCE = 1e-4
FAMILIES = ("llama", "qwen2", "qwen3", "cohere", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


@pytest.fixture(scope="module")
def references(folders) -> Callable[[str], Reference]:
    made: dict[str, Reference] = {}
    return lambda family: made.setdefault(family, Reference(folders(family)))


@pytest.fixture
def reference(references) -> Reference:
    return references("llama")


@pytest.fixture
def make(folders) -> Callable[..., Bench]:
    return lambda family="llama", **options: Bench(load_model(folders(family), device="cpu"), **options)


def small_pool(bench: Bench, sessions: float) -> int:
    """Bytes that hold so many sessions of the whole context."""
    return int(bench.verifier.pool.shape.token_bytes * (DRAFT_SLOTS + sessions * CONTEXT))


def test_it_is_a_worker(make):
    assert isinstance(make().verifier, Worker)


def test_it_says_what_computes_its_forwards(make, folders, caplog):
    with caplog.at_level(logging.INFO):
        assert [make(family).verifier._target.kind for family in FAMILIES] == [
            "lean decoder",
            "lean decoder",
            "lean decoder",
            "transformers with 22 packed linear layers",
            "transformers with 1 packed linear layers",
        ]
    assert "lean decoder on cpu, KV cache of" in caplog.text


def test_bfloat16_goes_through_transformers_and_agrees_where_the_decision_is_clear(folders, references):
    bench, rng = Bench(load_model(folders("llama"), device="cpu", dtype="bfloat16")), random.Random(23)
    assert bench.verifier._target.kind == "transformers"
    asked = item(random_tokens(rng, 30), random_tree(rng, 10))
    facts = [fact for _, fact in bench.do(asked).outcome.items[0].facts]
    right = [references("llama").logits(path_to(asked, index)) for index in range(-1, len(asked.nodes))]
    assert [f.token for f in facts if f.margin > 1] == [
        int(logits.argmax()) for f, logits in zip(facts, right, strict=True) if f.margin > 1
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chain(make, references, family):
    bench, rng = make(family), random.Random(1)
    log = random_tokens(rng, 20)
    items = [item(log, chain(random_tokens(rng, 6)))]
    assert greatest_error(bench.do(*items), items, references(family)) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_random_trees_of_several_sessions(make, references, family, seed):
    bench, rng = make(family), random.Random(seed)
    items = [
        item(
            random_tokens(rng, rng.randrange(1, 60)),
            random_tree(rng, rng.randrange(12), wanted=0.7),
            session=session,
            end_key=rng.choice((0, None)),
        )
        for session in range(5)
    ]
    assert greatest_error(bench.do(*items), items, references(family)) < TOLERANCE


@pytest.mark.parametrize("mutant", ["all drafts see each other", "a draft sees its uncle, not its parent"])
def test_negative_control_a_wrong_tree_mask_is_seen(make, reference, monkeypatch, mutant):
    right = ragged.visibility

    def wrong(share):
        seen = right(share)
        first = share.item.length - share.first
        if mutant.startswith("all"):
            seen[first:, share.item.length :] = True
        else:
            for row, node in enumerate(share.nodes, first):
                if len(node.path) > 1:
                    seen[row, node.path[-2]] = False
                    seen[row, share.nodes[0].path[-1]] = True
        return seen

    bench, rng = make(), random.Random(3)
    items = [
        item(random_tokens(rng, 10), (*chain([5, 6, 7]), StepNode(4, 8, -1, True), StepNode(5, 9, 3, True)))
    ]
    monkeypatch.setattr(ragged, "visibility", wrong)
    # The reference's argmax is asserted within, unless the logits are compared first.
    with pytest.raises(AssertionError):
        assert greatest_error(bench.do(*items), items, reference) < TOLERANCE


def test_a_key_that_is_stale_in_the_cache_is_not_taken_for_another_parent(make, reference):
    bench, rng = make(), random.Random(4)
    log = random_tokens(rng, 12)
    nodes = (*chain([5, 6]), StepNode(3, 7, -1, True))
    bench.do(item(log, nodes))
    # The same key and token, now below another parent: a cache keyed by node would answer for the old place.
    moved = [item(log, (StepNode(3, 7, -1, False), StepNode(1, 5, -1, False), StepNode(2, 6, 0, True)))]
    assert greatest_error(bench.do(*moved), moved, reference) < TOLERANCE


@pytest.mark.parametrize("cut", range(1, 31))
def test_every_cut_point(make, reference, cut):
    """Truncated to any prefix, the cache answers as a fresh one does: at its end and below it."""
    bench, rng = make(), random.Random(5)
    log = random_tokens(rng, 30)
    bench.do(item(log, random_tree(rng, 8)))
    items = [item(log, random_tree(rng, 4), length=cut)]
    seen = bench.do(*items)
    assert greatest_error(seen, items, reference) < TOLERANCE
    answer = seen.outcome.items[0]
    assert (answer.cached_length, answer.computed) == (cut, 1 + len(distinct_paths(items[0])))


def test_another_log_under_the_same_key_keeps_only_the_common_prefix(make, reference):
    bench, rng = make(), random.Random(6)
    log = random_tokens(rng, 25)
    bench.do(item(log, chain([1, 2, 3])))
    other = [*log[:17], (log[17] + 1) % VOCABULARY, *random_tokens(rng, 5)]
    items = [item(other, chain([1, 2]))]
    seen = bench.do(*items)
    assert greatest_error(seen, items, reference) < TOLERANCE
    assert seen.outcome.items[0].computed == len(other) - 17 + 2


def test_prefill_in_chunks_computes_each_token_once_and_wants_nothing(make, reference):
    bench, rng = make(), random.Random(7)
    log, done = random_tokens(rng, 150), 0
    while done < 149:
        upto = min(149, done + rng.randrange(1, 40))
        answer = bench.do(item(log, length=upto, end_key=None)).outcome.items[0]
        assert (answer.facts, answer.cached_length, answer.computed) == ((), upto, upto - done)
        done = upto
    items = [item(log)]
    seen = bench.do(*items)
    assert seen.outcome.items[0].computed == 1
    assert greatest_error(seen, items, reference) < TOLERANCE


def test_an_accepted_path_is_not_computed_again(make, reference):
    """Progress: a committed draft costs nothing more, wherever in the tree it lay."""
    bench, rng = make(), random.Random(8)
    log = random_tokens(rng, 9)
    tree = (
        StepNode(1, 10, -1, True),
        StepNode(2, 11, -1, True),
        StepNode(3, 12, 1, True),
        StepNode(4, 13, 2, True),
        StepNode(5, 14, 2, True),
        StepNode(6, 15, 4, True),
    )
    bench.do(item(log, tree))
    log += [11, 12, 14]
    items = [item(log, (StepNode(6, 15, -1, False), StepNode(7, 16, 0, True)), end_key=None)]
    seen = bench.do(*items)
    assert greatest_error(seen, items, reference) < TOLERANCE
    assert (seen.outcome.items[0].computed, seen.outcome.items[0].cached_length) == (1, 12)


def test_a_step_without_any_forward_still_moves_what_it_committed(make, reference):
    bench, rng = make(), random.Random(22)
    log = random_tokens(rng, 9)
    bench.do(item(log, (StepNode(1, 10, -1, True), StepNode(2, 11, -1, True), StepNode(3, 12, 1, True))))
    assert bench.do(item([*log, 11], end_key=None)).outcome.items[0].computed == 0
    assert bench.verifier.pool._pending == ([], [])
    items = [item([*log, 11, 12])]
    assert greatest_error(bench.do(*items), items, reference) < TOLERANCE


def test_a_live_draft_that_a_step_leaves_out_is_still_held(make):
    bench, rng = make(), random.Random(9)
    log = random_tokens(rng, 9)
    bench.do(item(log, chain([1, 2, 3]), end_key=None))
    bench.do(item(log, (StepNode(9, 40, -1, True),), end_key=None))
    assert bench.do(item([*log, 1, 2, 3], end_key=None)).outcome.items[0].computed == 0


def test_one_place_named_twice_is_computed_once_and_answered_twice(make, reference):
    bench, rng = make(), random.Random(10)
    twins = (
        StepNode(1, 7, -1, True),
        StepNode(2, 7, -1, True),
        StepNode(3, 8, 0, True),
        StepNode(4, 8, 1, True),
    )
    items = [item(random_tokens(rng, 5), twins)]
    seen = bench.do(*items)
    assert greatest_error(seen, items, reference) < TOLERANCE
    assert seen.outcome.items[0].computed == 5 + 2


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("room", [9.0, 1.1], ids=["roomy", "crowded"])
@pytest.mark.parametrize("seed", range(3))
def test_random_worlds(make, references, family, room, seed):
    """Sessions join and leave, branches die, logs are prefilled in chunks; crowded: caches are evicted meanwhile."""
    bench = make(family, kv_limit_bytes=small_pool(make(family), room))
    walk_the_world(bench, references(family), World(seed), steps=25, most=8 if room > 2 else 14)
    assert (bench.verifier.evictions > 0) == (room < 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 30))
def test_many_random_worlds(make, references, seed):
    family = FAMILIES[seed % len(FAMILIES)]
    room = (9.0, 1.1)[seed // 4 % 2]
    bench = make(family, kv_limit_bytes=small_pool(make(family), room))
    walk_the_world(bench, references(family), World(seed), steps=120, most=14)


def walk_the_world(bench: Bench, reference: Reference, world: World, *, steps: int, most: int) -> None:
    pool = bench.verifier.pool
    for _ in range(steps):
        items, released = world.step(most)
        assert greatest_error(bench.do(*items, released=released), items, reference) < TOLERANCE
    bench.do(released=list(world.logs))
    assert pool.free_pages == pool.pages


def test_a_step_that_does_not_fit_at_once_is_computed_in_several_forwards(make, reference):
    bench, rng = make(), random.Random(12)
    bench = make(kv_limit_bytes=small_pool(bench, 0.8))
    assert bench.verifier.pool.pages == 10
    items = [item(random_tokens(rng, 140), chain([1, 2]), session=session) for session in range(7)]
    seen = bench.do(*items)
    assert greatest_error(seen, items, reference) < TOLERANCE
    held = [answer.cached_length for answer in seen.outcome.items]
    assert held.count(0) > 0
    assert sum(-(-length // PAGE_SLOTS) for length in held) <= 10


def test_the_least_recently_used_session_is_evicted_first(make):
    bench = make(kv_limit_bytes=small_pool(make(), 0.8))
    for session in (1, 2, 3):
        bench.do(item([session] * 150, session=session))
    bench.do(item([1] * 150, session=1))
    bench.do(item([4] * 150, session=4))
    assert [bench.do(item([key] * 150, session=key)).outcome.items[0].computed for key in (1, 3, 4)] == [
        1,
        1,
        1,
    ]
    assert bench.do(item([2] * 150, session=2)).outcome.items[0].computed == 150


def test_scattered_pages_are_gathered(make, reference):
    """Neighbours that leave make holes; a session that grows into them has no view to offer."""
    bench, rng = make(kv_limit_bytes=small_pool(make(), 0.8)), random.Random(13)
    logs = {session: random_tokens(rng, 60) for session in range(10)}
    bench.do(*(item(log, session=session) for session, log in logs.items()))
    bench.do(released=[1, 3, 4, 6])
    logs[0] += random_tokens(rng, 60)
    logs[5] += random_tokens(rng, 70)
    items = [item(logs[key], random_tree(rng, 6), session=key) for key in (0, 2, 5)]
    tables = [cache.table for cache in bench.verifier._caches]
    seen = bench.do(*items)
    assert not all(table.contiguous for table in tables)
    assert greatest_error(seen, items, reference) < TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_padded_path_that_a_gpu_takes(make, references, family):
    bench, rng = make(family, portable=True), random.Random(14)
    for _ in range(4):
        items = [
            item(
                random_tokens(rng, rng.choice((3, 40, 120))),
                random_tree(rng, rng.randrange(9)),
                session=rng.randrange(10**6),
            )
            for _ in range(6)
        ]
        assert greatest_error(bench.do(*items), items, references(family)) < TOLERANCE


def test_a_long_gap_is_filled_by_several_forwards_of_one_step(make, reference, monkeypatch):
    monkeypatch.setattr("cloud_server.verifier.CHUNK_TOKENS", 32)
    bench, rng = make(), random.Random(15)
    items = [item(random_tokens(rng, n), chain([3, 4]), session=n) for n in (150, 31, 97)]
    seen = bench.do(*items)
    assert greatest_error(seen, items, reference) < TOLERANCE
    assert [answer.computed for answer in seen.outcome.items] == [152, 33, 99]


def test_drawn_facts_are_the_reference_draw_on_the_reference_logits(make, reference):
    """At any temperature and under any filter; a session's company has other parameters."""
    bench, rng = make(), random.Random(16)
    kinds = [
        SamplingParams(temperature=1.0, seed=7),
        SamplingParams(temperature=0.7, top_p=0.9, seed=8),
        SamplingParams(temperature=1.3, top_k=5, min_p=0.05, seed=2**63),
        SamplingParams(),
    ]
    items = [
        item(random_tokens(rng, rng.randrange(1, 40)), random_tree(rng, 8), session=number, sampling=kind)
        for number, kind in enumerate(kinds)
    ]
    for asked, answer in zip(items, bench.do(*items).outcome.items, strict=True):
        prefixes = [path_to(asked, index) for index in range(-1, len(asked.nodes))]
        for prefix, (_, fact) in zip(prefixes, answer.facts, strict=True):
            right = draw(reference.logits(prefix).numpy(), asked.sampling, len(prefix))
            assert fact.token == right.token
            assert (fact.margin, fact.logprob) == pytest.approx((right.margin, right.logprob), abs=1e-3)


def test_a_fact_does_not_depend_on_its_company(make):
    """Same item alone and among others: equal up to the rounding of float32."""
    rng = random.Random(17)
    asked = item(random_tokens(rng, 50), random_tree(rng, 10), session=0)
    others = [item(random_tokens(rng, 10 * n), random_tree(rng, n), session=n) for n in range(1, 12)]
    alone, among = make().do(asked), make().do(*others, asked)
    for key, logits in alone.logits.items():
        np.testing.assert_allclose(among.logits[key], logits, atol=2e-5)


def test_no_memory_is_left_behind_by_many_sessions(make):
    bench, rng = make(kv_limit_bytes=small_pool(make(), 3)), random.Random(18)
    pool = bench.verifier.pool
    for session in range(60):
        bench.do(item(random_tokens(rng, 1 + session), chain([1, 2, 3]), session=session))
        bench.do(released=[session])
        assert pool.free_pages == pool.pages
    assert bench.verifier.evictions == 0


def test_dead_drafts_hold_no_memory(make):
    """A log that never takes a draft: pages are those of the trunk and of one tree."""
    bench, rng = make(), random.Random(19)
    log, pool = random_tokens(rng, 4), bench.verifier.pool
    for _ in range(100):
        bench.do(item(log, chain(random_tokens(rng, 12))))
        log.append(rng.randrange(VOCABULARY))
    assert pool.pages - pool.free_pages == -(-(len(log) + 12) // PAGE_SLOTS)


def test_drafts_that_nobody_asks_about_go_before_a_new_page_comes(make):
    bench, rng = make(), random.Random(20)
    log, pool = random_tokens(rng, 4), bench.verifier.pool
    for round_ in range(30):
        bench.do(
            item(log, tuple(StepNode(i, 12 * (round_ % 5) + i, -1, True) for i in range(12)), end_key=None)
        )
    assert pool.pages - pool.free_pages == 1


def test_a_failed_step_leaves_nothing_behind(make, reference, monkeypatch):
    bench, rng = make(), random.Random(21)
    log = random_tokens(rng, 20)
    bench.do(item(log))
    stock = bench.verifier._target.logits

    def fails_in_the_end(forward):
        stock(forward).fill_(torch.nan)
        raise RuntimeError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(bench.verifier._target, "logits", fails_in_the_end)
        with pytest.raises(RuntimeError, match="no memory"):
            bench.do(item(log, chain([1, 2])))
    assert bench.verifier.pool.free_pages == bench.verifier.pool.pages
    items = [item(log, chain([1, 2]))]
    assert greatest_error(bench.do(*items), items, reference) < TOLERANCE


def test_logits_that_are_no_numbers_are_an_error_and_not_a_fact(make):
    bench = make()
    bench.verifier._target.logits = lambda forward: torch.full((len(forward.wanted), VOCABULARY), torch.nan)
    with pytest.raises(BadLogitsError):
        bench.verifier.step(Step(1, (item([1, 2, 3]),)))


def test_a_session_that_cannot_fit_is_named(make):
    bench = make(kv_limit_bytes=small_pool(make(), 0.8))
    with pytest.raises(SessionTooLongError, match="session 5 with 700 tokens") as refused:
        bench.do(item([1] * 700, session=5))
    assert refused.value.session == 5


def test_a_small_cache_shortens_the_context_and_a_tiny_one_is_refused(make):
    plenty = make()
    shape = plenty.verifier.pool.shape
    assert plenty.verifier.info.context_length == CONTEXT
    short = make(kv_limit_bytes=shape.token_bytes * (DRAFT_SLOTS + 128))
    assert short.verifier.info.context_length == 128
    with pytest.raises(UserError, match="too few for one session"):
        make(kv_limit_bytes=shape.token_bytes * DRAFT_SLOTS)
    with pytest.raises(UserError, match="holds no page"):
        make(kv_limit_bytes=10)


def test_the_floor_is_the_least_duration_of_a_step_with_items(make):
    verifier: Verifier = make(step_floor_ms=30.0).verifier
    began = time.perf_counter_ns()
    outcome = verifier.step(Step(1, (item([1, 2, 3]),)))
    taken = (time.perf_counter_ns() - began) // 1000
    assert 30_000 <= outcome.duration_us <= taken
    assert verifier.step(Step(2, (), (1,))).duration_us < 30_000


def test_closing_twice_frees_everything(make):
    bench = make()
    bench.do(item([1, 2, 3]))
    bench.verifier.close()
    bench.verifier.close()
    assert bench.verifier.pool.free_pages == bench.verifier.pool.pages


def distinct_paths(asked: StepItem) -> set[tuple[int, ...]]:
    return {tuple(path_to(asked, index)[asked.length :]) for index in range(len(asked.nodes))}
