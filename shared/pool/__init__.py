"""PoolScheduler: which facts of which sessions go into which worker's next step. See `scheduler`."""

from shared.pool.books import KV_SLACK, UNLIMITED
from shared.pool.checks import Disagreement
from shared.pool.policies import PoolPolicies, PrefillLimits
from shared.pool.scheduler import PoolCounts, PoolScheduler, Transfer, one_worker

__all__ = [
    "KV_SLACK",
    "UNLIMITED",
    "Disagreement",
    "PoolCounts",
    "PoolPolicies",
    "PoolScheduler",
    "PrefillLimits",
    "Transfer",
    "one_worker",
]
