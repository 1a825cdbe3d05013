"""Whole deployments under the virtual clock: many users who come and go, several servers, pools of unlike workers."""

from __future__ import annotations

from shared.sim.deployment.deployment import Deployment
from shared.sim.deployment.figures import Figures, RunFigures, Spread, WorkerFigures, figures_of
from shared.sim.deployment.plan import AssistantPlan, DeploymentPlan, Loop, PoolPlan, UserPlan, Visit
from shared.sim.deployment.record import Counts, DeploymentRecord, Ending, GenerationRecord, WorkerRecord

__all__ = [
    "AssistantPlan",
    "Counts",
    "Deployment",
    "DeploymentPlan",
    "DeploymentRecord",
    "Ending",
    "Figures",
    "GenerationRecord",
    "Loop",
    "PoolPlan",
    "RunFigures",
    "Spread",
    "UserPlan",
    "Visit",
    "WorkerFigures",
    "WorkerRecord",
    "figures_of",
]
