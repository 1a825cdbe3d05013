from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest

from cloud_server.__main__ import BatchingName, RoutingName
from edge_client.policies import DraftOptions
from scripts.simulate import schema_servers
from scripts.simulate.build import build, pool_policies, wan_profile
from scripts.simulate.schema import Scenario
from scripts.simulate.schema_fleets import Drafting, Network
from scripts.simulate.schema_servers import PoolOptions, Server
from scripts.wan.profiles import PROFILES
from shared.policy.admission import TokenPace
from shared.policy.batching import FlatBudget, LengthAware, MeasuredBudget
from shared.policy.expansion import BestFirst
from shared.policy.hedging import HedgeAfter, NoHedging
from shared.policy.routing import RoundRobin
from shared.policy.servers import Balance
from shared.policy.transfer import NoTransfers
from shared.policy.window import EmaWindow, FixedWindow
from shared.sim.deployment import Loop, UserPlan
from shared.sim.workers import Misfortune

ROOT = Path(__file__).resolve().parents[3]


def scenario(fleet=None, server=None, worker=None, **more) -> Scenario:
    worker = {"hardware": {"step_ms": 30}, **(worker or {})}
    return Scenario.model_validate(
        {
            "name": "made",
            "duration_s": 10,
            "workloads": {"chat": {"prompt_tokens": 20, "output_tokens": {"kind": "uniform", "least": 5, "most": 90}}},
            "fleets": [{"name": "phones", "count": 3, "network": "lte", "workload": "chat", **(fleet or {})}],
            "servers": [{"workers": [worker], **(server or {})}],
            **more,
        }
    )  # fmt: skip


def visits(user: UserPlan, count: int = 5):
    return list(itertools.islice(user.visits(), count))


DRAFTER = {"step_ms": 3, "acceptance": 0.8}


# ---- names are the product's own ----


def test_an_edge_is_told_what_the_product_is_told():
    own = DraftOptions()
    assert {field.name for field in dataclasses.fields(own)} == set(Drafting.model_fields)
    assert DraftOptions(**dict(Drafting())) == own


def test_names_of_routings_and_batchings_are_the_servers():
    assert [one.value for one in schema_servers.RoutingName] == [one.value for one in RoutingName]
    assert [one.value for one in schema_servers.BatchingName] == [one.value for one in BatchingName]


def test_a_server_is_by_default_what_the_product_is_by_default():
    """As `cloud-server serve --help` says."""
    from inspect import signature  # noqa: PLC0415

    from cloud_server.__main__ import serve  # noqa: PLC0415

    theirs = {name: one.default for name, one in signature(serve).parameters.items()}
    ours = {name: field.default for name, field in PoolOptions.model_fields.items() if name in theirs}
    assert len(ours) == 10
    assert {name: theirs[name] for name in ours} == ours
    assert theirs["worker_deadline_s"] == Server.model_fields["worker_deadline_s"].default


# ---- edges ----


def test_every_edge_is_a_user_of_its_fleets_group():
    plan = build(scenario({"balance": "hash", "retries": 3}))
    assert [user.group for user in plan.users] == ["phones"] * 3
    assert {(user.pair, user.balance, user.retries) for user in plan.users} == {(None, Balance.HASH, 3)}
    assert (plan.duration_ms, plan.warm_up_ms, plan.seed) == (10_000.0, 0.0, 0)


def test_a_fleet_without_a_drafter_never_drafts():
    policies = build(scenario()).users[0].make_policies()
    assert policies.expansion is None
    assert build(scenario({"drafter": DRAFTER})).users[0].make_policies().expansion is not None


def test_drafting_is_by_name():
    drafting = {"shape": "tree", "spread": "fixed", "branches": 3, "width": 2, "sizing": "ema"}
    policies = build(scenario({"drafter": DRAFTER, "drafting": drafting})).users[0].make_policies()
    assert isinstance(policies.window, EmaWindow)
    assert isinstance(policies.expansion, BestFirst)
    assert (policies.expansion.branches, policies.expansion.width) == (3, 2)
    sync = build(scenario({"drafter": DRAFTER, "drafting": {"mode": "sync", "lookahead": 7}})).users[0]
    assert sync.make_policies().window == FixedWindow(7)
    assert (sync.patience_us, sync.adaptive_patience_us) == (2_000_000, 0)


