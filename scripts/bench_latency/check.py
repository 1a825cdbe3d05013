"""What must hold, as rules: which cells each needs, and what it says about their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from scripts.bench_latency.arms import CHAIN, CLOUD, COLOCATED, DEFAULT, SYNC, TREE, distinct
from scripts.bench_latency.figures import LATE_MS, ArmFigures, CellFigures, differences, figures
from scripts.bench_latency.grid import STANDARD_PAIR
from scripts.bench_latency.plan import Arm, Cell, Pair, Plan, describe_link, units
from scripts.bench_latency.presets import profiled_pair
from scripts.bench_latency.records import Results
from scripts.wan.profiles import WanProfile
from shared.errors import UserError

RTTS_MS: Final = (0.0, 20.0, 50.0, 100.0, 200.0, 300.0)
PAIRS: Final = (
    "profiled:acceptance=0,step_ms=30,draft_ms=3",
    "profiled:acceptance=0.3,step_ms=30,draft_ms=3,iid=true",
    "profiled:acceptance=0.6,step_ms=30,draft_ms=3",
    STANDARD_PAIR,
    "profiled:acceptance=0.95,step_ms=30,draft_ms=3",
)
OURS: Final = (DEFAULT.key, CHAIN.key, TREE.key)
MOST_OF_CLOUD: Final = 1.03
"""TPOT as a share of cloud alone's."""
MOST_TPOT_MS: Final[Mapping[float, float]] = MappingProxyType(
    {20.0: 12.5, 50.0: 16.0, 100.0: 20.5, 200.0: 26.0}
)
"""By round trip, of the product's default with the standard pair."""
RATE_RTT_MS: Final = 100.0
MOST_OF_UNLIMITED: Final[Mapping[float, float]] = MappingProxyType({250.0: 1.05, 50.0: 1.18})
"""By rate each way (kbit/s): TPOT as a share of that without a limit."""
LOSS: Final = WanProfile(50.0, loss_percent=1.0)
LOSS_TOKENS: Final = 5000
LEAST_TOKENS: Final = 2000
"""Of each arm in each cell, for a verdict to count."""
MOST_ERROR: Final = 0.10
"""Of the live TPOT against the simulated one."""


