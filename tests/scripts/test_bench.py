"""The benchmarks run and say what they promise. How fast anything is, no test asks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cloud_server.app import ServeOptions, serving
from cloud_server.model import load_model
from cloud_server.noise import HostNoise, NoiseCache
from cloud_server.verifier import Verifier
from scripts.bench import __main__ as command
from scripts.bench.alone import decode_alone
from scripts.bench.cache import measure_prefix, resident_mb
from scripts.bench.drafter import measure_drafter
from scripts.bench.live import World, measure_live
from scripts.bench.loop_thread import LoopThread
from scripts.bench.many import decode_together, measure_many
from scripts.bench.measure import Neighbours, Rounds, Spread, take_turns
from scripts.bench.pair import SHAPES
from scripts.bench.peer_drafter import load_peer_drafter
from scripts.bench.report import QUIET, Aim, Figure, Section, show
from scripts.bench.settings import BenchSettings
from scripts.bench.verifier import ACCEPTED, ADVANCE, DRAFTS, Workload, our_round
from scripts.pair.export import export_drafter
from scripts.pair.runtime import OnnxDrafter
from scripts.pair.shape import Shape
from scripts.pair.tokenizer import save_tokenizer, train_tokenizer
from shared.profiled import Profile

SHAPE = Shape(
    layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocabulary=320, max_positions=2048
)
ONE = Spread(1.0, 0.5, 2.0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A target and a drafter with random weights, in the layouts that are shipped; the drafter is the target."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(1)
    with torch.no_grad():
        target = LlamaForCausalLM(LlamaConfig(**SHAPE.transformers_config())).float()
        for name, weight in target.named_parameters():
            # Large enough for logits that differ, and representable in the float16 of the files.
            weight.copy_(
                (weight * (4.0 if weight.dim() == 2 else 1.0) + 0.05 * ("norm" in name)).half().float()
            )
    target.save_pretrained(folder / "target")
    save_tokenizer(
        train_tokenizer(["def f(x):\n    return x\n"], SHAPE.vocabulary),
        folder / "target",
        SHAPE.max_positions,
    )
    weights = {name: w.numpy() for name, w in target.state_dict().items() if name != "lm_head.weight"}
    export_drafter(weights, SHAPE, folder / "target" / "tokenizer.json", folder / "drafter", "float16")
    return folder


@pytest.fixture
def tiny(pair) -> BenchSettings:
    return BenchSettings(
        pair=pair,
        threads=1,
        rounds=1,
        steps=2,
        drafter_steps=4,
        past=24,
        session_counts=(1, 3),
        prompts=2,
        tokens=4,
        live_tokens=6,
        live_rounds=1,
        step_ms=4.0,
        draft_ms=0.5,
        rtt_ms=4.0,
    )


@contextlib.contextmanager
def server_inside(settings: BenchSettings, threads: int):
    """The target's server on a loop of this process."""
    verifier = Verifier(load_model(settings.pair / "target", "cpu", "float32"))
    with LoopThread() as loop:
        up = loop.enter(serving(verifier, ServeOptions(listen="127.0.0.1:0")))
        yield SimpleNamespace(address=up.address, pid=os.getpid())


def run(keys: list[str], settings: BenchSettings, tmp_path: Path) -> dict:
    file = tmp_path / "figures.json"
    command.run(keys, settings, file)
    return json.loads(file.read_text())


def test_every_section_on_tiny_settings(tiny, tmp_path, monkeypatch, capsys) -> None:
    # A server process takes seconds to import torch; section `alone` has a real one, section `pair` this.
    monkeypatch.setattr("scripts.bench.pair.target_server", server_inside)
    for shape in [name for name in SHAPES if name not in ("cloud alone", "chain, window 4")]:
        monkeypatch.delitem(SHAPES, shape)
    monkeypatch.setattr("scripts.bench.cache.PROMPTS", (300, 400))
    document = run(list(command.SECTIONS), tiny, tmp_path)
    assert set(document) == {"machine", "settings", "sections"}
    assert document["machine"]["cores"] >= 1
    assert [section["key"] for section in document["sections"]] == list(command.SECTIONS)
    for section in document["sections"]:
        assert section["failures"] == []
        assert section["settings"]
        assert 0 <= section["neighbours"] <= 1.5
        assert any(figure["met"] is not None for figure in section["figures"])
        for figure in section["figures"]:
            for column in ("ours", "peer", "ratio"):
                assert 0 < figure[column]["least"] <= figure[column]["median"] <= figure[column]["greatest"]
    names = {
        section["key"]: [figure["name"] for figure in section["figures"]] for section in document["sections"]
    }
    assert names["verifier"] == [
        "1 session, greedy",
        "1 session, T=1",
        "3 sessions, greedy",
        "3 sessions, T=1",
        "3 uneven sessions, greedy",
        "3 uneven sessions, T=1",
    ]
    assert len(names["drafter"]) == 2
    assert len(names["alone"]) == 3
    assert names["many"] == ["3 sessions at once"]
    assert names["prefix"][0] == "300 tokens, the first session is running"
    assert len(names["prefix"]) == 4
    assert len(names["memory"]) == 2
    assert len(names["live"]) == 4
    assert "aims met" in capsys.readouterr().out


