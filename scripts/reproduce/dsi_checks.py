"""DSI's theorems and its bound, over the whole grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scripts.bench_dsi.plan import WORKERS
from scripts.reproduce.checks import Check, check
from scripts.reproduce.dsi import ArmFigures, CellFigures

OWN = (
    "the theorem's: no network, targets by the rule at lookahead 1, a drafter that stops when its branch dies"
)
PRODUCT = f"the product: no network, {WORKERS} targets, a drafter forward that has begun ends"
TREES = f"the product's own choice of width: no network, {WORKERS} targets"


def theorems(cells: Sequence[CellFigures]) -> list[Check]:
    """Each under its own conditions, then under the product's."""
    found = []
    for conditions, arm in _ARMS:
        own = conditions is OWN
        found += [
            _alone(cells, conditions, arm, own=own),
            _si(cells, conditions, arm, own=own),
            _bound(cells, conditions, arm, own=own),
        ]
    return [*found, _rest(cells)]


_ARMS: Sequence[tuple[str, Callable[[CellFigures], ArmFigures]]] = (
    (OWN, lambda one: one.ideal),
    (PRODUCT, lambda one: one.chain),
    (TREES, lambda one: one.policy),
)


def _alone(
    cells: Sequence[CellFigures], conditions: str, arm: Callable[[CellFigures], ArmFigures], *, own: bool
) -> Check:
    claim = "Theorem 1: never slower than the target alone (every text)"
    values = [(one.name, arm(one).worst_by_alone) for one in cells]
    return check("theorem-1", claim, conditions, values, must=own)


def _si(
    cells: Sequence[CellFigures], conditions: str, arm: Callable[[CellFigures], ArmFigures], *, own: bool
) -> Check:
    claim = "Theorem 2: in the mean not slower than SI at its best lookahead, counted honestly"
    values = [(one.name, arm(one).time / one.si) for one in cells]
    return check("theorem-2", claim, conditions, values, must=own)


def _bound(
    cells: Sequence[CellFigures], conditions: str, arm: Callable[[CellFigures], ArmFigures], *, own: bool
) -> Check:
    claim = "Proposition 1: time at most t1 p (N - 1) + t2 ((1 - p)(N - 1) + 1), p of the text itself (every text)"
    values = [(one.name, arm(one).worst_by_bound) for one in cells]
    return check("proposition-1", claim, conditions, values, must=own)


def _rest(cells: Sequence[CellFigures]) -> Check:
    # With fewer targets than the rule asks for at lookahead 1, a block of its own is waited for as well.
    enough = [one for one in cells if one.lookahead == 1]
    claim = "Proposition 1 with t1 more for each wrong guess: the rest of a forward whose branch has died"
    values = [(one.name, one.chain.worst_by_rest) for one in enough]
    return check("proposition-1-rest", claim, f"{PRODUCT}, where these suffice at lookahead 1", values)
