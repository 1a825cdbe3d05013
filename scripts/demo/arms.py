"""The three ways to write the same text, and what one generation of each gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_client.app import Client, GenerateOptions, GenerateResult
from edge_client.policies import DraftOptions, Mode
from scripts.demo.view import View
from scripts.wan.process import WanProcess
from shared.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to write."""

    key: str
    name: str
    draft: DraftOptions


@dataclass(frozen=True, slots=True)
class Sample:
    """One generation. Milliseconds at the edge; bytes are TCP payload at the emulator, framing included."""

    arm: str
    prompt: int
    tokens: tuple[int, ...]
    text: str
    ttft_ms: float
    tpot_ms: float | None
    """None: fewer than two tokens."""
    acceptance_rate: float | None
    drafted: int
    sent: int
    verified: int
    stale: int
    steps: int
    self_decoded: int
    reconnects: int
    link_bytes_up: int
    link_bytes_down: int
    message_bytes_up: int
    """Serialized messages alone."""
    message_bytes_down: int


def arms(lookahead: int) -> tuple[Arm, ...]:
    """The baseline first: the others are compared with it."""
    return (
        Arm("cloud", "cloud alone", DraftOptions(mode=Mode.CLOUD)),
        Arm("sync", f"sync SI, lookahead {lookahead}", DraftOptions(mode=Mode.SYNC, lookahead=lookahead)),
        Arm("stream", "Slipstream", DraftOptions(mode=Mode.STREAM)),
    )


async def play(
    client: Client,
    wan: WanProcess,
    ways: Sequence[Arm],
    prompts: Sequence[str],
    tokens: int,
    sampling: SamplingParams,
    view: View,
) -> list[Sample]:
    """Every prompt by every arm, one generation at a time: side by side they would take each other's cores.

    Which arm goes first changes from prompt to prompt, so that none always meets the caches warm.
    """
    samples = []
    for number, prompt in enumerate(prompts):
        view.prompt(number, len(prompts), prompt)
        turn = number % len(ways)
        for arm in (*ways[turn:], *ways[:turn]):
            sample = await _generate(client, wan, arm, number, prompt, tokens, sampling, view)
            view.finish(arm.key, len(sample.tokens), sample.tpot_ms, sample.drafted)
            samples.append(sample)
    return samples


async def _generate(
    client: Client,
    wan: WanProcess,
    arm: Arm,
    number: int,
    prompt: str,
    tokens: int,
    sampling: SamplingParams,
    view: View,
) -> Sample:
    options = GenerateOptions(prompt=prompt, max_new_tokens=tokens, sampling=sampling, draft=arm.draft)
    view.begin(arm.key)
    before = wan.traffic()
    result = await client.generate(
        options,
        on_text=lambda piece: view.text(arm.key, piece),
        on_tokens=lambda new: view.tokens(arm.key, len(new)),
    )
    after = wan.traffic()
    up, down = after.bytes_up - before.bytes_up, after.bytes_down - before.bytes_down
    return _sample(arm, number, result, up, down)


def _sample(arm: Arm, number: int, result: GenerateResult, up: int, down: int) -> Sample:
    stats = result.stats
    if stats.ttft_ms is None:
        raise AssertionError("a finished generation has at least one token")
    return Sample(
        arm=arm.key,
        prompt=number,
        tokens=result.tokens,
        text=result.text,
        ttft_ms=stats.ttft_ms,
        tpot_ms=stats.tpot_ms,
        acceptance_rate=stats.acceptance_rate,
        drafted=stats.drafted,
        sent=stats.sent,
        verified=stats.verified,
        stale=stats.stale,
        steps=stats.steps,
        self_decoded=stats.self_decoded,
        reconnects=stats.reconnects,
        link_bytes_up=up,
        link_bytes_down=down,
        message_bytes_up=stats.bytes_up,
        message_bytes_down=stats.bytes_down,
    )