def test_patience_is_asked_for_within_what_every_server_grants():
    worker = {"hardware": {"step_ms": 1}}
    servers = [{"name": f"s{ms}", "workers": [worker], "policies": {"patience_ms": ms}} for ms in (50, 900)]
    user = build(scenario({"drafter": DRAFTER}, servers=servers)).users[0]
    assert (user.patience_us, user.adaptive_patience_us) == (0, 50_000)


@pytest.mark.parametrize(
    ("acceptance", "expected"),
    [
        (0.7, 0.7),
        ({"process": "iid", "rate": 0.7}, 0.7),
        ({"process": "markov", "easy": 0.9, "hard": 0.5, "stay_easy": 0.9, "stay_hard": 0.9}, 0.7),
    ],
)
def test_a_drafter_is_as_right_as_its_process_says(acceptance, expected):
    plan = build(scenario({"drafter": {"step_ms": 5, "branch_cost": 0.4, "acceptance": acceptance}}))
    pair = plan.users[0].pair
    assert pair is not None
    assert (pair.profile.draft_ms, pair.profile.branch_cost) == (5, 0.4)
    state = pair.state((1, 2, 3))
    own = plan.pair.state((1, 2, 3))
    right = 0
    for _ in range(4_000):
        token = plan.pair.target(own)
        assert pair.target(state) == token  # whoever drafts, the target's text is the target's
        right += pair.candidates(state, 1)[0].token == token
        state, own = pair.follow(state, token), plan.pair.follow(own, token)
    assert right / 4_000 == pytest.approx(expected, abs=0.04)


def test_assistants_are_devices_of_their_own():
    plan_of_one = {"network": {"rtt_ms": 2}, "drafter": DRAFTER, "delay_ms": 7}
    plan = build(scenario({"assistants": [plan_of_one]}, near=plan_of_one))
    for found in (*plan.users[0].assistants, plan.near):
        assert found is not None
        assert (found.up.delay_ms, found.delay_ms) == (1.0, 7.0)


# ---- networks ----


def test_a_network_by_name_is_that_profile():
    for name, profile in PROFILES.items():
        assert wan_profile(Network(profile=name)) == profile


def test_figures_prevail_over_a_profile():
    found = wan_profile(
        Network.model_validate({"profile": "lte", "rtt_ms": 30, "loss_percent": 2, "jitter": "pareto"})
    )
    assert (found.rtt_ms, found.up.delay_ms, found.down.delay_ms) == (30, 15, 15)
    assert (found.up.loss, found.up_kbit, found.jitter.value) == (0.02, PROFILES["lte"].up_kbit, "pareto")


def test_outages_and_handovers_are_told():
    times = {"every_s": 15, "lasts_ms": 200, "offset_s": 5}
    network = {"rtt_ms": 30, "outage": times, "handover": {**times, "extra_rtt_ms": 40}}
    found = wan_profile(Network.model_validate(network))
    assert found.outage is not None
    assert (found.outage.every_s, found.up.outage, found.up.handover_ms) == (15, found.outage, 20)


# ---- when they ask ----


def test_an_edges_questions_depend_on_nobody_else():
    many, few = (build(scenario({"count": count}, seed=4)) for count in (50, 3))
    for one, other in zip(few.users, many.users, strict=False):
        assert visits(one) == visits(other)
    assert visits(few.users[0]) != visits(few.users[1])
    assert visits(build(scenario(seed=5)).users[0]) != visits(few.users[0])
    assert visits(build(scenario(), seed=4).users[0]) == visits(few.users[0])


def test_a_fleet_before_it_changes_nothing_for_a_fleet():
    fleet = {"name": "phones", "count": 2, "network": "lte", "workload": "chat"}
    alone = build(scenario(fleets=[fleet]))
    second = build(scenario(fleets=[{**fleet, "name": "others"}, fleet]))
    assert visits(alone.users[1]) == visits(second.users[3])


def test_prompts_are_as_long_as_the_workload_says_and_never_alike():
    found = visits(build(scenario()).users[0], 50)
    assert {len(visit.prompt) for visit in found} == {20}
    assert all(0 <= token < 32_000 for visit in found for token in visit.prompt)
    assert len({visit.prompt for visit in found}) == 50
    outputs = [visit.output_tokens for visit in found]
    assert min(outputs) >= 5
    assert max(outputs) <= 90
    assert len(set(outputs)) > 20