def test_texts_that_differ_are_told(tiny, monkeypatch) -> None:
    """Negative control: a peer that writes something else is a failure of the section, not a footnote."""
    monkeypatch.setattr("scripts.bench.drafter.BareLoop.prefill", lambda *_: 7)
    assert measure_drafter(tiny).failures


def test_live_texts_that_differ_are_told(tiny, monkeypatch) -> None:
    monkeypatch.setattr("scripts.bench.live.decode", lambda *_: [])
    assert measure_live(tiny).failures


def test_many_texts_that_differ_are_told(tiny, monkeypatch) -> None:
    monkeypatch.setattr(
        "scripts.bench.many.decode_together", lambda _, __, prompts, ___: [(5,)] * len(prompts)
    )
    assert measure_many(tiny).failures


def test_sessions_decoded_together_leave_one_by_one(pair) -> None:
    verifier = Verifier(load_model(pair / "target", "cpu", "float32"))
    prompts = [(1, 2, 3), (7, 8, 9, 10), (4, 4)]
    alone = [decode_alone(verifier, 100 + i, prompt, 9) for i, prompt in enumerate(prompts)]
    stop = next(token for token in alone[1] if token not in alone[0] + alone[2])
    verifier._info = replace(verifier.info, stop_tokens=(stop,))
    texts = decode_together(verifier, 0, prompts, 9)
    assert texts == [alone[0], alone[1][: alone[1].index(stop) + 1], alone[2]]
    assert verifier.kv_counters.sessions == 0


def test_a_cache_that_takes_more_than_the_formula_says_is_told(pair, monkeypatch) -> None:
    """Negative control: pages that nobody accounts for."""
    monkeypatch.setattr("scripts.bench.cache.PAGE_SLOTS", 32)
    with pytest.raises(AssertionError, match="by the formula"):
        resident_mb(load_model(pair / "target", "cpu", "float32"), [20, 100])


def test_a_prompt_that_was_not_reused_is_told(tiny, monkeypatch) -> None:
    """Negative control: without reuse a known prompt costs what a new one does, and the aim is missed."""
    monkeypatch.setattr("scripts.bench.cache.PROMPTS", (300, 400))
    monkeypatch.setattr("scripts.bench.cache.Verifier", lambda loaded: Verifier(loaded, prefix_reuse=False))
    assert all(figure.met is False for figure in measure_prefix(tiny).figures)


