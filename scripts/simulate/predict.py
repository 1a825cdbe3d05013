"""`simulate predict`: what a profiled pair would do over a link, in virtual time, the same on every machine."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from edge_client.policies import DraftOptions, Mode, Shape, policies_for
from shared.errors import UserError
from shared.messages import Limits
from shared.profiled import Profile
from shared.sim.predict import Prediction, default_reconnect, predict

BLOCKS = range(1, 13)
"""Block lengths among which the synchronous arm's best is sought, unless one is given."""
GRANTED_MS = Limits().max_patience_us / 1000
UNLIMITED = 1 << 30


class Arm(enum.StrEnum):
    """Ways to run a pair over a link."""

    CLOUD = "cloud"
    """The target alone; the edge only reads."""
    SYNC = "sync"
    """Classic speculative inference over the link: a block up, a verdict down."""
    CHAIN = "chain"
    """Drafting in flight, one candidate per node."""
    TREE = "tree"
    """Drafting in flight, best first."""


@dataclass(frozen=True, slots=True)
class Question:
    """One line of the table."""

    arm: Arm
    rtt_ms: float
    lookahead: int | None
    """Length of a block; None where there are none."""
    window: int | None
    branches: int

    def draft(self) -> DraftOptions:
        """What an edge would be told to be this arm."""
        if self.arm is Arm.CLOUD:
            return DraftOptions(mode=Mode.CLOUD)
        if self.arm is Arm.SYNC:
            return DraftOptions(mode=Mode.SYNC, lookahead=self.lookahead or 1)
        shape = Shape.CHAIN if self.arm is Arm.CHAIN else Shape.TREE
        return DraftOptions(shape=shape, window=self.window, branches=self.branches, width=self.branches)

    def predict(self, profile: Profile, tokens: int) -> Prediction:
        """The figures of this arm, with the edge's own policies."""
        draft = self.draft()
        shape = draft.shape_for()
        fixed_ms, adaptive_ms = (0.0, 0.0) if shape is None else draft.patience_for(GRANTED_MS)
        return predict(
            profile,
            policies_for(draft, shape, default_reconnect(), UNLIMITED),
            rtt_ms=self.rtt_ms,
            tokens=tokens,
            patience_us=round(fixed_ms * 1000),
            adaptive_patience_us=round(adaptive_ms * 1000),
        )


def predict_command(
    *,
    acceptance: Annotated[float, typer.Option(help="Share of contexts in which the drafter is right.")] = 0.8,
    step_ms: Annotated[float, typer.Option(help="Duration of a verify step.")] = 30.0,
    draft_ms: Annotated[float, typer.Option(help="Duration of a drafter forward.")] = 3.0,
    branch_cost: Annotated[float, typer.Option(help="A further branch costs this share of a forward.")] = 0.1,
    rtt_ms: Annotated[
        list[float] | None, typer.Option(help="Round trip; may be given several times.")
    ] = None,
    arm: Annotated[list[Arm] | None, typer.Option(help="May be given several times. [all]")] = None,
    lookahead: Annotated[int | None, typer.Option(help="Block of the sync arm. [the best of 1..12]")] = None,
    window: Annotated[
        int | None, typer.Option(help="Nodes in flight of the chain and tree arms. [the edge's own]")
    ] = None,
    branches: Annotated[
        int, typer.Option(help="Branches a forward, and candidates a node, of the tree.")
    ] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 400,
    iid: Annotated[bool, typer.Option("--iid", help="Every context alike; else half are easy.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed is another pair of models.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")] = False,
) -> int:
    """What a profiled pair would do over a link: ms per token and what it costs, in virtual time."""
    rtts = rtt_ms or [0.0, 20.0, 50.0, 100.0, 200.0]
    _check(
        tokens=(tokens, 2, 100_000),
        window=(1 if window is None else window, 1, 4096),
        branches=(branches, 1, 64),
    )
    _check(rtt_ms=(max(rtts), 0, 1e6), lookahead=(1 if lookahead is None else lookahead, 1, 1024))
    _check(rtt_ms=(min(rtts), 0, 1e6), seed=(seed, 0, 2**63))
    try:
        profile = Profile(acceptance, step_ms, draft_ms, branch_cost, iid=iid, seed=seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    blocks = BLOCKS if lookahead is None else (lookahead,)
    rows = [
        _best(profile, one, rtt, blocks, window, branches, tokens)
        for rtt in rtts
        for one in (arm or list(Arm))
    ]
    if as_json:
        print(json.dumps([_record(profile, question, figures) for question, figures in rows], indent=1))
    else:
        _table(rows)
    return 0


def _check(**values: tuple[float, float, float]) -> None:
    for name, (value, least, most) in values.items():
        if not least <= value <= most:
            raise UserError(f"--{name.replace('_', '-')} {value}: from {least} to {most}")


def _best(
    profile: Profile,
    arm: Arm,
    rtt_ms: float,
    blocks: Sequence[int],
    window: int | None,
    branches: int,
    tokens: int,
) -> tuple[Question, Prediction]:
    """The figures of one arm: of its fastest block, where there are blocks."""
    found: list[tuple[Question, Prediction]] = []
    for block in blocks if arm is Arm.SYNC else (None,):
        question = Question(arm, rtt_ms, block, window, branches)
        found.append((question, question.predict(profile, tokens)))
    return min(found, key=lambda one: one[1].tpot_ms)


def _record(profile: Profile, question: Question, figures: Prediction) -> dict[str, object]:
    asked = {"arm": question.arm.value, "rtt_ms": question.rtt_ms, "lookahead": question.lookahead}
    pair = {
        "acceptance": profile.acceptance,
        "step_ms": profile.step_ms,
        "draft_ms": profile.draft_ms,
        "seed": profile.seed,
    }
    return {**asked, "pair": pair, **dataclasses.asdict(figures)}


def _table(rows: Sequence[tuple[Question, Prediction]]) -> None:
    names = ("rtt ms", "arm", "block", "TTFT ms", "TPOT ms", "acceptance", "facts", "steps", "B up", "B down")
    print(" ".join(f"{name:>10}" for name in names) + "   (the last four per token)")
    for question, figures in rows:
        cells = (
            f"{question.rtt_ms:g}",
            question.arm.value,
            "" if question.lookahead is None else str(question.lookahead),
            f"{figures.ttft_ms:.1f}",
            f"{figures.tpot_ms:.2f}",
            f"{figures.acceptance_rate:.3f}" if question.arm is not Arm.CLOUD else "",
            f"{figures.facts_per_token:.2f}",
            f"{figures.steps_per_token:.3f}",
            f"{figures.bytes_per_token_up:.0f}",
            f"{figures.bytes_per_token_down:.0f}",
        )
        print(" ".join(f"{cell:>10}" for cell in cells))
