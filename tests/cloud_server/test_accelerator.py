"""What runs on an accelerator, tested without one: its path on a CPU, its shapes on the meta device, its failures."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import chain as chain_of
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cloud_server import ragged, verifier
from cloud_server.kv_cache import SessionCache
from cloud_server.kv_pool import KvPool, KvShape
from cloud_server.model import load_model, resolve_device, resolve_dtype
from cloud_server.packed_linear import packed_if_right
from cloud_server.ragged import ON_ACCELERATOR, ON_CPU, ForwardBuilder, arrange, visibility, width_of
from cloud_server.target import RAGGED
from cloud_server.verifier import DEFAULT_KV_BYTES, OutOfDeviceMemoryError, Verifier, default_kv_bytes
from shared.errors import UserError
from shared.sampling import SamplingParams
from shared.step import Step
from tests.cloud_server.tiny_target import (
    Bench,
    Reference,
    chain,
    config_of,
    greatest_error,
    item,
    path_to,
    random_tokens,
    random_tree,
    save_tiny,
)

TOLERANCE = 1e-4
FAMILIES = ("llama", "qwen3", "cohere", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


def bench(folder: Path, dtype: str = "float32") -> Bench:
    return Bench(load_model(folder, device="cpu", dtype=dtype), portable=True)


def shares_of(bench: Bench, *items):
    """What `Verifier._place` makes of items, each in a cache of its own."""
    return [SessionCache().place(one, bench.verifier.pool) for one in items]


# ---- the path itself ----


def test_nothing_that_is_made_for_a_cpu_is_used(folders):
    target = bench(folders("llama")).verifier._target
    assert target.kind == "transformers"
    assert {type(part).__name__ for part in target._module.modules() if "Linear" in type(part).__name__} == {
        "Linear"
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_sessions_that_grow_and_branch_get_the_reference_facts(folders, family, seed):
    """Several steps, so that caches hold drafts, some of them taken; and lengths that are padded in several groups."""
    tested, reference, rng = bench(folders(family)), Reference(folders(family)), random.Random(seed)
    logs = [random_tokens(rng, length) for length in (2, 3, 30, 31, 33, 90)]
    for _ in range(4):
        trees = [random_tree(rng, rng.randrange(9)) for _ in logs]
        items = [item(log, tree, session=i) for i, (log, tree) in enumerate(zip(logs, trees, strict=True))]
        assert greatest_error(tested.do(*items), items, reference) < TOLERANCE
        for log, tree in zip(logs, trees, strict=True):
            log.extend([node.token for node in tree if node.parent < 0][:1] + random_tokens(rng, 1))


def test_drawn_facts_do_not_depend_on_the_path(folders):
    rng = random.Random(3)
    kinds = [SamplingParams(temperature=1.0, seed=7), SamplingParams(temperature=0.8, top_p=0.9, seed=8)]
    items = [
        item(random_tokens(rng, 20), random_tree(rng, 8), session=i, sampling=kind)
        for i, kind in enumerate(kinds * 4)
    ]
    fast = Bench(load_model(folders("llama"), device="cpu"))
    here, there = (side.do(*items).outcome.items for side in (bench(folders("llama")), fast))
    assert [[fact.token for _, fact in one.facts] for one in here] == [
        [fact.token for _, fact in one.facts] for one in there
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_bfloat16_facts_agree_where_the_decision_is_clear(folders, family):
    tested, reference, rng = bench(folders(family), "bfloat16"), Reference(folders(family)), random.Random(4)
    items = [item(random_tokens(rng, 10 * n), random_tree(rng, 8), session=n) for n in range(1, 8)]
    clear = 0
    for asked, answer in zip(items, tested.do(*items).outcome.items, strict=True):
        for index, (_, fact) in zip(range(-1, len(asked.nodes)), answer.facts, strict=True):
            if fact.margin > 1.0:
                clear += 1
                assert fact.token == int(reference.logits(path_to(asked, index)).argmax())
    assert clear >= 8


def test_a_forward_needs_no_value_from_the_device(folders):
    """On the meta device there are no values: whatever waited for one (`item`, a copy to the host) would raise."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config_of("llama"), dtype=torch.bfloat16).eval()
    module.set_attn_implementation(RAGGED)
    shape = KvShape(3, 2, 8, 8, torch.bfloat16, torch.device("meta"))
    pool = KvPool(shape, limit_bytes=shape.token_bytes * 64 * 40, reserve_slots=160)
    builder = ForwardBuilder(pool, group=2, context_length=160)
    rng = random.Random(5)
    items = [item(random_tokens(rng, 10 + n), random_tree(rng, 6), session=n) for n in range(5)]
    items.append(item(random_tokens(rng, 120), session=9))
    with torch.inference_mode():
        forward = builder.build([SessionCache().place(one, pool) for one in items])
        logits = module(
            input_ids=forward.tokens,
            position_ids=forward.positions,
            use_cache=False,
            logits_to_keep=forward.logit_rows,
            ragged=forward.batch,
        ).logits
        pool.queue_move(*([builder_slots(forward)] * 2))
        pool.apply_moves()
    assert {type(block).__name__ for block in forward.batch.blocks} == {"ViewBlock", "PaddedBlock"}
    assert logits.shape == (1, len(forward.wanted), 61)
    assert logits.dtype == torch.bfloat16
    assert all(block.mask is None or block.mask.dtype == torch.bfloat16 for block in forward.batch.blocks)


