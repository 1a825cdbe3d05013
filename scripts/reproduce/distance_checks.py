"""What "Speculation at a Distance" says, held to the map."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reproduce.checks import Check, check
from scripts.reproduce.distance import DRAFT_MS, NAMES, STEP_MS, CellFigures

CHANCE = 1.02
"""What the luck of the texts may do to a cell next to the break-even."""


def claims(cells: Sequence[CellFigures]) -> list[Check]:
    """Each claim over the cells that it speaks of; one without cells is left out."""
    alike = [one for one in cells if one.iid]
    within = [one for one in alike if one.rtt_ms < _formula_ms(one)]
    beyond = [one for one in alike if one.rtt_ms >= _formula_ms(one)]
    far = [one for one in cells if one.rtt_ms > 0.0]
    outside = [one for one in cells if one.rtt_ms >= _window_ms(one)]
    asked = [
        (
            "counting",
            "SI counted on a text is SI as the product's machines do it, but for the drafting of the last block",
            [(one.name, one.si_apart) for one in cells],
            1.0,
            True,
        ),
        (
            "necessary",
            "beyond RTT = a/(1-a) t_target - k t_drafter, SI from the edge is slower than the cloud alone",
            [(one.name, one.cloud.ms / one.edge_si.ms) for one in beyond],
            CHANCE,
            False,
        ),
        (
            "sufficient",
            "within it, SI from the edge is faster than the cloud alone",
            [(one.name, one.edge_si.ms / one.cloud.ms) for one in within],
            CHANCE,
            False,
        ),
        (
            "colocated",
            "SI with both models in the cloud is faster than SI from the edge, at any RTT above 0",
            [(one.name, one.colocated.ms / one.edge_si.ms) for one in far],
            1.0,
            False,
        ),
        (
            "pipelined",
            f"{NAMES['chain']}, does not beat SI in the cloud where the RTT is as long as drafting a block, or longer",
            [(one.name, one.colocated.ms / one.chain.ms) for one in outside],
            1.0,
            False,
        ),
        (
            "pipelined-tree",
            f"the same of {NAMES['slipstream']}, which drafts trees",
            [(one.name, one.colocated.ms / one.slipstream.ms) for one in outside],
            1.0,
            False,
        ),
        (
            "assistant",
            f"{NAMES['assisted']}, is not slower than SI in the cloud, at any RTT",
            [(one.name, one.assisted.ms / one.colocated.ms) for one in cells],
            1.0,
            True,
        ),
        (
            "never-slower",
            f"{NAMES['slipstream']} is not slower than the cloud alone, at any RTT",
            [(one.name, one.slipstream.ms / one.cloud.ms) for one in cells],
            1.0,
            True,
        ),
    ]
    return [
        check(key, claim, "", values, limit, must=own) for key, claim, values, limit, own in asked if values
    ]


def _formula_ms(one: CellFigures) -> float:
    lookahead = one.edge_si.lookahead or 1
    return one.acceptance / (1.0 - one.acceptance) * STEP_MS - lookahead * DRAFT_MS


def _window_ms(one: CellFigures) -> float:
    return (one.colocated.lookahead or 1) * DRAFT_MS
