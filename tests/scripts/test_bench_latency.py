"""The latency benchmark's pure parts: plans, codec, records, what runs say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_client.app import ClientOptions, GenerateOptions
from edge_client.policies import DraftOptions, Mode, Shape
from scripts.bench_latency.ablation import ROWS, ablation_arms
from scripts.bench_latency.arms import (
    CHAIN,
    CLOUD,
    COLOCATED,
    DEFAULT,
    LOOKUP,
    PLAIN,
    SYNC,
    TREE,
    distinct,
    for_pair,
)
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.deployment import Deployment, switches
from scripts.bench_latency.figures import LATE_MS, differences, figures, paired
from scripts.bench_latency.grid import FULL_RTTS_MS, Asked, pair_of, plan_of
from scripts.bench_latency.machine import command_line, cpu_model
from scripts.bench_latency.plan import Pair, Place, Plan
from scripts.bench_latency.presets import PRESETS
from scripts.bench_latency.records import Lookahead, Predicted, Results, from_line, read, to_line
from scripts.bench_latency.simulate import believed, chosen_draft, predictable, simulated_link, tpot_ms
from scripts.bench_latency.statistic import interval, median, percentile_intervals
from scripts.bench_latency.timing import commit_gaps_ms, itl_ms, token_at_ms, ttft_ms
from scripts.bench_latency.timing import tpot_ms as live_tpot_ms
from scripts.wan.profiles import WanProfile, find_profile
from shared.errors import UserError
from shared.sampling import SamplingParams
from shared.security import ClientSecurity
from tests.scripts.latency_results import OVERHEADS, PICTURE, STANDARD, cell, facts, results, run

COMMITS = ((100.0, 1), (130.0, 3), (190.0, 1))

# ---- one run ----


def test_what_commits_say():
    assert ttft_ms(COMMITS) == 100.0
    assert live_tpot_ms(COMMITS) == pytest.approx(90.0 / 4)
    assert itl_ms(COMMITS) == [30.0, 0.0, 0.0, 60.0]
    assert commit_gaps_ms(COMMITS) == [30.0, 60.0]
    assert [token_at_ms(COMMITS, number) for number in (1, 2, 4, 5, 6)] == [100.0, 130.0, 130.0, 190.0, None]


def test_what_too_few_commits_do_not_say():
    assert ttft_ms(()) is None
    assert live_tpot_ms(((5.0, 1),)) is None
    assert live_tpot_ms(((5.0, 3),)) == 0.0
    assert itl_ms(()) == []


# ---- intervals ----


def test_the_bootstrap_is_reproducible_and_holds_the_median():
    samples = [10.0, 11.0, 12.0, 13.0, 20.0]
    one, two = interval(samples, median), interval(samples, median)
    assert one == two
    assert one is not None
    assert one.value == 12.0
    assert 10.0 <= one.low < 12.0 < one.high <= 20.0


def test_an_interval_narrows_with_more_units():
    few = interval([float(n % 7) for n in range(7)], median)
    many = interval([float(n % 7) for n in range(700)], median)
    assert many.high - many.low < few.high - few.low


def test_one_unit_has_no_interval_and_none_has_no_figure():
    assert interval([3.0], median).low is None
    assert interval([], median) is None
    assert interval([None, None], median) is None


def test_the_inverse_swaps_the_ends():
    turned = interval([1.0, 2.0, 4.0], median).inverse()
    assert turned.low <= turned.value == 0.5 <= turned.high


def test_percentiles_pool_values_and_resample_whole_units():
    p50, p99 = percentile_intervals([[0.0] * 50, [10.0] * 50], (50.0, 99.0))
    assert (p50.low, p50.high) == (
        0.0,
        10.0,
    )  # a resample may hold one unit twice: tokens alone would not show that
    assert p99.value == 10.0
    assert percentile_intervals([[], []], (50.0,)) == (None,)


# ---- codec and records ----


@pytest.mark.parametrize(
    "value",
    [
        DraftOptions(mode=Mode.SYNC, shape=Shape.CHAIN, window=3),
        GenerateOptions("text", 5, SamplingParams(temperature=0.5, seed=7)),
        GenerateOptions((1, 2, 3), stop_tokens=()),
        ClientOptions(drafter="none"),
        Plan((cell(link=find_profile("leo")),)),
        OVERHEADS,
    ],
)
def test_values_survive_json(value):
    assert decode(type(value), json.loads(json.dumps(encode(value)))) == value


def test_what_is_unknown_or_of_another_type_is_refused():
    with pytest.raises(ValueError, match="DraftOptions has no window_size"):
        decode(DraftOptions, {"window_size": 3})
    with pytest.raises(ValueError, match="is none of"):
        decode(DraftOptions, {"window": "many"})
    with pytest.raises(ValueError, match="window must be at least 1"):
        decode(GenerateOptions, {"prompt": "x", "draft": {"window": 0}})
    with pytest.raises(ValueError, match="missing 1 required"):
        decode(GenerateOptions, {})


def test_a_file_is_read_back_and_a_line_cut_off_in_writing_left_out(tmp_path):
    place = cell()
    whole = results([place], [run(place, "cloud", 0, tpot=30.0, picture=PICTURE)])
    lines = [to_line(record) for record in (whole.header, *whole.facts, *whole.runs, whole.end)]
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert read(path) == whole
    path.write_text("\n".join(lines)[:-5])
    assert read(path) == replace(whole, end=None)
    assert "cut off after 1 of 9 runs" in read(path).state


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"kind": "Nonsense"}\n')
    with pytest.raises(UserError, match="line 1: of no known kind"):
        read(path)
    path.write_text("")
    with pytest.raises(UserError, match="no results"):
        read(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "absent")
    with pytest.raises(ValueError, match="version 99"):
        from_line(to_line(replace(results([cell()], []).header, version=99)))


# ---- figures ----


def everything(place, tpots, **more):
    return [
        run(place, arm, prompt, tpot=tpot * (1 + prompt), **more)
        for prompt in range(3)
        for arm, tpot in tpots.items()
    ]


def test_ratios_are_paired_by_unit_before_the_median():
    place = cell()
    # Units differ threefold, ratios do not: unpaired, the interval of the ratio would be wide.
    (found,) = figures(
        results([place], everything(place, {"cloud": 30.0, "colocated": 12.0, "slipstream": 15.0}))
    )
    ours = found.arm("slipstream")
    assert ours.to_cloud.value == ours.to_cloud.low == ours.to_cloud.high == pytest.approx(0.5)
    assert ours.to_colocated.value == pytest.approx(1.25)
    assert ours.tpot_ms.value == pytest.approx(30.0)
    assert found.arm("cloud").to_cloud.value == 1.0


def test_pairing_leaves_out_what_only_one_side_has():
    place = cell()
    mine = [run(place, "slipstream", prompt, tpot=10.0) for prompt in (2, 0)]
    others = [run(place, "cloud", prompt, tpot=20.0 + prompt) for prompt in (0, 1)]
    assert paired(mine, others, lambda one: live_tpot_ms(one.commits)) == [pytest.approx(0.5)]


def test_the_round_trip_is_added_to_what_a_distant_user_waits_for_and_to_nothing_else():
    place = cell(rtt_ms=50.0, tokens=120)
    runs = everything(place, {"cloud": 30.0, "colocated": 30.0}, ttft=40.0)
    (found,) = figures(results([place], runs))
    cloud, colocated = found.arm("cloud"), found.arm("colocated")
    assert colocated.ttft_ms.value == cloud.ttft_ms.value + 50.0
    assert colocated.hundredth_ms.value == cloud.hundredth_ms.value + 50.0
    assert colocated.tpot_ms == cloud.tpot_ms


def test_costs_are_per_token():
    place = cell()
    (found,) = figures(results([place], everything(place, {"cloud": 30.0, "slipstream": 15.0})))
    ours = found.arm("slipstream")
    assert (ours.facts_per_token, ours.steps_per_token, ours.mean_accepted) == (3.0, 0.5, 1.0)
    assert (ours.link_up, ours.link_down, ours.message_up) == (100.0, 50.0, 20.0)
    assert ours.acceptance == pytest.approx(0.8)


def test_late_tokens_are_counted():
    place = cell()
    runs = [run(place, "cloud", 0, tpot=30.0), run(place, "slipstream", 0, tpot=60.0, per_commit=3)]
    (found,) = figures(results([place], runs))
    assert found.arm("cloud").late_share == 0.0
    assert found.arm("slipstream").late_share == pytest.approx(3 / 9)
    assert LATE_MS == 150.0


def test_the_simulators_error_is_of_the_median():
    place = cell()
    predicted = [Predicted(place.key, "cloud", prompt, 0, 50.0, 48.0) for prompt in range(3)]
    (found,) = figures(results([place], everything(place, {"cloud": 30.0}), predicted=predicted))
    assert found.arm("cloud").error == pytest.approx(60.0 / 50.0 - 1)
    assert found.arm("cloud").ideal_error == pytest.approx(60.0 / 48.0 - 1)


def test_a_peer_without_statistics_has_times_only():
    place = cell()
    runs = everything(place, {"cloud": 30.0}, stats=None, link_bytes_up=None, link_bytes_down=None)
    (found,) = figures(results([place], runs))
    assert found.arm("cloud").tpot_ms is not None
    assert found.arm("cloud").facts_per_token is None


def test_a_text_that_differs_is_named():
    place = cell()
    runs = everything(place, {"cloud": 30.0, "slipstream": 15.0})
    assert differences(results([place], runs)) == []
    runs[3] = replace(runs[3], tokens=(0, 1, 99, *runs[3].tokens[3:]))
    (found,) = differences(results([place], runs))
    assert (found.arm, found.prompt, found.position) == ("slipstream", 1, 2)
    assert "prompt 1, seed 0: slipstream differs from the reference at token 2" in found.describe()
    (figured,) = figures(results([place], runs))
    assert [arm.identical for arm in figured.arms] == [True, False]


def test_a_shorter_text_differs_and_one_without_reference_is_not_judged():
    place = cell()
    runs = [run(place, "cloud", 0, tpot=30.0), run(place, "slipstream", 0, tpot=30.0, tokens=tuple(range(9)))]
    assert differences(results([place], runs))[0].position == 9
    assert differences(results([place], runs[1:])) == []


# ---- plans ----


def test_the_default_is_short_and_has_both_kinds_of_models():
    plan = plan_of(Asked())
    assert [(one.pair.source.partition(":")[0], one.link.rtt_ms) for one in plan.cells] == [
        ("profiled", 0.0),
        ("profiled", 50.0),
        ("profiled", 100.0),
        ("demo", 50.0),
    ]
    assert {"cloud", "sync", "colocated", "slipstream"} <= {arm.key for arm in plan.cells[0].arms}
    assert {"generate", "assisted"} <= {arm.key for arm in plan.cells[-1].arms}
    assert all(one.reference is not None and one.reference.key == "cloud" for one in plan.cells)


def test_the_full_grid():
    plan = plan_of(Asked(full=True))
    assert [one.link.rtt_ms for one in plan.cells] == [*FULL_RTTS_MS, *FULL_RTTS_MS]


def test_links_are_named_or_given():
    plan = plan_of(Asked(profiles=("lte",), rtts_ms=(7.0,), up_kbit=250.0, pairs=("demo",)))
    assert plan.cells[0].link == find_profile("lte")
    assert plan.cells[1].link == WanProfile(7.0, up_kbit=250.0)
    assert "lte" in plan.cells[0].title
    assert "250 kbit/s up" in plan.cells[1].title


def test_a_deployed_server_has_no_colocated_drafter_and_the_report_says_so():
    plan = plan_of(Asked(deployed=True, emulate=False, rtts_ms=(1.0,)))
    (only,) = plan.cells
    assert not {arm.place for arm in only.arms} & {Place.COLOCATED, Place.PEER}
    assert "co-located" in only.skipped[0]
    assert "as it is" in only.title
    assert only.pair.step_floor_ms == 0.0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(preset="nonsense"), "there is no preset 'nonsense': choose one of acespec"),
        (Asked(pairs=("nonsense",)), "--pair nonsense: expected demo"),
        (Asked(pairs=("profiled:speed=3",)), "speed=3"),
        (Asked(profiles=("nonsense",)), "there is no network profile"),
        (Asked(only=("nonsense",)), "--arm nonsense: choose from cloud, sync"),
        (Asked(rtts_ms=(5.0, 5.0)), "asked for twice"),
    ],
)
def test_what_cannot_be_planned(asked, message):
    with pytest.raises(UserError, match=message):
        plan_of(asked)


def test_some_arms_only_and_always_the_reference():
    plan = plan_of(Asked(rtts_ms=(5.0,), pairs=("demo",), only=("chain",)))
    assert [arm.key for arm in plan.cells[0].arms] == ["cloud", "chain"]


def test_floors_are_part_of_the_pair_and_of_its_name():
    pair = pair_of("profiled:step_ms=10,draft_ms=1", Asked(step_floor_ms=25.0, draft_floor_ms=2.0))
    assert (pair.nominal.step_ms, pair.nominal.draft_ms) == (25.0, 2.0)
    assert "at least 25 ms per verify step" in pair.describe()


def test_an_arm_by_another_name_is_measured_once():
    arms = distinct((CLOUD, DEFAULT, CHAIN, TREE))
    assert [arm.key for arm in arms] == ["cloud", "slipstream", "chain"]
    assert arms[1].name == "Slipstream (default: tree)"
    assert len(distinct((SYNC, COLOCATED))) == 2


def test_peers_are_of_real_models_only():
    profiled, _ = for_pair(STANDARD, deployed=False, peers=True)
    real, _ = for_pair(Pair("demo pair", "demo"), deployed=False, peers=True)
    assert Place.PEER not in {arm.place for arm in profiled}
    assert sum(arm.place is Place.PEER for arm in real) == 2


def test_baselines_have_a_server_that_does_nothing_clever():
    assert {arm.cloud for arm in (CLOUD, SYNC, COLOCATED)} == {PLAIN}
    assert switches(PLAIN) == ["--no-prompt-lookup", "--no-adaptive-patience"]
    assert switches(DEFAULT.cloud) == ["--prompt-lookup", "--adaptive-patience"]
    real, _ = for_pair(Pair("demo pair", "demo"), deployed=False, peers=False)
    profiled, _ = for_pair(STANDARD, deployed=False, peers=False)
    assert LOOKUP in real
    assert LOOKUP not in profiled


def test_the_published_settings():
    assert {f"dsi-{row}" for row in range(1, 11)} | {"acespec"} == set(PRESETS)
    plan = plan_of(Asked(preset="acespec"))
    assert len(plan.cells) == 15
    assert plan.cells[0].link.up_kbit == 100_000.0
    assert "1.75" in plan.cells[0].pair.note
    assert 1000 / plan.cells[0].pair.nominal.step_ms == pytest.approx(13.9, abs=0.05)


def test_every_row_of_the_ablation_differs_from_the_defaults():
    arms = distinct(ablation_arms())
    assert len(arms) == 2 + len(ROWS)
    assert len({arm.key for arm in arms}) == len(arms)


# ---- the simulator ----


def test_the_simulator_is_told_what_was_measured():
    told = believed(STANDARD, OVERHEADS)
    assert told.step_ms == 30.4
    assert told.draft_ms == pytest.approx(3 + ((3.2 - 3.0) + (4.1 - 3.9)) / 2)
    place = cell(rtt_ms=50.0)
    assert simulated_link(place, DEFAULT, OVERHEADS).rtt_ms == pytest.approx(50.6)
    assert simulated_link(place, COLOCATED, OVERHEADS).rtt_ms == pytest.approx(0.6)
    assert simulated_link(place, DEFAULT, None).rtt_ms == 50.0


def test_real_models_are_believed_as_measured():
    told = believed(Pair("demo pair", "demo"), OVERHEADS)
    assert (told.acceptance, told.step_ms, told.draft_ms) == (0.8, 30.4, 3.2)
    assert told.branch_cost == pytest.approx((4.1 - 3.2) / 3 / 3.2)


def test_the_simulator_knows_the_rate_of_a_link():
    draft = DraftOptions()
    free, thin = (
        tpot_ms(STANDARD.profile, WanProfile(50.0, up_kbit=rate), draft, PLAIN, 60, 0) for rate in (0.0, 20.0)
    )
    assert thin > free


def test_what_the_simulator_says_nothing_about():
    assert predictable(cell(link=WanProfile(50.0, loss_percent=1.0))) == ()
    assert predictable(cell(link=find_profile("leo"))) == ()
    arms = (CLOUD, replace(DEFAULT, server=("--kv-cache-mb", "64")))
    assert [arm.key for arm in predictable(cell(arms=arms))] == ["cloud"]


def test_the_lookahead_that_was_chosen_is_used():
    place = cell(arms=(CLOUD, SYNC))
    known = replace(facts(place), lookaheads=(Lookahead("sync", 7, {}, {}),))
    assert chosen_draft(SYNC, known).lookahead == 7
    assert chosen_draft(CLOUD, known) == CLOUD.draft


# ---- what is said about the machine ----


def test_the_command_names_no_place_and_no_host():
    line = command_line(
        ["--out", "/home/someone/x", "--server", "10.1.2.3:5", "--target=/data/models/big", "--rtt", "5"]
    )
    assert line == "python -m scripts.bench_latency --out x --server HOST --target=big --rtt 5"
    assert "10.9.9.9" not in command_line(["--server=10.9.9.9:5"])


def test_the_processors_name():
    assert cpu_model("processor : 0\nmodel name\t: A fast one\nmodel name\t: A fast one\n") == "A fast one"
    assert cpu_model("")


def test_results_need_a_header():
    with pytest.raises(UserError, match="no results"):
        Results.of([facts(cell())])


# ---- how the edge trusts what it dials ----


def trust(server, *, emulate=True, **security):
    deployment = Deployment(
        server=server, emulate=emulate, client=ClientOptions(security=ClientSecurity(**security))
    )
    return deployment.client_options(STANDARD, DEFAULT, "100.64.0.2:1").security


def test_the_emulators_end_is_trusted_as_what_is_beyond_it():
    assert trust(None).insecure_beyond_loopback
    assert trust("127.0.0.1:5").insecure_beyond_loopback
    assert not trust("10.0.0.1:5").insecure_beyond_loopback
    assert trust("10.0.0.1:5", insecure_beyond_loopback=True).insecure_beyond_loopback
    assert trust("cloud.example:5", tls=True).tls_server_name == "cloud.example"
    assert trust("cloud.example:5", tls=True, tls_server_name="other").tls_server_name == "other"
    assert trust("cloud.example:5", emulate=False, tls=True).tls_server_name is None