def test_the_peer_drafter_is_the_shipped_one(pair) -> None:
    ids = np.random.default_rng(3).integers(2, SHAPE.vocabulary, 40).tolist()
    ours = OnnxDrafter(pair / "drafter", 64).chain_logits(ids)
    with torch.no_grad():
        peer = load_peer_drafter(pair / "drafter", SHAPE.max_positions)(torch.tensor([ids])).logits[0].numpy()
        target = AutoModelForCausalLM.from_pretrained(pair / "target", dtype=torch.float32)
        same = target(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(ours).max() > 0.5
    np.testing.assert_allclose(peer, ours, atol=1e-4)
    np.testing.assert_allclose(peer, same, atol=1e-4)


def test_int8_weights_are_expanded(pair, tmp_path) -> None:
    target = AutoModelForCausalLM.from_pretrained(pair / "target", dtype=torch.float32)
    weights = {name: w.numpy() for name, w in target.state_dict().items() if name != "lm_head.weight"}
    export_drafter(weights, SHAPE, pair / "target" / "tokenizer.json", tmp_path, "int8")
    found = load_peer_drafter(tmp_path, SHAPE.max_positions).state_dict()
    for name, weight in weights.items():
        step = np.abs(weight).max() / 127
        assert np.abs(found[name].numpy() - weight).max() <= step, name


def test_sides_take_turns_and_the_warm_up_does_not_count() -> None:
    seen: list[tuple[str, int]] = []

    def side(name: str, value: float):
        def turn(number: int) -> float:
            seen.append((name, number))
            return value + number

        return turn

    rounds = take_turns({"a": side("a", 10), "b": side("b", 20)}, 2)
    assert seen == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert rounds.values == {"a": [10, 11], "b": [20, 21]}


def test_ratios_are_paired_by_round() -> None:
    rounds = Rounds({"a": [1.0, 100.0, 4.0], "b": [2.0, 50.0, 4.0]})
    assert rounds.ratio("a", "b") == Spread(1.0, 0.5, 2.0)
    assert rounds.spread("a") == Spread(4.0, 1.0, 100.0)
    assert (rounds.lowest(["a", "b"]), rounds.highest(["a", "b"])) == ("a", "a")  # of equals the first
    rounds = Rounds({"a": [1.0, 5.0, 1.0], "b": [2.0, 2.0, 2.0]})
    assert (rounds.lowest(["a", "b"]), rounds.highest(["a", "b"])) == ("a", "b")


def test_a_side_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    rounds = Rounds({"a": [9.0, 1.0, 9.0, 1.0], "b": [2.0, 2.0, 2.0, 2.0]})
    assert rounds.every_other(0).highest(["a", "b"]) == "a"
    assert rounds.every_other(1).spread("a") == Spread(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("aim", "ratio", "met"),
    [
        (Aim("", most=1.25), 1.25, True),
        (Aim("", most=1.25), 1.26, False),
        (Aim("", least=2.0), 1.99, False),
        (Aim("", least=2.0), 2.0, True),
        (Aim("", least=0.9, most=1.1), 0.89, False),
        (Aim("", least=0.9, most=1.1), 1.0, True),
    ],
)
def test_aims(aim, ratio, met) -> None:
    figure = Figure("", ONE, ONE, Spread(ratio, 0.0, 9.0), aim)
    assert figure.met is met
    assert replace(figure, aim=None).met is None


@pytest.mark.parametrize(("share", "quiet"), [(None, False), (QUIET, True), (QUIET + 0.01, False)])
def test_a_busy_machine_s_verdict_is_in_brackets(share, quiet, capsys) -> None:
    figure = Figure("figure", ONE, ONE, ONE, Aim("at most 1.25", most=1.25))
    section = Section(
        "key", "title", "us", "ours", "peer", "ratio", ("settings",), (figure,), neighbours=share
    )
    show(section, Console(width=100))
    out = capsys.readouterr().out
    assert section.quiet is quiet
    assert ("(met)" in out) is not quiet
    assert ("other processes used" in out) is (share is not None and not quiet)


def test_own_work_is_not_a_neighbour_s() -> None:
    with Neighbours() as alone:
        total = sum(i * i for i in range(300_000))
    assert total
    assert 0 <= alone.share <= 1.5


def test_the_workload_is_new_work_at_every_step() -> None:
    settings = BenchSettings(steps=3, past=64)
    work = Workload.make(0, 2, settings, 100)
    again = Workload.make(0, 2, settings, 100)
    assert work == again
    assert work.texts != Workload.make(1, 2, settings, 100).texts
    for session, text in enumerate(work.texts):
        for step in range(3):
            end = work.lengths[session] + step * ADVANCE
            drafts = work.drafts(session, step)
            assert len(drafts) == DRAFTS
            assert drafts[:ACCEPTED] == text[end : end + ACCEPTED]
            assert drafts[ACCEPTED] != text[end + ACCEPTED]


def test_noise_is_fresh_in_every_round(pair, monkeypatch) -> None:
    """Four rows in five are computed, however many rounds there were before (the fifth was rolled back)."""
    asked, computed = [], []

    class Counting(HostNoise):
        def rows(self, keys, vocabulary_size):
            computed.extend(keys)
            return super().rows(keys, vocabulary_size)

    monkeypatch.setattr("cloud_server.sampling.HostNoise", Counting)
    plain = NoiseCache.rows
    monkeypatch.setattr(NoiseCache, "rows", lambda self, keys: (asked.extend(keys), plain(self, keys))[1])
    verifier = Verifier(load_model(pair / "target", "cpu", "float32"))
    steps, sessions = 4, 3
    settings = BenchSettings(steps=steps, past=64)
    for number in range(-1, 4):
        our_round(verifier, Workload.make(number, sessions, settings, SHAPE.vocabulary), 1.0)
    verifier.close()
    again = 5 * sessions * (steps - 1)
    assert len(asked) == 5 * sessions * steps * (DRAFTS + 1)
    assert len(computed) == len(set(computed)) == len(asked) - again


def test_the_best_lookahead_is_the_best() -> None:
    world = World(Profile(acceptance=0.0), rtt_ms=20.0, tokens=8)
    assert world.best_lookahead(1) == 1  # every longer block is drafted in vain


def test_unknown_sections_are_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--only", "drafter,speed"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "speed" in capsys.readouterr().err


def test_the_loop_thread_leaves_in_reverse_order() -> None:
    left: list[str] = []

    class Room:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __aenter__(self) -> str:
            await asyncio.sleep(0)
            return threading.current_thread().name

        async def __aexit__(self, *_: object) -> None:
            left.append(self.name)

    with LoopThread() as loop:
        assert loop.enter(Room("first")) == "event loop"
        loop.enter(Room("second"))
    assert left == ["second", "first"]
