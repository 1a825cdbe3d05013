"""The simulator against the live runtime: its accounting, its verdict, its files, and a tiny run of both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from scripts.validate import execute as executing
from scripts.validate.__main__ import app
from scripts.validate.configuration import PATIENCE_MS, STEP_MS, Configuration, Policy
from scripts.validate.execute import Journal, execute, measure, predict
from scripts.validate.figures import Figures, Generation, error, figures_of
from scripts.validate.grid import GRID, QUICK
from scripts.validate.overheads import NONE, Overheads
from scripts.validate.page import page
from scripts.validate.plot import plot
from scripts.validate.records import Header, Measured, Results, Row, Simulated, read, to_line
from scripts.validate.simulated import simulate
from scripts.validate.verdict import LEAST_ROWS, aims, summaries
from scripts.wan.link import Enforcer
from shared.errors import UserError
from shared.profiled import parse_profile

SMALL = Configuration(Policy.CHAIN, 4.0, 0.8, clients=2, tokens=24, generations=2, stretch=1.0)
FIGURES = Figures(15.0, 60.0, 80.0, 0.0, 30.0, 0.8, 1.6)


def generation(client, asked_ms, *commits):
    times, sizes = zip(*commits, strict=True)
    return Generation(client, asked_ms, times, sizes, facts=2 * sum(sizes), accepted=1, judged=2)


def measured(configuration=SMALL, figures=FIGURES, wrong=0):
    return Measured(configuration, figures, wrong, 0.1, 0.2, 0.1, 0.15, 0.0)


def row(number=0, told=FIGURES, ideal=FIGURES, wrong=0):
    configuration = replace(SMALL, rtt_ms=float(number))
    return Row(measured(configuration, wrong=wrong), Simulated(configuration, told, ideal))


def faster(share):
    return replace(FIGURES, tpot_ms=FIGURES.tpot_ms * (1 - share))


# ---- the accounting ----


def test_one_generation():
    found = figures_of([generation(0, 10.0, (50.0, 1), (80.0, 3), (110.0, 1))], stretch=1.0)
    assert found.tpot_ms == 60.0 / 4
    assert found.ttft_ms == 40.0
    assert found.tokens_per_s == pytest.approx(4 / 0.060)  # the first token is where the time begins
    assert found.facts_per_token == 2.0
    assert found.acceptance == 0.5
    assert (found.itl_p50_ms, found.itl_p95_ms) == (15.0, 30.0)  # 0, 0, 30, 30


def test_the_rate_is_taken_while_every_client_is_served():
    early = [generation(0, 0.0, (10.0, 5), (20.0, 5), (30.0, 1), (40.0, 1))]
    late = [generation(1, 0.0, (20.0, 1), (40.0, 1), (60.0, 7))]
    found = figures_of([*early, *late], stretch=1.0)
    assert found.tokens_per_s == pytest.approx(3 / 0.020)
    with pytest.raises(ValueError, match="never all served"):
        figures_of([*early, generation(1, 0.0, (40.0, 1), (60.0, 7))], stretch=1.0)


def test_figures_are_unstretched():
    commits = ((50.0, 1), (80.0, 3), (110.0, 1))
    plain = figures_of([generation(0, 10.0, *commits)], stretch=1.0)
    slower = figures_of([generation(0, 40.0, *((4 * at, size) for at, size in commits))], stretch=4.0)
    assert slower == plain


def test_an_error_says_how_far_the_prediction_is_off():
    assert error(90.0, 100.0) == pytest.approx(-0.1)
    assert error(0.0, 0.0) is None
    assert error(None, 1.0) is None


# ---- configurations ----


def test_everything_is_stretched_alike():
    slow = replace(SMALL, policy=Policy.TREE_PATIENT, rtt_ms=14.0, stretch=4.0)
    assert parse_profile(slow.source) == slow.pair
    assert (slow.pair.step_ms, slow.pair.draft_ms) == (4 * STEP_MS, 12.0)
    assert slow.stretched_rtt_ms == 56.0
    assert slow.draft.patience_ms == 4 * PATIENCE_MS


def test_the_grid_spreads_over_all_there_is():
    assert len(set(GRID)) == len(GRID) >= LEAST_ROWS
    assert {one.rtt_ms for one in GRID} == {0.0, 14.0, 50.0, 100.0, 200.0}
    assert {one.acceptance for one in GRID} == {0.0, 0.3, 0.6, 0.8, 0.95}
    assert {one.policy for one in GRID} == set(Policy)
    assert {one.clients for one in GRID} == {1, 4, 16}
    assert {one.workers for one in GRID} == {1, 2, 3, 4}
    assert {one.sp_degree for one in GRID} == {1, 2, 3}
    assert set(QUICK) < set(GRID)
    assert len({one.key for one in GRID}) == len(GRID)


# ---- the simulated side ----


def test_the_cloud_alone_takes_a_step_a_token_and_what_it_is_told():
    alone = replace(SMALL, policy=Policy.CLOUD, clients=1, tokens=8)
    assert figures_of(simulate(alone, NONE), 1.0).tpot_ms == STEP_MS
    told = figures_of(simulate(alone, Overheads(step_ms=0.5, message_ms=1.0)), 1.0)
    assert told.tpot_ms == STEP_MS + 0.5
    assert told.ttft_ms == pytest.approx(STEP_MS + 0.5 + 4.0 + 2.0)


def test_stretching_changes_nothing_in_a_world_without_overheads():
    """Policies that know some time in ms see a difference; a block and its verdict does not."""
    sync = replace(SMALL, policy=Policy.SYNC)
    one, four = (
        figures_of(simulate(replace(sync, stretch=stretch), NONE), stretch) for stretch in (1.0, 4.0)
    )
    assert four.tpot_ms == pytest.approx(one.tpot_ms)
    assert four.tokens_per_s == pytest.approx(one.tokens_per_s)


def test_every_client_writes_what_it_is_asked_for():
    found = simulate(SMALL, NONE)
    assert sorted(one.client for one in found) == [0, 0, 1, 1]
    assert {one.tokens for one in found} == {SMALL.tokens}


# ---- the verdict ----


def test_the_median_and_the_worst_are_held_to_their_limits():
    def verdicts(shares):
        return [aim.met for aim in aims([row(number, faster(one)) for number, one in enumerate(shares)])]

    many = LEAST_ROWS - 1
    assert verdicts([0.05] * many + [0.19]) == [True, True, True]
    assert verdicts([0.05] * many + [0.21]) == [True, False, True]
    assert verdicts([0.11] * (many + 1)) == [True, False, True]
    assert verdicts([-0.11] * (many + 1)) == [True, False, True]
    assert verdicts([0.5] * many) == [True, None, None]
    assert aims([row(wrong=1)])[0].met is False


def test_a_summary_names_the_worst_row_and_compares_medians_that_may_be_zero_in_ms():
    rows = [row(1, faster(0.02)), row(2, faster(0.04)), row(3, replace(FIGURES, itl_p50_ms=5.0))]
    found = {one.field: one for one in summaries(rows)}
    assert found["tpot_ms"].worst == pytest.approx(0.04)
    assert found["tpot_ms"].worst_key == rows[1].configuration.key
    assert found["tpot_ms"].median == pytest.approx(0.02)
    assert found["tpot_ms"].ideal_worst == 0.0
    assert found["itl_p50_ms"].worst == 5.0


# ---- files ----


def results(*records):
    header = Header("python -m scripts.validate", {"cpu": "some"}, "today", "proxy", Overheads(0.4, 0.2, 0.3))
    return Results(
        header,
        tuple(one for one in records if isinstance(one, Measured)),
        tuple(one for one in records if isinstance(one, Simulated)),
    )


def test_a_file_is_read_back_and_another_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    kept = results(measured(), Simulated(SMALL, FIGURES, FIGURES))
    path.write_text("".join(to_line(one) + "\n" for one in kept.records) + '{"kind": "Meas')
    assert read(path) == kept
    path.write_text('{"kind": "Run"}\n')
    with pytest.raises(UserError, match="no known kind"):
        read(path)
    path.write_text(to_line(measured()) + "\n")
    with pytest.raises(UserError, match="first line"):
        read(path)


def test_only_what_is_missing_is_run_and_everything_is_written_as_it_comes(tmp_path, monkeypatch):
    done, begun, left = (replace(SMALL, rtt_ms=rtt_ms) for rtt_ms in (1.0, 2.0, 3.0))
    path = tmp_path / "rows.jsonl"
    kept = results(measured(done), measured(begun), Simulated(done, FIGURES, FIGURES))
    asked, written = [], []
    monkeypatch.setattr(executing, "measure", lambda one, _: asked.append(one) or measured(one))
    monkeypatch.setattr(executing, "predict", lambda one, _: asked.append(one) or row(one.rtt_ms).simulated)
    with Journal(path, kept) as journal:
        execute(
            journal,
            [done, begun, left],
            None,
            1,
            lambda _: written.append(len(path.read_text().splitlines())),
        )
    assert asked == [left, begun, left]
    assert written == [5, 6, 7]
    assert read(path) == journal.results
    assert [one.configuration for one in journal.results.rows()] == [done, begun, left]


def test_the_page_and_its_plot_are_made_again_from_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row(number, faster(0.03)) for number in range(LEAST_ROWS)]
    kept = results(*(one.measured for one in rows), *(one.simulated for one in rows))
    path.write_text("".join(to_line(one) + "\n" for one in kept.records))
    done = CliRunner().invoke(app, ["report", str(path), "--page", str(tmp_path / "docs" / "some.md")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "docs" / "images" / "some.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "docs" / "some.md").read_text()
    assert "images/some.png" in text
    assert "TPOT predicted within 10% in the median and 20% at worst: 3.0%" in text
    assert "0.40 ms between two steps" in text
    assert str(tmp_path) not in text


def test_too_far_off_is_an_exit_code(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row(number, faster(0.3)) for number in range(LEAST_ROWS)]
    kept = results(*(one.measured for one in rows), *(one.simulated for one in rows))
    path.write_text("".join(to_line(one) + "\n" for one in kept.records))
    assert CliRunner().invoke(app, ["report", str(path)]).exit_code == 1
    assert "**not met**" in page(kept, rows, "x.png")
    assert plot(rows).startswith(b"\x89PNG")


# ---- both sides ----


def test_two_clients_live_and_simulated():
    """A server, an emulator and two clients. Loose: what the machine does meanwhile is measured as well."""
    found = measure(SMALL, Enforcer.PROXY)
    assert found.wrong == 0
    told = predict(SMALL, NONE).told
    assert 0.9 * told.tpot_ms < found.figures.tpot_ms < 3.0 * told.tpot_ms
    assert found.figures.facts_per_token > 1.0
    assert found.figures.acceptance == pytest.approx(told.acceptance, abs=0.15)
