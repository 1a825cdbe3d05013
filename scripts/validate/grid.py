"""The rows: round trip by acceptance by policy by clients, each value of each with several of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from scripts.validate.configuration import Configuration, Policy

# Many drafters live in one process and on one core: the more of them, the slower everything must be, so that what they
# compute is little beside what they wait for.
FEW: Final = Configuration(Policy.CLOUD, 0.0, 0.0, clients=4, tokens=100, stretch=6.0)
MANY: Final = Configuration(Policy.CLOUD, 0.0, 0.0, clients=16, tokens=60, stretch=12.0)


def _few(
    policy: Policy, rtt_ms: float, acceptance: float, workers: int = 1, sp_degree: int = 1
) -> Configuration:
    return replace(
        FEW, policy=policy, rtt_ms=rtt_ms, acceptance=acceptance, workers=workers, sp_degree=sp_degree
    )


def _many(policy: Policy, rtt_ms: float, acceptance: float, workers: int = 1) -> Configuration:
    return replace(MANY, policy=policy, rtt_ms=rtt_ms, acceptance=acceptance, workers=workers)


ONE_CLIENT: Final = (
    Configuration(Policy.CLOUD, 0.0, 0.8),
    Configuration(Policy.CLOUD, 200.0, 0.8),
    Configuration(Policy.SYNC, 14.0, 0.8),
    Configuration(Policy.SYNC, 50.0, 0.6),
    Configuration(Policy.SYNC, 100.0, 0.95),
    Configuration(Policy.CHAIN, 0.0, 0.6),
    Configuration(Policy.CHAIN, 14.0, 0.3),
    Configuration(Policy.CHAIN, 50.0, 0.8),
    Configuration(Policy.CHAIN, 200.0, 0.95),
    Configuration(Policy.TREE, 0.0, 0.3),
    Configuration(Policy.TREE, 14.0, 0.8),
    Configuration(Policy.TREE, 50.0, 0.0),
    Configuration(Policy.TREE, 50.0, 0.8),
    Configuration(Policy.TREE, 100.0, 0.6),
    Configuration(Policy.TREE, 200.0, 0.95),
    Configuration(Policy.TREE, 50.0, 0.8, draft_ms=12.0),
    Configuration(Policy.CHAIN_WINDOW, 100.0, 0.8),
    Configuration(Policy.CHAIN_PATIENT, 14.0, 0.8),
    Configuration(Policy.TREE_WINDOW, 100.0, 0.8),
    Configuration(Policy.TREE_EMA, 50.0, 0.8),
    Configuration(Policy.TREE_PATIENT, 50.0, 0.95),
    Configuration(Policy.CHAIN, 14.0, 0.8, workers=3, sp_degree=3),
    Configuration(Policy.TREE, 50.0, 0.6, workers=2, sp_degree=2),
)
FOUR_CLIENTS: Final = (
    _few(Policy.CLOUD, 50.0, 0.8),
    _few(Policy.SYNC, 14.0, 0.8),
    _few(Policy.CHAIN, 50.0, 0.6),
    _few(Policy.TREE, 14.0, 0.8),
    _few(Policy.TREE, 50.0, 0.3),
    _few(Policy.TREE, 100.0, 0.95),
    _few(Policy.TREE, 50.0, 0.8, workers=2),
    _few(Policy.CHAIN, 14.0, 0.8, workers=4, sp_degree=2),
)
SIXTEEN_CLIENTS: Final = (
    _many(Policy.CLOUD, 14.0, 0.8),
    _many(Policy.SYNC, 50.0, 0.8),
    _many(Policy.CHAIN, 14.0, 0.95),
    _many(Policy.TREE, 0.0, 0.0),
    _many(Policy.TREE, 14.0, 0.8),
    _many(Policy.TREE, 50.0, 0.6),
    _many(Policy.TREE, 50.0, 0.8, workers=4),
)
GRID: Final = (*ONE_CLIENT, *FOUR_CLIENTS, *SIXTEEN_CLIENTS)
QUICK: Final = (ONE_CLIENT[0], ONE_CLIENT[7], ONE_CLIENT[12], FOUR_CLIENTS[1])
