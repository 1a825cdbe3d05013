"""The arms, and which of them a cell has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from edge_client.policies import DraftOptions, Mode, Shape
from scripts.bench_latency.plan import Arm, Pair, Place
from shared.session.front import CloudPolicies

PLAIN: Final = CloudPolicies(prompt_lookup=False, adaptive_patience=False)
"""Of the baselines' servers: a step for each token, or for each block, and nothing clever."""

CLOUD: Final = Arm("cloud", "cloud alone", DraftOptions(mode=Mode.CLOUD), cloud=PLAIN)
LOOKUP: Final = Arm("lookup", "cloud alone, prompt lookup", DraftOptions(mode=Mode.CLOUD))
"""What the server can do without a drafter. Only where texts repeat themselves: a profiled pair's do not."""
SYNC: Final = Arm(
    "sync", "SI over the network", DraftOptions(mode=Mode.SYNC), seek_lookahead=True, cloud=PLAIN
)
COLOCATED: Final = Arm(
    "colocated",
    "SI co-located",
    DraftOptions(mode=Mode.SYNC),
    Place.COLOCATED,
    seek_lookahead=True,
    cloud=PLAIN,
)
DEFAULT: Final = Arm("slipstream", "Slipstream", DraftOptions())
CHAIN: Final = Arm("chain", "Slipstream, chain", DraftOptions(shape=Shape.CHAIN))
TREE: Final = Arm("tree", "Slipstream, tree", DraftOptions(shape=Shape.TREE))
GENERATE: Final = Arm("generate", "transformers generate", None, Place.PEER)
ASSISTED: Final = Arm("assisted", "transformers assisted generate", None, Place.PEER)

STANDARD: Final = (CLOUD, LOOKUP, SYNC, COLOCATED, DEFAULT, CHAIN, TREE)
PEERS: Final = (GENERATE, ASSISTED)


def distinct(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Without an arm that is an earlier one by another name; that one's name says so.

    What the product chooses by itself is a tree or a chain as well: measuring it twice would show noise only.
    """
    kept: list[Arm] = []
    for arm in arms:
        twin = next((n for n, one in enumerate(kept) if _same(one, arm)), None)
        if twin is None:
            kept.append(arm)
        else:
            also = arm.name.rpartition(", ")[2]
            kept[twin] = replace(kept[twin], name=f"{kept[twin].name} (default: {also})")
    return tuple(kept)


def for_pair(pair: Pair, *, deployed: bool, peers: bool) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The arms that apply, and why others do not."""
    arms, skipped = list(STANDARD), []
    if deployed:
        arms.remove(COLOCATED)
        skipped += [
            f"no {COLOCATED.name}: no drafter can be put on the host of a server that is deployed already",
            "a server that is deployed already guesses and waits as it was started, in all arms",
        ]
    if deployed or pair.profile is not None:
        arms.remove(LOOKUP)
    if peers and pair.profile is None and not deployed:
        arms += PEERS
    return distinct(arms), tuple(skipped)


def _same(one: Arm, other: Arm) -> bool:
    if one.draft is None or other.draft is None:
        return False
    shaped = [replace(arm.draft, shape=arm.draft.shape_for()) for arm in (one, other) if arm.draft]
    where = [(arm.place, arm.link, arm.cloud, arm.server) for arm in (one, other)]
    return shaped[0] == shaped[1] and where[0] == where[1]