@dataclass(frozen=True, slots=True)
class CheckSize:
    """How much of each cell."""

    prompts: int = 5
    tokens: int = 400


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule in one place."""

    rule: str
    place: str
    measured: str
    """In words, with figures."""
    limit: str
    passed: bool | None
    """None: it could not be judged; `measured` says why."""


@dataclass(frozen=True, slots=True)
class _Need:
    """Cells that a rule wants to look at."""

    pair: str
    link: WanProfile
    arms: tuple[Arm, ...]
    prompts: int


def check_plan(only: Sequence[str], size: CheckSize) -> Plan:
    """The cells that the rules need, each once.

    Raises:
        UserError: there is no such rule.
    """
    if unknown := [key for key in only if key not in RULES]:
        raise UserError(f"--only {unknown[0]}: choose from {', '.join(RULES)}")
    merged: dict[tuple[str, WanProfile, bool], list[_Need]] = {}
    for key in only or RULES:
        for need in RULES[key].needs(size):
            # Links that differ between arms make a cell of their own.
            merged.setdefault((need.pair, need.link, any(arm.link for arm in need.arms)), []).append(need)
    order = {arm.key: number for number, arm in enumerate((CLOUD, SYNC, COLOCATED, DEFAULT, CHAIN, TREE))}
    cells = []
    for (source, link, own_links), needs in merged.items():
        arms = {arm.key: arm for need in needs for arm in need.arms}
        cells.append(
            _cell(
                profiled_pair(source),
                link,
                sorted(arms.values(), key=lambda arm: order.get(arm.key, len(order))),
                max(need.prompts for need in needs),
                size.tokens,
                ", several rates" if own_links else "",
            )
        )
    return Plan(tuple(cells), "check")


def judge(results: Results) -> list[Verdict]:
    """Every rule whose cells are in the results."""
    cells = figures(results)
    verdicts = [verdict for rule in RULES.values() for verdict in rule.judge(cells)]
    wrong = differences(results)
    texts = len(results.runs)
    same = f"{texts - len(wrong)} of {texts} texts"
    least = min((arm.tokens for cell in cells for arm in cell.arms), default=0)
    return [
        Verdict("identical", "all cells", same, "all", not wrong),
        Verdict(
            "size",
            "all cells",
            f"{least} tokens in the smallest arm",
            f">= {LEAST_TOKENS}: fewer only show the direction",
            True if least >= LEAST_TOKENS else None,
        ),
        *verdicts,
    ]


def _cell(pair: Pair, link: WanProfile, arms: Sequence[Arm], prompts: int, tokens: int, more: str) -> Cell:
    where = describe_link(link) + more
    return Cell(
        f"{pair.name}, {where}", pair, link, distinct(arms), units(prompts, (0,)), tokens, title=where
    )


# ---- never slower than the cloud alone ----


def _need_never_slower(size: CheckSize) -> list[_Need]:
    arms = (CLOUD, DEFAULT, CHAIN, TREE)
    return [_Need(pair, WanProfile(rtt), arms, size.prompts) for pair in PAIRS for rtt in RTTS_MS]


def _judge_never_slower(cells: Sequence[CellFigures]) -> list[Verdict]:
    verdicts = []
    for cell in cells:
        ratios = {arm.arm.name: arm.to_cloud.value for arm in _ours(cell) if arm.to_cloud is not None}
        if not _plain(cell) or not ratios:
            continue
        words = ", ".join(f"{name} {value:.3f}" for name, value in ratios.items())
        verdicts.append(
            Verdict(
                "never-slower",
                cell.cell.key,
                words,
                f"<= {MOST_OF_CLOUD} of cloud alone's TPOT",
                max(ratios.values()) <= MOST_OF_CLOUD,
            )
        )
    return verdicts


# ---- absolute targets ----


def _need_targets(size: CheckSize) -> list[_Need]:
    return [_Need(STANDARD_PAIR, WanProfile(rtt), (CLOUD, DEFAULT), size.prompts) for rtt in MOST_TPOT_MS]


def _judge_targets(cells: Sequence[CellFigures]) -> list[Verdict]:
    verdicts = []
    for cell in cells:
        limit = MOST_TPOT_MS.get(cell.cell.link.rtt_ms)
        arm = cell.arm(DEFAULT.key)
        if limit is None or not _plain(cell) or not _standard(cell) or arm is None or arm.tpot_ms is None:
            continue
        value = arm.tpot_ms.value
        verdicts.append(
            Verdict("targets", cell.cell.key, f"{value:.2f} ms", f"<= {limit:g} ms TPOT", value <= limit)
        )
    return verdicts


# ---- thin links ----


def _need_rates(size: CheckSize) -> list[_Need]:
    link = WanProfile(RATE_RTT_MS)
    thin = tuple(
        replace(
            DEFAULT,
            key=f"rate{rate:g}",
            name=f"Slipstream, {rate:g} kbit/s",
            link=WanProfile(RATE_RTT_MS, up_kbit=rate, down_kbit=rate),
        )
        for rate in MOST_OF_UNLIMITED
    )
    return [_Need(STANDARD_PAIR, link, (replace(DEFAULT, name="Slipstream, unlimited"), *thin), size.prompts)]


def _judge_rates(cells: Sequence[CellFigures]) -> list[Verdict]:
    verdicts = []
    for cell in cells:
        unlimited = cell.arm(DEFAULT.key)
        for rate, limit in MOST_OF_UNLIMITED.items():
            arm = cell.arm(f"rate{rate:g}")
            if arm is None or unlimited is None or arm.to_reference is None:
                continue
            value = arm.to_reference.value
            verdicts.append(
                Verdict(
                    "rates",
                    f"{cell.cell.key}: {rate:g} kbit/s each way",
                    f"{value:.3f}",
                    f"<= {limit:g} of the TPOT without a limit",
                    value <= limit,
                )
            )
    return verdicts


# ---- loss ----


def _need_loss(size: CheckSize) -> list[_Need]:
    return [_Need(STANDARD_PAIR, LOSS, (CLOUD, DEFAULT), -(-LOSS_TOKENS // size.tokens))]


def _judge_loss(cells: Sequence[CellFigures]) -> list[Verdict]:
    verdicts = []
    for cell in cells:
        ours, cloud = cell.arm(DEFAULT.key), cell.arm(CLOUD.key)
        if not cell.cell.link.loss_percent or ours is None or cloud is None:
            continue
        limit = f"no more ITLs above {LATE_MS:g} ms than cloud alone, over {LOSS_TOKENS} tokens"
        if ours.late_share is None or cloud.late_share is None:
            continue
        words = f"{ours.late_share:.2%} against {cloud.late_share:.2%}"
        passed: bool | None = ours.late_share <= cloud.late_share
        if min(ours.tokens, cloud.tokens) < LOSS_TOKENS:
            words, passed = f"{words}, of {min(ours.tokens, cloud.tokens)} tokens only", None
        elif cell.facts is not None and "lost" in cell.facts.cannot_show:
            words, passed = f"{words}; the {cell.facts.enforcer} cannot show loss", None
        verdicts.append(Verdict("loss", cell.cell.key, words, limit, passed))
    return verdicts


# ---- simulator ----


def _need_simulator(size: CheckSize) -> list[_Need]:
    arms = (CLOUD, SYNC, COLOCATED, DEFAULT, CHAIN, TREE)
    return [_Need(STANDARD_PAIR, WanProfile(rtt), arms, size.prompts) for rtt in RTTS_MS]


def _judge_simulator(cells: Sequence[CellFigures]) -> list[Verdict]:
    verdicts = []
    for cell in cells:
        errors = {arm.arm.name: arm.error for arm in cell.arms if arm.error is not None}
        if not errors or not _plain(cell):
            continue
        words = ", ".join(f"{name} {error:+.1%}" for name, error in errors.items())
        passed = max(map(abs, errors.values())) <= MOST_ERROR
        verdicts.append(Verdict("simulator", cell.cell.key, words, f"within {MOST_ERROR:.0%} of it", passed))
    return verdicts


# ---- all of them ----


@dataclass(frozen=True, slots=True)
class Rule:
    """What it needs and what it says."""

    needs: Callable[[CheckSize], list[_Need]]
    judge: Callable[[Sequence[CellFigures]], list[Verdict]]


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "never-slower": Rule(_need_never_slower, _judge_never_slower),
        "targets": Rule(_need_targets, _judge_targets),
        "rates": Rule(_need_rates, _judge_rates),
        "loss": Rule(_need_loss, _judge_loss),
        "simulator": Rule(_need_simulator, _judge_simulator),
    }
)


def _ours(cell: CellFigures) -> list[ArmFigures]:
    return [arm for arm in cell.arms if arm.arm.key in OURS]


def _plain(cell: CellFigures) -> bool:
    """Whether its link has a round trip and nothing else, for every arm."""
    return all(cell.cell.link_of(arm) == WanProfile(cell.cell.link.rtt_ms) for arm in cell.cell.arms)


def _standard(cell: CellFigures) -> bool:
    return cell.cell.pair.source == STANDARD_PAIR
