"""What the simulator says: the product's own machines and policies under the virtual clock, nothing stretched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_client.policies import DraftOptions, Mode, policies_for
from scripts.bench_capacity.colocated import best_lookahead, budget, colocated, policies
from scripts.bench_capacity.records import Predicted
from scripts.bench_capacity.setting import BATCHING, Arm, Setting
from scripts.bench_latency.arms import PLAIN
from shared.messages import Limits
from shared.policy.batching import MeasuredBudget
from shared.pool import PoolScheduler
from shared.session.front import CloudPolicies
from shared.sim.predict import default_reconnect
from shared.sim.predict_fleet import predict_fleet

SIMULATED_TOKENS: Final = 8_000
"""Over all clients; each writes at least one generation. What the server learns first is part of it."""


def draft_of(arm: Arm) -> DraftOptions:
    """How the clients of an arm draft."""
    return DraftOptions() if arm is Arm.SLIPSTREAM else DraftOptions(mode=Mode.CLOUD)


def lookahead_of(setting: Setting, arm: Arm) -> int | None:
    """The block that is best for a co-located arm, by its own accounting; None: it has no block."""
    batching = BATCHING.get(arm)
    return None if batching is None else best_lookahead(setting.pair, setting.clients, batching)


def predicted(setting: Setting, arm: Arm, lookahead: int | None) -> Predicted:
    """Rate of all clients and 95th percentile of the time between tokens."""
    pair, draft = setting.pair, draft_of(arm)
    cloud, pool = (CloudPolicies() if arm is Arm.SLIPSTREAM else PLAIN), _pool()
    if lookahead is not None:
        cloud, pool = policies(pair, lookahead), _pool(lookahead)
        pair = colocated(pair, lookahead, BATCHING[arm])
    shape = draft.shape_for()
    _, adaptive_ms = (0.0, 0.0) if shape is None else draft.patience_for(Limits().max_patience_us / 1000)
    found = predict_fleet(
        pair,
        lambda: policies_for(draft, shape, default_reconnect(), pair.context_length),
        clients=setting.clients,
        rtt_ms=setting.rtt_ms,
        tokens=setting.tokens,
        generations=max(1, round(SIMULATED_TOKENS / setting.clients / setting.tokens)),
        adaptive_patience_us=round(adaptive_ms * 1000),
        cloud=cloud,
        pool=pool,
    )
    return Predicted(round(found.tokens_per_s, 2), round(found.itl_p95_ms, 3))


def _pool(lookahead: int | None = None) -> Callable[[], PoolScheduler]:
    make = MeasuredBudget if lookahead is None else lambda: budget(lookahead)
    return lambda: PoolScheduler(make)
