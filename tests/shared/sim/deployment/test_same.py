"""Equal plans give equal traces: in any process, with any seed of Python's own hashes, whoever else is in the plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shared.link import LinkProfile
from shared.policy.servers import Balance
from shared.sim.deployment import Deployment, DeploymentPlan, DeploymentRecord
from shared.sim.setting import Faults
from shared.sim.workers import Misfortune, WorkerPlan
from shared.sim.world import Outage
from tests.shared.sim.deployment.small import plan, pool, user

REPOSITORY = Path(__file__).parents[4]
CODE = (
    "from tests.shared.sim.deployment.test_same import busy\n"
    "from shared.sim.deployment import Deployment\n"
    "print(Deployment(busy()).run().trace_hash)"
)


def busy(seed: int = 3) -> DeploymentPlan:
    """Two servers, jitter, faults, workers that come and go, refusals."""
    link = LinkProfile(delay_ms=15.0, jitter_ms=10.0, loss=0.01)
    users = [
        user(number, 10.0 * number, 50.0, 20.0, up=link, down=link, balance=Balance.LOAD)
        for number in range(8)
    ]
    crash = WorkerPlan(misfortune=Misfortune.CRASH, misfortune_ms=700.0, returns_ms=100.0)
    return plan(
        users,
        pool(crash, WorkerPlan(), sessions=3),
        pool(WorkerPlan(hiccup=0.1), sessions=2),
        seed=seed,
        faults=Faults(stream_loss=0.01, step_failure=0.01),
        outages=(Outage(1000.0, 300.0),),
    )


def run(seed: int = 3) -> DeploymentRecord:
    return Deployment(busy(seed)).run()


def test_a_run_is_its_plan_in_any_process():
    """With the interpreter's hashes of strings seeded each way."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hashes in ("0", "1", "random")
    ]
    found = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert set(found) == {run().trace_hash}


def test_another_seed_is_another_run():
    assert run(3) == run(3)
    assert run(3).trace_hash != run(4).trace_hash


def test_what_happens_is_in_the_hash():
    """A single token more is another trace."""
    hashes = [Deployment(plan([user(0, 0.0, tokens=tokens)])).run().trace_hash for tokens in (30, 31)]
    assert hashes[0] != hashes[1]


def test_whoever_else_is_there_a_user_stays_itself():
    """Its links' draws are its own: with room for everybody it sees what it would see alone."""
    link = LinkProfile(delay_ms=15.0, jitter_ms=10.0)
    alone = Deployment(plan([user(0, 5.0, 40.0, up=link, down=link, drafts=False)])).run()
    crowd = [user(n, 5.0, 40.0, up=link, down=link, drafts=False, start_ms=2000.0 * n) for n in range(4)]
    among = [one for one in Deployment(plan(crowd)).run().generations if one.user == 0]
    assert [one.times for one in among] == [one.times for one in alone.generations]