def builder_slots(forward):
    """Any slots: what is moved does not matter where nothing is held."""
    return torch.arange(forward.batch.slots.numel()).numpy()


# ---- who is padded with whom ----


def test_padding_wastes_no_more_than_is_allowed(folders):
    """One long session among many short ones must not make all of them long: their keys are gathered in memory."""
    tested, rng = bench(folders("llama")), random.Random(6)
    items = [item(random_tokens(rng, rng.randrange(2, 150)), session=n, end_key=0) for n in range(40)]
    items = [replace(one, nodes=chain(random_tokens(rng, 3))) for one in items]
    for grouping in (ON_CPU, replace(ON_ACCELERATOR, overhead=200)):
        viewed, groups = arrange(shares_of(tested, *items), grouping)
        assert sorted(s.item.session for s in chain_of(viewed, *groups)) == list(range(40))
        for group in groups:
            widths = [width_of(share) for share in group]
            padded = max(widths) * max(share.rows for share in group) * len(group)
            needed = sum(width * share.rows for width, share in zip(widths, group, strict=True))
            assert padded - needed <= grouping.overhead * len(group)


def test_sessions_of_one_length_go_together_and_a_long_chunk_goes_alone(folders):
    tested, rng = bench(folders("llama")), random.Random(7)
    items = [item(random_tokens(rng, 20), chain([1, 2]), session=n) for n in range(7)]
    items.append(item(random_tokens(rng, 140), session=7))
    shares = shares_of(tested, *items)
    viewed, groups = arrange(shares, ON_ACCELERATOR)
    assert [[share.item.session for share in group] for group in groups] == [list(range(7))]
    assert [share.item.session for share in viewed] == [7]
    viewed, groups = arrange(shares[:5], ON_CPU)
    assert (len(viewed), groups) == (5, [])
    # On a CPU what is long is not worth a copy, however few rows attend to it.
    long = shares_of(tested, *(item(random_tokens(rng, 60), session=n) for n in range(8)))
    for most, count in ((60, 0), (59, 8)):
        assert len(arrange(long, replace(ON_CPU, most=most, overhead=1 << 20))[0]) == count


