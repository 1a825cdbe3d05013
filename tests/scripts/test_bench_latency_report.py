"""The latency benchmark's verdicts, tables and report."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from scripts.bench_latency.arms import CLOUD, DEFAULT
from scripts.bench_latency.check import LOSS, RULES, CheckSize, check_plan, judge
from scripts.bench_latency.check_report import show_verdicts, word
from scripts.bench_latency.figures import differences, figures
from scripts.bench_latency.plots import plots
from scripts.bench_latency.presets import profiled_pair
from scripts.bench_latency.records import Predicted
from scripts.bench_latency.report import html, write_report
from scripts.bench_latency.tables import show
from shared.errors import UserError
from tests.scripts.latency_results import PICTURE, cell, facts, results, run


def verdicts(rule, given):
    return [one for one in judge(given) if one.rule == rule]


def played(place, tpots, **more):
    return [run(place, arm, prompt, tpot=tpot, **more) for prompt in range(3) for arm, tpot in tpots.items()]


# ---- what must hold ----


def test_the_check_looks_at_every_cell_once():
    plan = check_plan((), CheckSize())
    rtts = [one.link.rtt_ms for one in plan.cells if "several" not in one.title and not one.link.loss_percent]
    assert len(rtts) == 5 * 6
    assert len({one.key for one in plan.cells}) == len(plan.cells) == 32
    assert all(len(one.units) * one.tokens >= 2000 for one in plan.cells)
    (loss,) = [one for one in plan.cells if one.link == LOSS]
    assert len(loss.units) * loss.tokens >= 5000
    standard = next(one for one in plan.cells if one.pair.profile.acceptance == 0.8)
    assert {"cloud", "sync", "colocated", "slipstream", "chain"} <= {arm.key for arm in standard.arms}
    with pytest.raises(UserError, match="--only nonsense: choose from never-slower"):
        check_plan(("nonsense",), CheckSize())


@pytest.mark.parametrize(("tpot", "passed"), [(30.8, True), (31.0, False)])
def test_never_slower_than_the_cloud_alone(tpot, passed):
    place = cell(pair=profiled_pair("profiled:acceptance=0,step_ms=30,draft_ms=3"))
    (found,) = verdicts("never-slower", results([place], played(place, {"cloud": 30.0, "slipstream": tpot})))
    assert found.passed is passed
    assert f"{tpot / 30:.3f}" in found.measured


@pytest.mark.parametrize(
    ("rtt", "tpot", "passed"), [(50.0, 15.9, True), (50.0, 16.1, False), (200.0, 25.0, True)]
)
def test_targets(rtt, tpot, passed):
    place = cell(rtt_ms=rtt)
    (found,) = verdicts("targets", results([place], played(place, {"cloud": 30.0, "slipstream": tpot})))
    assert found.passed is passed


def test_there_is_no_target_for_other_pairs_and_links():
    other = cell(rtt_ms=50.0, pair=profiled_pair("profiled:acceptance=0.5,step_ms=30,draft_ms=3"))
    far = cell(rtt_ms=70.0)
    runs = [*played(other, {"slipstream": 99.0}), *played(far, {"slipstream": 99.0})]
    assert verdicts("targets", results([other, far], runs)) == []


def test_thin_links():
    (place,) = [one for one in check_plan(("rates",), CheckSize(3, 10)).cells if "several" in one.title]
    runs = played(place, {"slipstream": 20.0, "rate250": 20.9, "rate50": 25.0})
    found = verdicts("rates", results([place], runs))
    assert [one.passed for one in found] == [True, False]
    assert verdicts("never-slower", results([place], runs)) == []


@pytest.mark.parametrize(
    ("late", "cannot_show", "tokens", "passed"),
    [
        (29.0, "", 1700, True),
        (200.0, "", 1700, False),
        (29.0, "lost packets", 1700, None),
        (29.0, "", 100, None),
    ],
)
def test_loss(late, cannot_show, tokens, passed):
    place = cell(link=LOSS, arms=(CLOUD, DEFAULT), tokens=tokens)
    given = results(
        [place],
        played(place, {"cloud": 30.0, "slipstream": late}),
        known=[facts(place, cannot_show)],
    )
    (found,) = verdicts("loss", given)
    assert found.passed is passed


@pytest.mark.parametrize(("tpot", "passed"), [(32.9, True), (33.1, False), (26.9, False)])
def test_the_simulator_is_within_a_tenth(tpot, passed):
    place = cell()
    predicted = [Predicted(place.key, "cloud", prompt, 0, 30.0, 30.0) for prompt in range(3)]
    (found,) = verdicts("simulator", results([place], played(place, {"cloud": tpot}), predicted=predicted))
    assert found.passed is passed


def test_a_text_that_differs_fails_the_check():
    place = cell()
    runs = played(place, {"cloud": 30.0, "slipstream": 15.0})
    runs[1] = replace(runs[1], tokens=(5,))
    assert judge(results([place], runs))[0].passed is False
    assert judge(results([place], played(place, {"cloud": 30.0})))[0].passed is True


def test_verdicts_are_printed():
    place = cell()
    found = judge(results([place], played(place, {"cloud": 30.0, "slipstream": 40.0})))
    out = io.StringIO()
    show_verdicts(found, Console(file=out, width=200))
    assert "FAIL" in out.getvalue()
    assert "PASS" in out.getvalue()
    assert {word(one) for one in found} == {"PASS", "FAIL", "?"}
    assert set(RULES) >= {one.rule for one in found} - {"identical", "size"}


def test_few_tokens_are_admitted():
    small, large = cell(), cell(tokens=700)
    assert verdicts("size", results([small], played(small, {"cloud": 30.0})))[0].passed is None
    assert verdicts("size", results([large], played(large, {"cloud": 30.0})))[0].passed is True


# ---- table and report ----


def sample(**more):
    places = [cell(rtt_ms=rtt) for rtt in (0.0, 50.0)]
    runs = [
        replace(one, picture=PICTURE) if (one.arm, one.prompt) == ("slipstream", 0) else one
        for place in places
        for one in played(place, {"cloud": 30.0, "colocated": 12.0, "slipstream": 15.0})
    ]
    known = [facts(place, "lost packets") for place in places]
    return results(places, runs, known=known, **more)


def page(given):
    """Without plots, which take seconds."""
    return html(given, figures(given), differences(given), [])


def test_the_report_is_one_file_that_fetches_nothing(tmp_path):
    given = sample()
    write_report(given, figures(given), differences(given), tmp_path)
    text = (tmp_path / "report.html").read_text()
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "DATA", text)
    assert "http" not in outside
    assert "<script" not in outside
    assert "<link" not in outside
    assert re.findall(r'(?:src|srcset|href)="([^"]*)"', outside) == ["DATA"] * 2 * 3
    assert "url(" not in outside
    assert "prefers-color-scheme: dark" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        "tpot.png",
        "itl.png",
        "timeline.png",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))


def test_the_report_says_what_it_is_of():
    text = page(sample())
    for said in (
        "SI co-located",
        "emulated by proxy; it cannot show lost packets",
        "python -m scripts.bench_latency",
        "30/3 ms",
    ):
        assert said in text
    assert "Partial" not in text
    assert "Every text is the same" in text


def test_a_partial_report_says_so():
    whole = sample()
    cut = replace(whole, runs=whole.runs[:4], end=replace(whole.end, outcome="interrupted", runs=4))
    text = page(cut)
    assert "Partial: interrupted after 4 of 18 runs" in text


def test_a_report_of_nothing_is_still_one():
    nothing = results([cell()], [], outcome="interrupted", known=[])
    assert "Partial: interrupted after 0 of 9 runs" in page(nothing)
    assert plots(nothing, figures(nothing)) == []
    barely = results([cell()], [run(cell(), "slipstream", 0, tpot=15.0)], outcome=None, known=[])
    assert "cut off after 1 of 9 runs" in page(barely)
    assert [plot.name for plot in plots(barely, figures(barely))] == ["itl"]


def test_texts_that_differ_head_the_report():
    given = sample()
    runs = (given.runs[0], given.runs[1], replace(given.runs[2], tokens=(1,)), *given.runs[3:])
    text = page(replace(given, runs=runs))
    assert "FAILED: texts differ" in text
    assert "differs from the reference at token 0" in text


def test_the_check_report_has_its_verdicts():
    assert "What must hold" in page(sample(name="check"))


def test_several_cells_at_a_time_are_admitted():
    assert "2 cells ran side by side" in page(sample(jobs=2))


def test_the_table():
    out = io.StringIO()
    given = sample(outcome="interrupted")
    show(given, figures(given), differences(given), Console(file=out, width=200))
    text = out.getvalue()
    assert "2.00" in text
    assert "it cannot show lost packets" in text
    assert "interrupted after 18 of 18 runs" in text
    assert "50 ms were added to their TTFT" in text
