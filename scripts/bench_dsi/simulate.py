"""What the simulator says of the arms that run on a pool."""

from __future__ import annotations

from collections.abc import Iterable

from edge_client.policies import DraftOptions, policies_for
from scripts.bench_dsi.plan import POOL, WORKERS
from scripts.bench_latency.plan import Arm, Cell
from scripts.bench_latency.records import CellFacts, Predicted
from scripts.bench_latency.simulate import chosen_draft
from shared.messages import Limits
from shared.profiled import Profile
from shared.sim.predict import default_reconnect, predict


def pool_arms(cell: Cell) -> tuple[Arm, ...]:
    """Those that the latency benchmark's own predictions leave out."""
    return tuple(arm for arm in cell.arms if arm.server == POOL)


def predictions(cell: Cell, facts: CellFacts) -> Iterable[Predicted]:
    """One for each unit of each such arm: told what the runtime adds, and told the nominal pair alone."""
    nominal = cell.pair.nominal
    if nominal is None:
        raise AssertionError("every row is a profiled pair")
    for arm in pool_arms(cell):
        draft = chosen_draft(arm, facts)
        for unit in cell.units:
            told = pool_tpot_ms(facts.believed, draft, cell.tokens, unit.prompt, facts.overheads.rtt_ms)
            ideal = pool_tpot_ms(nominal, draft, cell.tokens, unit.prompt)
            yield Predicted(cell.key, arm.key, unit.prompt, unit.seed, round(told, 4), round(ideal, 4))


def pool_tpot_ms(
    profile: Profile, draft: DraftOptions, tokens: int, seed: int, rtt_ms: float = 0.0, workers: int = WORKERS
) -> float:
    """Simulated TPOT of one generation with as many steps at once as there are workers."""
    patience_ms, adaptive_ms = draft.patience_for(Limits().max_patience_us / 1000)
    return predict(
        profile,
        policies_for(draft, draft.shape_for(), default_reconnect(), profile.context_length),
        rtt_ms=rtt_ms,
        tokens=max(tokens, 2),
        patience_us=round(patience_ms * 1000),
        adaptive_patience_us=round(adaptive_ms * 1000),
        seed=seed,
        workers=workers,
        sp_degree=workers,
    ).tpot_ms