def test_a_padded_mask_shows_what_is_visible(folders):
    tested, rng = bench(folders("llama")), random.Random(8)
    items = [item(random_tokens(rng, 12 + n), random_tree(rng, 5 + n), session=n) for n in range(4)]
    tested.do(*items)
    # Again, without the end: the first row of a session, which pads it, is a draft token's now.
    again = [replace(one, end_key=None) for one in items]
    caches = tested.verifier._caches
    shares = [caches.use(one.session).place(one, tested.verifier.pool) for one in again]
    batch = tested.verifier._builder.build(shares).batch
    (block,) = batch.blocks
    rows = block.mask.shape[2] // 2
    assert block.mask.shape[3] % ON_ACCELERATOR.align == 0
    order = sorted(shares, key=width_of, reverse=True)
    for number, share in enumerate(order):
        seen = (block.mask[number, 0] == 0).view(rows, 2, -1)
        right = torch.from_numpy(visibility(share))
        for row in range(rows):
            expected = right[row if row < share.rows else 0]
            for head in range(2):
                assert torch.equal(seen[row, head, : len(expected)], expected)
                assert not seen[row, head, len(expected) :].any()


# ---- what an accelerator can refuse ----


def test_a_step_that_runs_out_of_memory_says_so_and_the_next_one_is_right(folders, monkeypatch):
    tested, rng = bench(folders("llama")), random.Random(9)
    asked = item(random_tokens(rng, 20), random_tree(rng, 5))
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))

    def full(forward):
        raise torch.OutOfMemoryError("no memory")

    stock = tested.verifier._target.logits
    tested.verifier._target.logits = full
    with pytest.raises(OutOfDeviceMemoryError, match="--kv-cache-mb"):
        tested.verifier.step(Step(7, (asked,)))
    tested.verifier._target.logits = stock
    assert emptied
    assert tested.verifier.pool.free_pages == tested.verifier.pool.pages
    assert greatest_error(tested.do(asked), [asked], Reference(folders("llama"))) < TOLERANCE


def test_a_prefill_is_waited_for_so_that_its_time_is_its_own(folders, monkeypatch):
    tested, waited = bench(folders("llama")), []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    tested.do(item([1, 2, 3], end_key=None))
    assert waited == [], "a CPU is never behind"
    tested.verifier._device = torch.device("cuda:1")
    tested.do(item([1, 2, 3, 4], end_key=None))
    assert waited == [torch.device("cuda:1")]


def test_an_accelerators_memory_is_for_keys_and_values(monkeypatch):
    assert default_kv_bytes(torch.device("cpu")) == DEFAULT_KV_BYTES
    for free, most in ((80 << 30, 68 << 30), (3 << 30, 2 << 30), (1 << 29, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        assert default_kv_bytes(torch.device("cuda")) == most


def test_a_cache_that_does_not_fit_beside_the_model_is_the_users_to_mend(folders, monkeypatch):
    monkeypatch.setattr(verifier, "default_kv_bytes", lambda device: 0)
    with pytest.raises(UserError, match="give it at least"):
        Verifier(load_model(folders("llama"), device="cpu"))


def test_weights_that_do_not_fit_are_the_users_to_mend(folders, monkeypatch):
    def full(module, device):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(UserError, match=r"no memory for .* MB of weights"):
        load_model(folders("llama"), device="cpu")


def test_a_device_without_bfloat16_is_refused_and_not_served_in_another_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.inference_mode())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    place = resolve_device("cuda:0")
    for asked in (None, "bfloat16"):
        with pytest.raises(UserError, match="an old card computes no bfloat16"):
            resolve_dtype(asked, place)
    assert resolve_dtype("float16", place) == torch.float16
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_linear_layers_are_packed_on_a_cpu_only():
    elsewhere = torch.nn.Linear(8, 8, device="meta")
    assert packed_if_right(elsewhere) is elsewhere


def test_what_is_sent_to_an_accelerator_is_pinned(monkeypatch):
    sent = []

    class Host:
        def pin_memory(self):
            sent.append("pinned")
            return self

        def to(self, device, *, non_blocking):
            sent.append((device.type, non_blocking))
            return "there"

    monkeypatch.setattr(ragged.torch, "from_numpy", lambda array: Host())
    assert ragged._send(None, torch.device("cuda")) == "there"
    assert sent == ["pinned", ("cuda", True)]
