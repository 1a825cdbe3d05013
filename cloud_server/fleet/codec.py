"""Between the values of `shared.step` and the workers' protocol (proto/slipstream/worker/v1/worker.proto).

Logs travel as deltas: the front remembers per worker and session how much of the log it sent, the worker keeps what it
got. Both are forgotten when the session is released, and when the stream ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.errors import SlipstreamError
from shared.pb.slipstream.v1 import slipstream_pb2 as v1
from shared.pb.slipstream.worker.v1 import worker_pb2 as pb
from shared.sampling import SamplingParams
from shared.step import Fact, ItemOutcome, Step, StepItem, StepNode, StepOutcome

PROTOCOL_VERSION = 1


class OutOfStepError(SlipstreamError):
    """The two ends disagree about what was sent: the stream cannot go on."""


class StepEncoder:
    """Steps of one worker, as its front sends them."""

    def __init__(self) -> None:
        self._sent: dict[int, int] = {}

    @property
    def sessions(self) -> int:
        """Sessions of which the worker has been sent something."""
        return len(self._sent)

    def encode(self, step: Step) -> pb.Step:
        """The step, with those tokens of each log that the worker lacks."""
        for session in step.released:
            self._sent.pop(session, None)
        return pb.Step(
            number=step.number, released=step.released, items=[self._item(item) for item in step.items]
        )

    def _item(self, item: StepItem) -> pb.Item:
        known = self._sent.get(item.session, 0)
        self._sent[item.session] = max(known, item.length)
        return pb.Item(
            session=item.session,
            log_known=known,
            log_tokens=item.log[known : item.length],
            length=item.length,
            prompt_length=item.prompt_length,
            sampling=_sampling_to_wire(item.sampling) if known == 0 else None,
            end_key=item.end_key,
            keys=[node.key for node in item.nodes],
            tokens=[node.token for node in item.nodes],
            parents=[node.parent + 1 for node in item.nodes],
            wanted=[node.wanted for node in item.nodes],
        )


@dataclass(slots=True)
class _Session:
    sampling: SamplingParams
    log: list[int] = field(default_factory=list)


class StepDecoder:
    """Steps of one front, as its worker reads them."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}

    @property
    def sessions(self) -> tuple[int, ...]:
        """Sessions of which something is known."""
        return tuple(self._sessions)

    def decode(self, step: pb.Step) -> Step:
        """The step, with the logs put together.

        Raises:
            OutOfStepError: it builds on what was never sent.
        """
        for session in step.released:
            self._sessions.pop(session, None)
        return Step(step.number, tuple(map(self._item, step.items)), tuple(step.released))

    def _item(self, item: pb.Item) -> StepItem:
        known = self._sessions.get(item.session)
        if known is None:
            if not item.HasField("sampling"):
                raise OutOfStepError(f"session {item.session} was never begun")
            known = self._sessions[item.session] = _Session(_sampling_from_wire(item.sampling))
        if item.log_known != len(known.log):
            raise OutOfStepError(
                f"session {item.session}: {len(known.log)} tokens of its log are here, not {item.log_known}"
            )
        known.log += item.log_tokens
        if not 1 <= item.length <= len(known.log):
            raise OutOfStepError(
                f"session {item.session}: a trunk of {item.length} of {len(known.log)} tokens"
            )
        nodes = zip(item.keys, item.tokens, item.parents, item.wanted, strict=True)
        return StepItem(
            session=item.session,
            log=known.log,
            length=item.length,
            nodes=tuple(StepNode(key, token, parent - 1, wanted) for key, token, parent, wanted in nodes),
            end_key=item.end_key if item.HasField("end_key") else None,
            sampling=known.sampling,
            prompt_length=item.prompt_length,
        )


def outcome_to_wire(number: int, outcome: StepOutcome) -> pb.StepOutcome:
    """The answer to step `number`."""
    return pb.StepOutcome(
        number=number,
        items=[
            pb.ItemOutcome(
                session=item.session,
                keys=[key for key, _ in item.facts],
                tokens=[fact.token for _, fact in item.facts],
                margins=[fact.margin for _, fact in item.facts],
                logprobs=[fact.logprob for _, fact in item.facts],
                cached_length=item.cached_length,
                computed=item.computed,
            )
            for item in outcome.items
        ],
        duration_us=outcome.duration_us,
    )


def outcome_from_wire(outcome: pb.StepOutcome) -> StepOutcome:
    """Raises `ValueError` where arrays do not belong together."""
    return StepOutcome(tuple(map(_item_outcome, outcome.items)), outcome.duration_us)


def _item_outcome(item: pb.ItemOutcome) -> ItemOutcome:
    facts = zip(item.keys, item.tokens, item.margins, item.logprobs, strict=True)
    return ItemOutcome(
        session=item.session,
        facts=tuple((key, Fact(token, margin, logprob)) for key, token, margin, logprob in facts),
        cached_length=item.cached_length,
        computed=item.computed,
    )


def _sampling_to_wire(sampling: SamplingParams) -> v1.Sampling:
    return v1.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )


def _sampling_from_wire(sampling: v1.Sampling) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )
