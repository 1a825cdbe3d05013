from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.simulate import __main__ as simulate
from scripts.simulate.load import digest, load, parse_override
from shared.errors import UserError

GOOD = """\
name: small
duration_s: 10
workloads:
  chat: { prompt_tokens: 20, output_tokens: { kind: uniform, least: 5, most: 9 } }
fleets:
  - name: phones
    count: 2
    network: lte
    workload: chat
    drafter: { step_ms: 3, acceptance: 0.8 }
  - { name: readers, count: 1, network: { rtt_ms: 10 }, workload: chat }
servers:
  - workers: [{ hardware: { step_ms: 30 } }]
"""


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def refused(path: Path, *settings: str) -> str:
    """The one line by which a scenario with these changes is refused."""
    with pytest.raises(UserError) as error:
        load(path, dict(map(parse_override, settings)))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- one line that names the key and the range ----


WRONG = [
    # A change, and the line that it is refused with; ~ stands for the key that is changed.
    ("fleets[0].drafter.step_ms=-3", "~: -3 is not a number from 0.001 to 60,000"),
    ("fleets[0].count=0", "~: 0 is not a whole number from 1 to 100,000"),
    ("fleets[0].count=200000", "~: 200000 is not a whole number from 1 to 100,000"),
    ("fleets[0].count=2.5", "~: 2.5 is not a whole number from 1 to 100,000"),
    ("fleets[0].count=true", "~: true is not a whole number from 1 to 100,000"),
    ("fleets[0].count='2'", "~: '2' is not a whole number from 1 to 100,000"),
    ("servers[0].workers[0].count=5000", "~: 5000 is not a whole number from 1 to 4,096"),
    ("duration_s=100000", "~: 100000 is not a number from 0.001 to 86,400"),
    ("duration_s=.nan", "~: nan is not a number from 0.001 to 86,400"),
    ("duration_s=.inf", "~: inf is not a number from 0.001 to 86,400"),
    ("duration_s=null", "~: null is not a number from 0.001 to 86,400"),
    ("seed=-1", "~: -1 is not a whole number from 0 to "),
    ("fleets[0].drafter.acceptance=1.2", "~: 1.2 is not a number from 0 to 1"),
    ("fleets[0].network={rtt_ms: -1}", "~.rtt_ms: -1 is not a number from 0 to 60,000"),
    ("slo=[{ttft_ms: -1}]", "~[0].ttft_ms: -1 is not a number from 0 to 3,600,000"),
    ("slo=[{ttft_ms: 1, share: 95}]", "~[0].share: 95 is not a number from 0 to 1"),
    ("workloads.chat.prompt_tokens=0", "~: 0 is not a number from 1 to 1,000,000"),
    (
        "workloads.chat.output_tokens={kind: uniform, least: 0, most: 3}",
        "~.least: 0 is not a number from 1 to 1,000,000",
    ),
    ("workloads.chat.output_tokens={kind: uniform, least: 9, most: 3}", "~.least: 9 is more than most, 3"),
    (
        "workloads.chat.output_tokens={kind: choice, values: [1, 2], weights: [1]}",
        "~.weights: 1 weights for 2 values",
    ),
    ("workloads.chat.output_tokens={kind: choice, values: []}", "~.values: must have at least 1"),
    ("fleets[0].network=lte5", "~: 'lte5' is no network profile (did you mean lte?): one of "),
    ("fleets[0].workload=chatt", "~: 'chatt' is no workload (did you mean chat?): one of chat"),
    (
        "slo=[{fleet: phone, ttft_ms: 1}]",
        "~[0].fleet: 'phone' is no fleet (did you mean phones?): one of phones, readers",
    ),
    ("fleets[0].drafting={mode: strem}", "~.mode: 'strem' is no mode (did you mean stream?)"),
    ("servers[0].policies={routing: fast}", "~.routing: 'fast' is no routing: one of random, round-robin, "),
    ("fleets[0].drafter.acceptance={process: markof}", "~: 'markof' is no process (did you mean markov?)"),
    ("fleets[0].drafter.acceptance={rate: 1}", "~.process: is missing (profiled, iid, markov, trace)"),
    ("fleets[0].arrivals={per_s: 1}", "~.kind: is missing (closed, poisson, uniform, trace)"),
    ("workloads.chat.prompt_tokens={value: 1}", "~.kind: is missing (constant, uniform, "),
    ("prices={currency: dollars}", "~.currency: 'dollars' is not three capital letters"),
    ("name=-x", "~: '-x' is not letters, digits"),
    ("name=''", "~: '' is not letters, digits"),
    ("fleets[1].name=phones", "~: 'phones' is the name of another one already"),
    (
        "fleets[0].drafter={stepms: 3, acceptance: 1}",
        "~.stepms: unknown key (did you mean step_ms?): one of step_ms, ",
    ),
    ("durations=3", "~: unknown key (did you mean duration_s?): one of name, "),
    ("fleets[0].drafter={step_ms: 3}", "~.acceptance: is missing ("),
    ("fleets[0].arrivals={kind: poisson}", "~.per_s: is missing (1e-05 to 1,000,000)"),
    ("servers[0].workers=[{}]", "~[0].hardware: is missing (mapping of file, step_ms, "),
    ("fleets=[]", "~: must have at least 1"),
    ("servers=[]", "~: must have at least 1"),
    ("servers[0].workers=[]", "~: must have at least 1"),
    ("workloads={}", "~: must have at least 1"),
    ("fleets[0].network={jitter_ms: 3}", "~: give a profile (ideal, lan, "),
    ("slo=[{}]", "~[0]: give at least one of ttft_ms, tpot_ms, itl_ms"),
    (
        "workloads.chat={prompt_tokens: 3}",
        "~: give prompt_tokens and output_tokens (1 to 1,000,000 each), or file",
    ),
    ("servers[0].workers[0].hardware={flat_nodes: 3}", "~: give either file or step_ms"),
    ("fleets=3", "~: 3 is not a list"),
    ("fleets=abc", "~: 'abc' is not a list"),
    ("fleets[0]=3", "~: 3 is not a mapping of keys"),
    ("workloads=[1]", "~: [1] is not a mapping of names"),
    ("servers[0].policies={prompt_lookup: 1}", "~.prompt_lookup: 1 is not true or false"),
    ("description=[1]", "~: [1] is not text"),
    ("fleets[0].workload=[1]", "~: [1] is not a text"),
    ("warm_up_s=10", "~: 10 is not below duration_s, 10"),
    ("servers[0].workers[0].memory={gb: 3}", "~.kv_bytes_per_token: is missing (1 to 100,000,000)"),
    ("servers[0].workers[0].memory={gb: 3, tokens: 90}", "~: give either tokens"),
    ("servers[0].workers[0].memory={tokens: 90, kv_bytes_per_token: 9}", "~.kv_bytes_per_token: "),
    ("fleets[0].drafter.acceptance={process: markov, easy: 0.5}", "~.hard: 0.62 is above easy, 0.5"),
    (
        "fleets[0].drafter.acceptance={process: markov, stay_easy: 1, stay_hard: 1}",
        "~.stay_hard: stay_easy is 1 as well",
    ),
    (
        "fleets[0].network={rtt_ms: 3, outage: {every_s: 1, lasts_ms: 1000}}",
        "~.outage.lasts_ms: 1000 is not below",
    ),
    (
        "servers=[{name: a, workers: [{hardware: {step_ms: 1}}, {hardware: {step_ms: 2}}]}]",
        "~[0].workers[1].name: 'worker' is the name of another group",
    ),
    ("workloads.chat={file: none.csv}", "~.file: there is no file "),
    ("servers[0].workers[0].hardware=none.json", "~: there is no file "),
    ("fleets[0].drafter.acceptance={process: trace, file: none.npz}", "~.file: there is no file "),
    ("workloads.chat={file: 3}", "~.file: 3 is not the name of a .csv or .jsonl file"),
]


