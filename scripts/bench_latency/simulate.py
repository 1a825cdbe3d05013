"""What the simulator says about an arm: the product's own machines and policies under the virtual clock."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from edge_client.policies import DraftOptions, Mode, policies_for
from scripts.bench_latency.arms import CHAIN, COLOCATED, LOOKUP, PLAIN, SYNC
from scripts.bench_latency.plan import Arm, Cell, Pair, Place, Unit
from scripts.bench_latency.records import CellFacts, ForwardCost, Overheads, Predicted, Run
from scripts.demo.lookahead import LOOKAHEADS, SEEDS, SIMULATED_TOKENS
from scripts.wan.profiles import WanProfile
from shared.messages import Limits
from shared.profiled import Profile
from shared.session.front import CloudPolicies
from shared.sim.predict import default_reconnect, predict

NO_LINK: Final = WanProfile(0.0)


def tpot_ms(
    profile: Profile, link: WanProfile, draft: DraftOptions, cloud: CloudPolicies, tokens: int, seed: int
) -> float:
    """Simulated TPOT of one generation; `seed` is the number of the prompt, as in a live run of a profiled pair."""
    shape = draft.shape_for()
    granted_ms = Limits().max_patience_us / 1000
    patience_ms, adaptive_ms = (0.0, 0.0) if shape is None else draft.patience_for(granted_ms)
    return predict(
        profile,
        policies_for(draft, shape, default_reconnect(), profile.context_length),
        rtt_ms=link.rtt_ms,
        tokens=max(tokens, 2),
        patience_us=round(patience_ms * 1000),
        adaptive_patience_us=round(adaptive_ms * 1000),
        seed=seed,
        up=link.up,
        down=link.down,
        cloud=cloud,
    ).tpot_ms


def best_lookahead(profile: Profile, link: WanProfile) -> dict[int, float]:
    """Simulated TPOT in ms of synchronous speculation, by the length of its block."""
    return {
        length: statistics.fmean(
            tpot_ms(
                profile, link, DraftOptions(mode=Mode.SYNC, lookahead=length), PLAIN, SIMULATED_TOKENS, seed
            )
            for seed in range(SEEDS)
        )
        for length in LOOKAHEADS
    }


def believed(pair: Pair, overheads: Overheads) -> Profile:
    """The pair as it is felt: steps, drafter forwards and, for real models, acceptance as measured on probes."""
    one = next((cost.mean_ms for cost in overheads.forwards if cost.nodes == 1), None)
    nominal = pair.nominal
    if nominal is not None:
        extra = _extra_ms(nominal, overheads.forwards)
        return replace(nominal, step_ms=overheads.step_ms, draft_ms=nominal.draft_ms + extra)
    draft_ms = one if one is not None else 0.0
    acceptance = overheads.acceptance if overheads.acceptance is not None else 0.0
    return Profile(
        acceptance=acceptance,
        step_ms=overheads.step_ms,
        draft_ms=draft_ms,
        branch_cost=_branch_cost(draft_ms, overheads.forwards),
    )


def simulated_link(cell: Cell, arm: Arm, overheads: Overheads | None) -> WanProfile:
    """The link that the simulator is given: with `overheads`, the round trip as it was measured."""
    link = cell.link_of(arm)
    measured = 0.0 if overheads is None else max(0.0, overheads.rtt_ms - cell.link.rtt_ms)
    if arm.place is Place.COLOCATED:
        return replace(NO_LINK, rtt_ms=measured)
    return replace(link, rtt_ms=link.rtt_ms + measured)


def chosen_draft(arm: Arm, facts: CellFacts) -> DraftOptions:
    """How an arm drafts, its lookahead included.

    Raises:
        ValueError: a peer, which does not draft by our options.
    """
    if arm.draft is None:
        raise ValueError(f"{arm.name} has ways of its own")
    found = next((one.chosen for one in facts.lookaheads if one.arm == arm.key), None)
    return arm.draft if found is None else replace(arm.draft, lookahead=found)


def predictable(cell: Cell) -> tuple[Arm, ...]:
    """The arms that the simulator can say something about: its texts do not repeat themselves, and lose no packet."""
    if cell.lossy or cell.link.handover is not None:
        return ()
    return tuple(arm for arm in cell.arms if arm.simulated and arm.key != LOOKUP.key)


def predictions(cell: Cell, facts: CellFacts, runs: Sequence[Run]) -> Iterable[Predicted]:
    """One for every unit of every arm that can be simulated, told the overheads and told nothing of them.

    Of real models nobody knows beforehand how often the drafter is right in a text: that is taken from the text's own
    `runs`. What is predicted is the time.
    """
    nominal = cell.pair.nominal
    rates = _acceptances(runs) if nominal is None else {}
    for arm in predictable(cell):
        draft = chosen_draft(arm, facts)
        told, ideal = (simulated_link(cell, arm, overheads) for overheads in (facts.overheads, None))
        for unit in cell.units:
            rate = rates.get(unit, facts.believed.acceptance)
            profile = facts.believed if nominal is not None else replace(facts.believed, acceptance=rate)
            yield Predicted(
                cell.key,
                arm.key,
                unit.prompt,
                unit.seed,
                round(tpot_ms(profile, told, draft, arm.cloud, cell.tokens, unit.prompt), 4),
                None
                if nominal is None
                else round(tpot_ms(nominal, ideal, draft, arm.cloud, cell.tokens, unit.prompt), 4),
            )


def _acceptances(runs: Sequence[Run]) -> dict[Unit, float]:
    """Acceptance of each unit's text, by the first of these arms that has it: blocks are judged up to a miss."""
    found: dict[Unit, float] = {}
    for key in (COLOCATED.key, SYNC.key, CHAIN.key):
        for run in runs:
            if run.arm == key and run.stats is not None and run.stats.acceptance_rate is not None:
                found.setdefault(Unit(run.prompt, run.seed), run.stats.acceptance_rate)
    return found


def _extra_ms(nominal: Profile, forwards: Iterable[ForwardCost]) -> float:
    """What a forward takes beyond the profile, on average."""
    known = [(cost.count, cost.mean_ms - nominal.forward_ms(cost.nodes)) for cost in forwards]
    count = sum(weight for weight, _ in known)
    return max(0.0, sum(weight * extra for weight, extra in known) / count) if count else 0.0


def _branch_cost(draft_ms: float, forwards: Iterable[ForwardCost]) -> float:
    """What each further node adds, as a share of a forward on one."""
    wide = [cost for cost in forwards if cost.nodes > 1]
    further = sum(cost.count * (cost.nodes - 1) for cost in wide)
    if not further or not draft_ms:
        return 0.0
    added = sum(cost.count * (cost.mean_ms - draft_ms) for cost in wide)
    return max(0.0, added / further / draft_ms)
