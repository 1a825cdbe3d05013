"""The demo: what it compares, chooses and shows; then all of it once, small, in processes of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from scripts.demo import __main__ as command
from scripts.demo.arms import Sample, arms
from scripts.demo.compare import Difference, differences, first_difference
from scripts.demo.lookahead import LOOKAHEADS, PROBE, UNMEASURED, Measured, choose
from scripts.demo.report import Emulated, rows, table
from scripts.demo.view import LiveView, PlainView
from scripts.processes import ROOT

MODELS = ROOT / "models" / "demo"

SAMPLE = Sample(
    arm="cloud",
    prompt=0,
    tokens=(1, 2, 3),
    text="abc",
    ttft_ms=100.0,
    tpot_ms=40.0,
    acceptance_rate=None,
    drafted=0,
    sent=0,
    verified=0,
    stale=0,
    steps=3,
    self_decoded=3,
    reconnects=0,
    link_bytes_up=30,
    link_bytes_down=120,
    message_bytes_up=15,
    message_bytes_down=60,
)
EMULATED = Emulated(60.0, 0.0, 0.0, 0.0, 40.0, 0.0)


@pytest.mark.parametrize(
    ("one", "other", "position"),
    [
        ((), (), None),
        ((1, 2), (1, 2), None),
        ((1, 2), (1, 3), 1),
        ((1, 2), (1,), 1),
        ((), (7,), 0),
        ((5,), (6,), 0),
    ],
)
def test_the_first_difference(one, other, position):
    assert first_difference(one, other) == position


def test_equal_texts_have_no_differences():
    assert differences([SAMPLE, replace(SAMPLE, arm="sync"), replace(SAMPLE, arm="stream")], "cloud") == []


def test_a_text_that_differs_is_named_by_prompt_arm_and_position():
    samples = [
        SAMPLE,
        replace(SAMPLE, prompt=1, tokens=(4, 5)),
        replace(SAMPLE, arm="sync", tokens=(1, 2)),
        replace(SAMPLE, arm="sync", prompt=1, tokens=(4, 5)),
        replace(SAMPLE, arm="stream", tokens=(1, 2, 3)),
        replace(SAMPLE, arm="stream", prompt=1, tokens=(4, 6)),
    ]
    found = differences(samples, "cloud")
    assert found == [Difference(0, "sync", 2, 3, None), Difference(1, "stream", 1, 5, 6)]
    assert found[1].describe() == (
        "prompt 2: stream differs from the cloud alone at token 1: token 6 instead of token 5"
    )
    assert "the end instead of token 3" in found[0].describe()


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="has no text for prompt 3"):
        differences([SAMPLE, replace(SAMPLE, arm="sync", prompt=3)], "cloud")


def test_rows_weigh_by_tokens_and_compare_with_the_first_arm():
    ways = arms(4)
    samples = [
        SAMPLE,
        replace(SAMPLE, prompt=1, tokens=(1,) * 11, tpot_ms=46.0, ttft_ms=200.0),
        replace(SAMPLE, arm="sync", tpot_ms=20.0, acceptance_rate=0.5),
        replace(SAMPLE, arm="sync", prompt=1, tokens=(1,) * 11, tpot_ms=23.0, acceptance_rate=0.5),
        replace(SAMPLE, arm="stream", tpot_ms=None),
        replace(SAMPLE, arm="stream", prompt=1, tokens=(1,) * 11, tpot_ms=15.0, acceptance_rate=0.9),
    ]
    cloud, sync, stream = rows(ways, samples, [Difference(0, "stream", 2, 3, None)])
    assert cloud.tpot_ms == pytest.approx((40 * 2 + 46 * 10) / 12)
    assert (cloud.speed, sync.speed, stream.speed) == pytest.approx((1.0, 2.0, 3.0))
    assert cloud.ttft_ms == 150.0
    assert cloud.link_bytes_per_token_up == pytest.approx(60 / 14)
    assert (cloud.acceptance_rate, sync.acceptance_rate, stream.acceptance_rate) == (None, 0.5, 0.9)
    assert (cloud.identical, sync.identical, stream.identical) == (True, True, False)
    text = rendered(table([cloud, sync, stream], EMULATED))
    assert "3.00x" in text
    assert "step floor: stands for a larger target" in text
    assert "60 ms round trip" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_better_drafter_gets_a_longer_lookahead():
    def chosen(acceptance: float) -> int:
        cycle_ms = 60.0 + 40.0 + 2.0 * PROBE
        choice = choose(
            Measured(acceptance, step_ms=40.0, cycle_ms=cycle_ms, rtt_ms=60.0, draft_floor_ms=0.0)
        )
        assert set(choice.predicted_tpot_ms) == set(LOOKAHEADS)
        assert choice.predicted_tpot_ms[choice.lookahead] == min(choice.predicted_tpot_ms.values())
        assert f"lookahead {choice.lookahead}," in choice.describe()
        assert "2.0 ms per draft" in choice.describe()
        return choice.lookahead

    assert chosen(0.3) < chosen(0.7) < chosen(0.97)


def test_drafting_takes_at_least_its_floor():
    figures = Measured(0.5, step_ms=40.0, cycle_ms=95.0, rtt_ms=60.0, draft_floor_ms=3.0).figures()
    assert figures is not None
    assert figures.draft_ms == 3.0


def test_without_a_measured_pair_the_lookahead_is_said_to_be_a_default():
    choice = choose(Measured(None, 40.0, 100.0, 60.0, 0.0))
    assert choice.lookahead == UNMEASURED
    assert "too few tokens" in choice.describe()


def play_a_prompt(view: LiveView | PlainView) -> None:
    with view:
        view.prompt(0, 2, "import this\ndef [bold]main")
        view.begin("cloud")
        for number in range(50):
            view.text("cloud", f"\n\tline {number}")
            view.tokens("cloud", 3)
        view.finish("cloud", 150, 41.0, 0)
        view.begin("stream")
        view.text("stream", "()")
        view.tokens("stream", 1)
        view.finish("stream", 1, None, 12)


def test_the_panels_show_the_end_of_each_text():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20)
    view = LiveView(console, {"cloud": "cloud alone", "stream": "Slipstream"})
    play_a_prompt(view)
    shown = rendered(view._paint(), width=100)
    assert "line 49" in shown
    assert "line 1 " not in shown
    assert "def [bold]main()" in shown  # text is text, never markup
    assert "150 tokens, 41.0 ms each" in shown
    assert "12 drafted" in shown
    assert len(shown.splitlines()) <= 20


def test_the_plain_view_says_that_it_is_plain():
    out = io.StringIO()
    play_a_prompt(PlainView(Console(file=out, width=100), {"cloud": "cloud alone", "stream": "Slipstream"}))
    assert "Plain output: standard output is no terminal" in out.getvalue()
    assert "prompt 1 of 2: ...def [bold]main\n" in out.getvalue()
    assert "  cloud alone: 150 tokens, 41.0 ms each\n" in out.getvalue()


@pytest.mark.parametrize(("same", "code"), [(True, 0), (False, 1)])
def test_texts_that_differ_fail_the_demo(monkeypatch, same, code):
    monkeypatch.setattr(command, "demo", lambda settings: same)
    assert CliRunner().invoke(command.app, []).exit_code == code


def rendered(thing: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


def start(*options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "scripts.demo", "--rtt-ms", "5", "--step-floor-ms", "1", *options]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def descendants_of_session(leader: int) -> list[int]:
    """Processes of the session that the demo leads; a child's own process group stays within it."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and session_of(int(entry.name)) == leader
    ]


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_the_whole_demo_small(tmp_path):
    figures = tmp_path / "demo.json"
    running = start("--prompts", "1", "--tokens", "8", "--json", str(figures))
    out, err = running.communicate(timeout=110)
    assert running.returncode == 0, err
    assert "Emulated: network 5 ms round trip" in out
    assert "are the same in all arms, token by token" in out
    assert "Slipstream" in out
    document = json.loads(figures.read_text())
    assert document["identical"] is True
    assert {len(sample["tokens"]) for sample in document["samples"]} == {8}
    assert [line["arm"] for line in document["arms"]] == ["cloud", "sync", "stream"]
    assert document["emulated"]["step_floor_ms"] == 1.0
    assert descendants_of_session(running.pid) == []


def test_ctrl_c_leaves_nobody_behind():
    with start("--prompts", "1", "--tokens", "400") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while "All on this machine" not in running.stdout.readline():
            assert running.poll() is None, running.stderr.read()
        assert len(descendants_of_session(running.pid)) == 3
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert descendants_of_session(running.pid) == []


def test_a_missing_model_is_the_users_business(tmp_path):
    running = start("--target", str(tmp_path / "nothing"))
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (2, "")
    assert err.startswith("demo: the target ")
    assert len(err.splitlines()) == 1
