"""Recording a pair, and the demo pair's recordings that come along."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from scripts.pair.evaluate import drafter_log_q, noise, write_text
from scripts.pair.prompts import held_out_prompts
from scripts.pair.runtime import OnnxDrafter
from scripts.pair.shape import END_OF_TEXT_ID
from scripts.record_trace import app, record
from shared.acceptance import Iid, Markov, Process, Profiled, Recorded, make_pair
from shared.drafter_trace import read_trace
from shared.errors import UserError
from shared.profiled import Profile, decode
from shared.sampling import SamplingParams
from shared.session.edge import Request
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.predict import model_info, pool_of
from shared.sim.workers import FleetPlan, WorkerPlan
from shared.sim.world import World
from tests.shared.sim.progress import chain_arm

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
TOKENS = 24
PROFILE = Profile(vocabulary_size=4096)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in held_out_prompts(3)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_recorded_is_what_the_evaluation_finds(prompts: list[list[int]], temperature: float):
    """Ranks of the target's tokens, by the other pair of runtimes: transformers and a bare onnxruntime session."""
    sampling = SamplingParams(temperature, seed=5)
    trace = record(
        str(DEMO / "target"), str(DEMO / "drafter"), prompts, tokens=TOKENS, width=4, sampling=sampling
    )
    target = AutoModelForCausalLM.from_pretrained(DEMO / "target", dtype=torch.float32).eval()
    drafter = OnnxDrafter(DEMO / "drafter", capacity=512)
    for number, (prompt, guesses) in enumerate(zip(prompts, trace.texts, strict=True)):
        seed = None if temperature == 0.0 else sampling.seed + number
        text = write_text(target, prompt, TOKENS, seed, END_OF_TEXT_ID)
        scores = drafter_log_q(drafter, text)
        if seed is not None:
            scores = scores + noise(seed, len(prompt), len(text.new), scores.shape[-1])
        best = np.argsort(-scores, axis=-1)[:, :4]
        ranks = [[*row, token].index(token) for row, token in zip(best.tolist(), text.new, strict=True)]
        assert [4 if one.rank is None else one.rank for one in guesses] == ranks


def _simulated(process: Process, tokens: int) -> float:
    """Acceptance of a chain that is never held up."""
    pair = make_pair(PROFILE, process)
    accepted = judged = 0
    for seed in range(6):
        plan = EdgePlan(Request((seed, 1, 2), tokens, SamplingParams()), chain_arm(), SyntheticDrafter(pair))
        world = World(
            pair, model_info(PROFILE), pool_of(), [plan], seed=seed, fleet=FleetPlan((WorkerPlan(),))
        )
        world.run()
        counts = world.edges[0].session.counts
        accepted, judged = accepted + counts.accepted, judged + counts.judged
    return accepted / judged


@pytest.mark.parametrize("name", ["trace.npz", "trace-t1.npz"])
def test_the_demo_pairs_recordings_replay_with_the_acceptance_that_was_recorded(name: str):
    trace = read_trace(DEMO / name)
    pair = make_pair(PROFILE, Recorded(trace))
    assert (trace.candidates, len(trace.texts)) == (8, 64)
    hits = checked = 0
    for prompt in range(40):
        state = pair.state((prompt, 1, 2))
        for token in decode(pair, (prompt, 1, 2), 800):
            hits, checked = hits + (pair.candidates(state, 1)[0].token == token), checked + 1
            state = pair.follow(state, token)
    assert hits / checked == pytest.approx(trace.acceptance, abs=0.015)
    assert _simulated(Recorded(trace), 500) == pytest.approx(trace.acceptance, abs=0.05)


def test_one_acceptance_is_counted_alike_in_whatever_order_the_hits_come():
    """One text, three drafters; the simulator counts the same share of drafts right."""
    for process in (Profiled(), Iid(), Markov(easy=0.95, hard=0.65)):
        assert _simulated(process, 500) == pytest.approx(0.8, abs=0.05)


def test_the_demo_pairs_recordings_are_small():
    assert sum((DEMO / name).stat().st_size for name in ("trace.npz", "trace-t1.npz")) < 300_000


def test_the_command(tmp_path: Path):
    (tmp_path / "prompts.json").write_text(json.dumps(["def f(x):", "import os"]))
    out = tmp_path / "t.npz"
    given = ["--out", str(out), "--target", str(DEMO / "target"), "--drafter", str(DEMO / "drafter")]
    given += ["--tokens", "6", "--width", "3", "--prompts-file", str(tmp_path / "prompts.json")]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0
    trace = read_trace(out)
    assert [len(text) for text in trace.texts] == [6, 6]
    assert f"2 texts, 12 tokens, 3 candidates each; acceptance {trace.acceptance:.4f}" in done.output
    assert trace.source.prompts == "2 prompts of prompts.json"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--prompts-file", "nowhere.json"], "--prompts-file nowhere.json"),
        (["--target", "nowhere"], "nowhere/tokenizer.json does not exist"),
        (["--top-p", "0"], "top_p"),
        (["--prompts", "100000"], "100000 held-out prompts wanted"),
        (["--out", "/nowhere/t.npz", "--prompts", "1", "--tokens", "1"], "cannot be written"),
        (["--drafter", "nowhere"], "drafter nowhere does not exist"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(given: list[str], says: str, tmp_path: Path):
    usual = [
        "--target",
        str(DEMO / "target"),
        "--drafter",
        str(DEMO / "drafter"),
        "--out",
        str(tmp_path / "t.npz"),
    ]
    with pytest.raises(UserError, match=says) as refused:
        CliRunner().invoke(app, [*usual, *given], catch_exceptions=False)
    assert "\n" not in str(refused.value)