def test_closed_loops_begin_spread_and_think_between():
    arrivals = {"kind": "closed", "think_s": {"kind": "uniform", "least": 4, "most": 6}, "ramp_s": 9}
    plan = build(scenario({"arrivals": arrivals}))
    assert [user.start_ms for user in plan.users] == [0, 3_000, 6_000]
    assert {user.loop for user in plan.users} == {Loop.CLOSED}
    first, *others = visits(plan.users[0], 30)
    assert 0 <= first.wait_ms <= 6_000
    assert all(4_000 <= visit.wait_ms <= 6_000 for visit in others)


def test_closed_loops_begin_as_they_go_on():
    """As many first questions come in a time as later ones do in an equally long one."""
    arrivals = {"kind": "closed", "ramp_s": 0}
    arrivals["think_s"] = {"kind": "lognormal", "median": 10, "sigma": 1.0, "least": 0.1, "most": 600}
    plan = build(scenario({"arrivals": arrivals, "count": 2_000}))
    early = late = 0
    for user in plan.users:
        at = 0.0
        for visit in user.visits():
            at += visit.wait_ms / 1000
            if at >= 40:
                break
            early, late = early + (at < 5), late + (at >= 35)
    assert early == pytest.approx(late, rel=0.12)


def moments(plan, seconds: float) -> list[float]:
    """When questions come, of all users of a plan with open loops (s)."""
    found: list[float] = []
    for user in plan.users:
        assert user.loop is Loop.OPEN
        at = user.start_ms
        for visit in user.visits():
            at += visit.wait_ms
            if at >= seconds * 1000:
                break
            found.append(at / 1000)
    return sorted(found)


def test_poisson_arrivals_come_at_their_rate_and_at_random():
    found = moments(build(scenario({"arrivals": {"kind": "poisson", "per_s": 5}, "count": 7})), 600)
    assert len(found) == pytest.approx(3_000, rel=0.06)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert sum(gap > 0.2 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)


def test_uniform_arrivals_are_evenly_spaced_over_the_fleet():
    found = moments(build(scenario({"arrivals": {"kind": "uniform", "per_s": 4}, "count": 3})), 10)
    assert found == pytest.approx([number / 4 for number in range(40)])