@pytest.mark.parametrize(("setting", "line"), WRONG)
def test_a_wrong_value_is_told_in_one_line(good, setting, line):
    key = setting.partition("=")[0]
    assert refused(good, setting).startswith(f"--set {key}: {line.replace('~', key)}")


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (
            "[{at_s: 3, event: explode}]",
            "[0].event: 'explode' is no event: one of join, drain, crash, freeze",
        ),
        ("[{at_s: -3, event: crash}]", "[0].at_s: -3 is not a number from 0 to 86,400"),
        ("[{at_s: 3, event: crash, workers: [1]}]", "[0].workers: 1 is not a worker from 0 to 0"),
        ("[{at_s: 3, event: crash, workers: []}]", "[0].workers: must have at least 1"),
        (
            "[{at_s: 3, event: crash}, {at_s: 5, event: drain}]",
            "[1].workers: worker 0 drains, crashes or freezes",
        ),
        ("[{at_s: 3, event: join}, {at_s: 5, event: join}]", "[1].workers: worker 0 joins already"),
        ("[{at_s: 3, event: crash}, {at_s: 5, event: join}]", "[0].at_s: 3 is before it joins, at 5"),
        ("[{at_s: 3, event: freeze}]", "[0].lasts_s: a freeze, and nothing else, has lasts_s"),
        ("[{at_s: 3, event: crash, lasts_s: 3}]", "[0].lasts_s: a freeze, and nothing else, has lasts_s"),
        ("[{at_s: 3, event: join, returns_after_s: 3}]", "[0].returns_after_s: a join has none"),
    ],
)
def test_what_cannot_befall_a_worker_is_told_in_one_line(good, schedule, line):
    text = refused(good, f"servers[0].workers[0].schedule={schedule}")
    assert f"servers[0].workers[0].schedule{line}" in text


def test_sums_are_bounded_too(good):
    fleets = [{"name": f"f{n}", "count": 60_000, "network": "lan", "workload": "chat"} for n in range(2)]
    with pytest.raises(UserError, match=r"fleets: 120,000 edges in all: at most 100,000"):
        load(good, {"fleets": fleets})
    workers = [{"name": f"w{n}", "count": 4_000, "hardware": {"step_ms": 30}} for n in range(2)]
    with pytest.raises(UserError, match=r"servers: 8,000 workers in all: at most 4,096"):
        load(good, {"servers": [{"workers": workers}]})


def test_the_file_and_line_are_those_of_the_wrong_value(good, tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("include: small.yaml\nfleets:\n  - name: phones\n    count: -1\n", encoding="utf-8")
    assert refused(over).startswith(f"{over}:4: fleets[0].count: -1 is not ")
    good.write_text(GOOD.replace("network: lte", "network: carrier-pigeon"), encoding="utf-8")
    over.write_text("include: small.yaml\n", encoding="utf-8")
    assert refused(over).startswith(f"{good}:8: fleets[0].network: 'carrier-pigeon' is no network profile: ")


def test_more_mistakes_are_counted_and_only_names_go_first(good):
    text = refused(good, "duration_s=-1", "fleets[0].cuont=3")
    assert text == (
        "--set fleets[0].cuont: fleets[0].cuont: unknown key (did you mean count?): one of "
        "name, count, network, workload, drafter, drafting, arrivals, assistants, balance, retries (and 1 more)"
    )


def test_recorded_prompts_must_fit_too(good, tmp_path):
    (tmp_path / "rows.csv").write_text("prompt_tokens,output_tokens\n9,1\n40,1\n", encoding="utf-8")
    text = refused(good, f"workloads.chat={{file: {tmp_path / 'rows.csv'}}}", "target.context_length=40")
    assert "workloads.chat: prompts of up to 40 tokens: at most 39, by target.context_length" in text


# ---- overrides ----


def test_items_of_lists_are_numbered_or_named(good):
    for which in ("1", "readers"):
        assert load(good, {f"fleets[{which}].count": 7}).fleets[1].count == 7
    near = {"network": "lan", "drafter": {"step_ms": 1, "acceptance": 1}}
    made = load(good, {"fleets[phones].drafting.window": 9, "near": near, "near.delay_ms": 5})
    assert made.fleets[0].drafting.window == 9
    assert made.near is not None
    assert (made.near.delay_ms, made.near.network.profile) == (5, "lan")


def test_a_value_is_yaml_and_null_takes_away(good):
    changes = dict(
        map(parse_override, ["fleets[0].arrivals={kind: poisson, per_s: 1e1}", "fleets[0].drafter="])
    )
    fleet = load(good, changes).fleets[0]
    assert (fleet.arrivals.kind, fleet.drafter) == ("poisson", None)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("fleets[2].count=1", "--set fleets[2].count: [2]: from 0 to 1, or one of phones, readers"),
        ("fleets[-1].count=1", "[-1]: from 0 to 1, or one of phones, readers"),
        ("fleets.count=1", "--set fleets.count: a list stands before count"),
        ("slo[0].share=1", "[0]: there is no list, or nothing in it"),
        ("fleets[0]..count=1", "not a key path"),
        ("[0].count=1", "not a key path"),
        ("fleets[0=1", "not a key path"),
        ("name", "not KEY.PATH=VALUE"),
        ("=3", "not KEY.PATH=VALUE"),
        ("name=[1", "--set name: not YAML: "),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(good, setting, line):
    assert line in refused(good, setting)


# ---- the hash ----


def test_the_hash_is_of_what_counts(good, tmp_path):
    plain = digest(load(good))
    assert digest(load(good, {"seed": 5, "description": "words"})) == plain
    other = tmp_path / "elsewhere" / "renamed.yaml"
    other.parent.mkdir()
    other.write_text(f"include: {good}\nwarm_up_s: 0.0  # as it is anyway\n", encoding="utf-8")
    assert digest(load(other)) == plain
    assert digest(load(good, {"fleets[0].count": 3})) != plain


def test_the_hash_is_of_what_files_say_and_not_of_their_names(good, tmp_path):
    def with_rows(name: str, rows: str) -> str:
        (tmp_path / name).write_text(f"prompt_tokens,output_tokens\n{rows}\n", encoding="utf-8")
        return digest(load(good, {"workloads.chat": {"file": str(tmp_path / name)}}))

    assert with_rows("a.csv", "1,2") == with_rows("b.csv", "1,2") != with_rows("a.csv", "1,3")


# ---- the command ----


def test_a_mistake_costs_exit_code_2_and_one_line(good, capsys):
    assert simulate.main(["run", str(good), "--set", "fleets[0].count=-1"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    assert out.err.startswith(
        "simulate: --set fleets[0].count: fleets[0].count: -1 is not a whole number from "
    )


def test_check_says_how_large_it_is(good, capsys):
    assert simulate.main(["check", str(good), "--set", "fleets[0].count=1200"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("small: 1,201 edges in 2 fleets, 1 worker in 1 server, 10 s, hash ")
    assert json.dumps(line).count("\\n") == 1
    assert simulate.main(["check", str(good.with_name("none.yaml"))]) == 2
