"""Steps over the workers' protocol: what arrives is what was sent, though logs travel in pieces."""

from __future__ import annotations

import math
import random

import pytest

from cloud_server.fleet.codec import (
    OutOfStepError,
    StepDecoder,
    StepEncoder,
    outcome_from_wire,
    outcome_to_wire,
)
from shared.pb.slipstream.worker.v1 import worker_pb2 as pb
from shared.sampling import SamplingParams
from shared.step import Fact, ItemOutcome, Step, StepItem, StepNode, StepOutcome

GREEDY = SamplingParams()
DRAWN = SamplingParams(temperature=0.7, top_k=40, top_p=0.93, min_p=0.01, seed=2**64 - 1)


def item(session: int, log: list[int], length: int, **more: object) -> StepItem:
    fields: dict[str, object] = {"nodes": (), "end_key": None, "sampling": GREEDY, "prompt_length": 1} | more
    return StepItem(session, log, length, **fields)  # type: ignore[arg-type]


def over_the_wire(encoder: StepEncoder, decoder: StepDecoder, step: Step) -> tuple[Step, pb.Step]:
    message = pb.Step.FromString(encoder.encode(step).SerializeToString())
    return decoder.decode(message), message


def means_the_same(got: Step, sent: Step) -> None:
    assert (got.number, got.released) == (sent.number, sent.released)
    for ours, theirs in zip(got.items, sent.items, strict=True):
        assert list(ours.log[: ours.length]) == list(theirs.log[: theirs.length])
        for name in ("session", "length", "nodes", "end_key", "sampling", "prompt_length"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_a_step_arrives_as_it_was_sent() -> None:
    nodes = (StepNode(7, 3, -1, wanted=True), StepNode(2**40, 5, 0, wanted=False))
    step = Step(
        9,
        (
            item(1, [1, 2, 3], 3, nodes=nodes, end_key=0, sampling=DRAWN, prompt_length=2),
            item(-4, [5, 6], 1),
        ),
        (8, -3),
    )
    got, _ = over_the_wire(StepEncoder(), StepDecoder(), step)
    means_the_same(got, step)


def test_each_token_of_a_log_is_sent_once() -> None:
    encoder, decoder, log = StepEncoder(), StepDecoder(), list(range(100))
    sent = []
    for number, length in enumerate((60, 60, 80, 70, 100)):
        got, message = over_the_wire(encoder, decoder, Step(number, (item(1, log, length, end_key=1),)))
        means_the_same(got, Step(number, (item(1, log, length, end_key=1),)))
        sent.append(len(message.items[0].log_tokens))
        assert message.items[0].HasField("sampling") == (number == 0)
    assert sent == [60, 0, 20, 0, 20]


def test_a_released_session_begins_anew_even_in_the_same_step() -> None:
    encoder, decoder = StepEncoder(), StepDecoder()
    over_the_wire(encoder, decoder, Step(1, (item(1, [1, 2, 3], 3), item(2, [4], 1))))
    got, message = over_the_wire(encoder, decoder, Step(2, (item(1, [7, 8], 2, sampling=DRAWN),), (1, 99)))
    assert (list(got.items[0].log), got.items[0].sampling) == ([7, 8], DRAWN)
    assert list(message.items[0].log_tokens) == [7, 8]
    over_the_wire(encoder, decoder, Step(3, (), (1, 2)))
    assert (encoder.sessions, decoder.sessions) == (0, ())


def test_any_sequence_of_steps_arrives() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        encoder, decoder = StepEncoder(), StepDecoder()
        logs = {session: [abs(session), 1] for session in (-2, 1, 2, 3)}
        for number in range(30):
            released = tuple(session for session in logs if rng.random() < 0.1)
            for session in released:
                logs[session] = [rng.randrange(1000)]
            items = []
            for session in rng.sample(sorted(logs), rng.randrange(len(logs) + 1)):
                log = logs[session]
                log += [rng.randrange(1000) for _ in range(rng.randrange(5))]
                nodes = tuple(
                    StepNode(1000 + index, rng.randrange(1000), rng.randrange(-1, index), rng.random() < 0.5)
                    for index in range(rng.randrange(4))
                )
                end = rng.choice((None, number))
                items.append(item(session, log, rng.randrange(1, len(log) + 1), nodes=nodes, end_key=end))
            step = Step(number, tuple(items), released)
            got, _ = over_the_wire(encoder, decoder, step)
            means_the_same(got, step)


@pytest.mark.parametrize(
    "message",
    [
        pb.Item(session=1, log_tokens=[1], length=1),
        pb.Item(session=2, log_known=2, log_tokens=[1], length=3),
        pb.Item(session=2, log_known=1, log_tokens=[1], length=3),
        pb.Item(session=2, log_known=1, length=0),
    ],
    ids=["never begun", "a gap", "a trunk beyond the log", "no trunk"],
)
def test_what_builds_on_nothing_is_refused(message: pb.Item) -> None:
    decoder = StepDecoder()
    decoder.decode(StepEncoder().encode(Step(1, (item(2, [5], 1),))))
    with pytest.raises(OutOfStepError, match=f"session {message.session}"):
        decoder.decode(pb.Step(number=2, items=[message]))


def test_an_outcome_arrives_to_the_last_bit() -> None:
    facts = ((1, Fact(5, math.inf, 0.0)), (2**50, Fact(0, 1e-17, -0.1234567890123456789)))
    outcome = StepOutcome((ItemOutcome(3, facts, 17, 4), ItemOutcome(-1, (), 0, 0)), 123_456)
    message = pb.StepOutcome.FromString(outcome_to_wire(7, outcome).SerializeToString())
    assert (outcome_from_wire(message), message.number) == (outcome, 7)