def test_recorded_arrivals_come_when_they_came(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("at_s\n0.5\n1\n1\n4\n7\n", encoding="utf-8")
    plan = build(scenario({"arrivals": {"kind": "trace", "file": str(path)}}))
    assert moments(plan, 100) == [0.5, 1, 1, 4, 7]
    assert moments(dataclasses.replace(plan, users=plan.users[:1]), 100) == [0.5, 4]


def test_recorded_lengths_are_drawn_in_pairs(tmp_path):
    path = tmp_path / "rows.jsonl"
    pairs = [(n, 10 * n) for n in range(1, 9)]
    path.write_text("\n".join(json.dumps({"prompt_tokens": p, "output_tokens": o}) for p, o in pairs))
    found = visits(build(scenario(workloads={"chat": {"file": str(path)}})).users[0], 200)
    assert {(len(visit.prompt), visit.output_tokens) for visit in found} == set(pairs)


# ---- servers ----


def test_a_pools_policies_are_by_name():
    policies = {
        "routing": "round-robin", "batching": "length-aware", "sp_degree": 3, "helpers": 2, "sessions_per_step": 4,
        "hedge_factor": 0, "transfers": "never", "check_share": 0.5, "admission_itl_ms": 90, "prefill_chunk": 7,
        "prompt_lookup": False, "adaptive_patience": False, "max_sessions": 9, "patience_ms": 70,
    }  # fmt: skip
    found = scenario(server={"policies": policies})
    (server,) = build(found).servers
    assert server.make_pool().sp_degree == 3
    made = pool_policies(found.servers[0].policies)
    assert (made.helpers, made.sessions_per_step, made.check_share) == (2, 4, 0.5)
    assert isinstance(made.routing(), RoundRobin)
    assert isinstance(made.batching, LengthAware)
    assert isinstance(made.hedging, NoHedging)
    assert isinstance(made.transfers(), NoTransfers)
    assert made.admission == TokenPace(90)
    assert (server.policies.prompt_lookup, server.policies.adaptive_patience) == (False, False)
    assert (server.limits.max_sessions, server.limits.max_patience_us) == (9, 70_000)


@pytest.mark.parametrize(("name", "budget"), [("measured", MeasuredBudget), ("fifo", FlatBudget)])
def test_a_measured_pool_measures(name, budget):
    found = scenario(server={"policies": {"batching": name, "hedge_factor": 4}})
    assert build(found).servers[0].make_pool()._make_budget is budget
    assert pool_policies(found.servers[0].policies).hedging == HedgeAfter(4, 100)


def test_what_befalls_workers_is_counted_from_their_joining():
    schedule = [
        {"at_s": 20, "event": "crash", "workers": [0], "returns_after_s": 15},
        {"at_s": 45, "event": "freeze", "workers": [1], "lasts_s": 2},
        {"at_s": 60, "event": "drain", "workers": [2]},
        {"at_s": 10, "event": "join", "workers": [1, 3]},
    ]
    worker = {"name": "gpu", "count": 4, "schedule": schedule, "slowness": 1.5, "hiccup": 0.1}
    fleet = build(scenario(worker=worker, server={"worker_deadline_s": 3})).servers[0].fleet
    figures = ("join_ms", "misfortune", "misfortune_ms", "freeze_ms", "returns_ms")
    assert [tuple(getattr(one, name) for name in figures) for one in fleet.workers] == [
        (0, Misfortune.CRASH, 20_000, 0, 15_000),
        (10_000, Misfortune.FREEZE, 35_000, 2_000, None),
        (0, Misfortune.DRAIN, 60_000, 0, None),
        (10_000, None, 0, 0, None),
    ]  # fmt: skip
    assert {(one.kind, one.slowness, one.hiccup) for one in fleet.workers} == {("cloud/gpu", 1.5, 0.1)}
    assert (fleet.deadline_ms, fleet.noticed_ms) == (3_000, (20.0,))


def test_memory_is_said_in_tokens_or_in_bytes():
    def held(**memory):
        return build(scenario(worker={"memory": memory})).servers[0].fleet.workers[0].kv_tokens

    assert held(tokens=70) == 70
    assert held(gb=2, kv_bytes_per_token=1_000_000) == 2_000
    assert build(scenario()).servers[0].fleet.workers[0].kv_tokens is None


def test_hardware_may_be_a_measured_profile(tmp_path):
    shape = {"name": "m", "layers": 2, "hidden_size": 8, "intermediate_size": 8, "heads": 2, "kv_heads": 1}
    shape |= {"head_dim": 4, "vocabulary_size": 64, "tied": True}
    points = [
        {"nodes": nodes, "sessions": 1, "context": 64, "step_ms": ms} for nodes, ms in ((1, 10.0), (11, 20.0))
    ]
    document = {
        "format": "slipstream-hardware-profile",
        "version": 1,
        "name": "p",
        "device": "d",
        "software": "s",
    }
    document |= {"model": shape, "dtype": "float32", "memory_gb_per_s": None, "points": points}
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    (worker,) = build(scenario(worker={"hardware": str(path), "memory": {"gb": 1}})).servers[0].fleet.workers
    assert worker.profile is not None
    assert worker.profile.hardware is not None
    assert worker.profile.hardware.step_ms(6, 1, 64) == pytest.approx(15)
    assert worker.kv_tokens == 10**9 // (2 * 2 * 1 * 4 * 4)


def test_outages_are_of_their_server():
    servers = [
        {"name": "a", "workers": [{"hardware": {"step_ms": 1}}]},
        {
            "name": "b",
            "workers": [{"hardware": {"step_ms": 1}}],
            "outages": [{"at_s": 3, "lasts_s": 2, "drains_s": 1}],
        },
    ]
    (outage,) = build(scenario(servers=servers)).outages
    assert (outage.server, outage.start_ms, outage.length_ms, outage.notice_ms) == (1, 3_000, 2_000, 1_000)


def test_no_word_of_the_schema_goes_unheard():
    """Every key of the models stands in the code that builds, or in that of the figures."""
    files = [one for one in (ROOT / "scripts" / "simulate").glob("*.py") if not one.name.startswith("schema")]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    words = set(re.findall(r"\w+", code))
    models = (PoolOptions, Server, schema_servers.Workers, schema_servers.Event, schema_servers.Hardware)
    assert {key for model in models for key in model.model_fields} - words <= PRICED


PRICED = {"price_per_hour", "busy_watts", "idle_watts"}
"""What things cost and draw is for the figures."""
