"""The verifier's step against transformers' forward on a left-padded batch with DynamicCache: the same new tokens, the
logits at all of them, a token drawn from each, and a rollback after every step.

The work is that of decoding with four drafts a step of which three are accepted: every session brings five new tokens
(the token at its end and a chain of four below it), keeps the first four and rolls one back. So positions move on as
in real decoding. Seeds differ between sessions and between rounds: with one of them repeated, later rounds would find
their noise in the sampler's cache. What a step may find there is the noise of the one position that was rolled back,
one row in five, and that is so in real decoding too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from scripts.bench.measure import seconds, take_turns
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings
from shared.sampling import SamplingParams
from shared.step import Step, StepItem, StepNode

DRAFTS: Final = 4
ACCEPTED: Final = 3
NEW: Final = DRAFTS + 1
ADVANCE: Final = ACCEPTED + 1
"""Tokens by which a log grows in a step: the accepted ones and the correction."""
STAGGER: Final = 16
"""Several sessions differ in length by up to this much to either side."""
UNEVEN: Final = 6
"""Uneven sessions are up to so many times as long as `settings.past`: short and long chats side by side."""
FASTER: Final = Aim("faster", least=1.0)
TWICE: Final = Aim("twice as fast", least=2.0)
TWICE_FROM: Final = 32
"""Sessions."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One round: what every session's text is, and how long it is at the first step."""

    texts: tuple[list[int], ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    """Of the sessions' noise."""
    steps: int
    vocabulary: int

    @classmethod
    def make(
        cls, number: int, sessions: int, settings: BenchSettings, vocabulary: int, *, uneven: bool = False
    ) -> Workload:
        """Random texts with `settings.past` tokens before the middle step, or that many to `UNEVEN` times as many."""
        rng = random.Random(f"{number} {sessions}")
        start = settings.past - settings.steps * ADVANCE // 2
        stagger = 0 if sessions == 1 else min(STAGGER, start - 1)
        low, high = (0, (UNEVEN - 1) * settings.past) if uneven else (-stagger, stagger)
        lengths = tuple(start + rng.randint(low, high) for _ in range(sessions))
        texts = tuple(
            rng.choices(range(vocabulary), k=length + settings.steps * ADVANCE + NEW) for length in lengths
        )
        seeds = tuple(rng.getrandbits(64) for _ in range(sessions))
        return cls(texts, lengths, seeds, settings.steps, vocabulary)

    def drafts(self, session: int, step: int) -> list[int]:
        """The chain below the end: right up to the last one."""
        length, text = self.lengths[session] + step * ADVANCE, self.texts[session]
        return [*text[length : length + ACCEPTED], (text[length + ACCEPTED] + 1) % self.vocabulary]


def measure_verifier(settings: BenchSettings) -> Section:
    """Milliseconds per step of both, for every number of sessions, greedy and at temperature 1."""
    torch.set_num_threads(settings.threads)
    verifier = Verifier(load_model(settings.pair / "target", "cpu", "float32"), prefix_reuse=False)
    peer = AutoModelForCausalLM.from_pretrained(settings.pair / "target", dtype=torch.float32).eval()
    figures, notes = [], []
    cases = [(sessions, False) for sessions in settings.session_counts]
    cases.append((settings.session_counts[-1], True))
    for sessions, uneven in cases:
        for temperature in (0.0, 1.0):
            figure, same = _compare(verifier, peer, sessions, temperature, settings, uneven=uneven)
            figures.append(figure)
            if same:
                notes.append(f"{figure.name}: {same}")
    verifier.close()
    return Section(
        key="verifier",
        title="The verifier's step",
        unit="ms",
        ours="Verifier.step",
        peer="transformers, DynamicCache",
        ratio_of="times as fast",
        settings=(
            f"float32, {settings.threads} torch threads on both sides",
            f"{settings.rounds} rounds of {settings.steps} steps",
            (
                f"per step and session {NEW} new tokens (the end and a chain of {DRAFTS}), past about {settings.past}; "
                f"{ACCEPTED} drafts are accepted, one is rolled back; uneven: {settings.past} to "
                f"{UNEVEN * settings.past} long, which the peer pads"
            ),
            "T=1: coupled noise, a seed per session and round, here; softmax and multinomial there",
        ),
        figures=tuple(figures),
        notes=tuple(notes),
    )


def _compare(
    verifier: Verifier,
    peer: Any,
    sessions: int,
    temperature: float,
    settings: BenchSettings,
    *,
    uneven: bool,
) -> tuple[Figure, str]:
    found: dict[str, dict[int, list[int]]] = {"ours": {}, "peer": {}}
    vocabulary = verifier.info.vocabulary_size

    def ours(number: int) -> float:
        work = Workload.make(number, sessions, settings, vocabulary, uneven=uneven)
        took, found["ours"][number] = our_round(verifier, work, temperature)
        return took

    def theirs(number: int) -> float:
        work = Workload.make(number, sessions, settings, vocabulary, uneven=uneven)
        took, found["peer"][number] = peer_round(peer, work, temperature)
        return took

    rounds = take_turns({"ours": ours, "peer": theirs}, settings.rounds)
    kind = f"{'uneven ' if uneven else ''}session{'s' if sessions > 1 else ''}"
    name = f"{sessions} {kind}, {'T=1' if temperature else 'greedy'}"
    figure = Figure(
        name,
        rounds.spread("ours"),
        rounds.spread("peer"),
        rounds.ratio("peer", "ours"),
        TWICE if sessions >= TWICE_FROM else FASTER,
    )
    if temperature:
        return figure, ""  # two different draws from one distribution
    pairs = [
        (mine, other)
        for number, tokens in found["ours"].items()
        for mine, other in zip(tokens, found["peer"][number], strict=True)
    ]
    same = sum(mine == other for mine, other in pairs)
    return figure, f"{same} of {len(pairs)} facts are transformers' own argmax"


def our_round(verifier: Verifier, work: Workload, temperature: float) -> tuple[float, list[int]]:
    """Milliseconds per step, and the tokens drawn."""
    count = len(work.texts)

    def item(session: int, length: int, drafts: list[int], *, wanted: bool) -> StepItem:
        nodes = tuple(StepNode(1 + i, token, i - 1, wanted=True) for i, token in enumerate(drafts))
        text, end = work.texts[session], 0 if wanted else None
        sampling = SamplingParams(temperature=temperature, seed=work.seeds[session])
        return StepItem(session, text, length, nodes, end, sampling, work.lengths[session])

    prefill = tuple(item(i, work.lengths[i] - 1, [], wanted=False) for i in range(count))
    verifier.step(Step(0, prefill))
    steps = [
        Step(
            1 + step,
            tuple(
                item(i, work.lengths[i] + step * ADVANCE, work.drafts(i, step), wanted=True)
                for i in range(count)
            ),
        )
        for step in range(work.steps)
    ]
    outcomes = []

    def timed() -> None:
        outcomes.extend([verifier.step(step) for step in steps])

    took = seconds(timed)
    verifier.step(Step(1 + work.steps, (), released=tuple(range(count))))
    computed = {one.computed for outcome in outcomes for one in outcome.items}
    if computed != {NEW}:
        raise AssertionError(f"a step was to compute {NEW} tokens per session, it computed {computed}")
    drawn = [fact.token for outcome in outcomes for one in outcome.items for _, fact in one.facts]
    return took / work.steps * 1e3, drawn


@torch.inference_mode()
def peer_round(peer: Any, work: Workload, temperature: float) -> tuple[float, list[int]]:
    """The same with transformers: one rectangle of tokens, a mask over the padding on the left."""
    count, longest = len(work.texts), max(work.lengths)
    padding = torch.tensor([longest - length for length in work.lengths])
    cache = DynamicCache(config=peer.config)

    def arguments(ids: Tensor, first: int) -> dict[str, Tensor]:
        """Of a forward of ids [B, n] whose first column is column `first` of the rectangle."""
        columns = torch.arange(first, first + ids.shape[1])
        positions = (columns - padding[:, None]).clamp(min=0)
        if not bool(padding.any()):
            return {"input_ids": ids, "position_ids": positions}
        mask = (torch.arange(first + ids.shape[1]) >= padding[:, None]).long()
        return {"input_ids": ids, "position_ids": positions, "attention_mask": mask}

    prompts = [
        [0] * (longest - length) + text[: length - 1]
        for text, length in zip(work.texts, work.lengths, strict=True)
    ]
    peer(**arguments(torch.tensor(prompts), 0), past_key_values=cache, use_cache=True)
    inputs = []
    for step in range(work.steps):
        ends = [
            text[length + step * ADVANCE - 1] for text, length in zip(work.texts, work.lengths, strict=True)
        ]
        rows = [[ends[i], *work.drafts(i, step)] for i in range(count)]
        inputs.append(arguments(torch.tensor(rows), longest - 1 + step * ADVANCE))
    drawn: list[int] = []

    def timed() -> None:
        for given in inputs:
            logits = peer(**given, past_key_values=cache, use_cache=True).logits.flatten(0, 1)
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
            else:
                chosen = logits.argmax(-1)
            drawn.extend(chosen.tolist())
            cache.crop(ADVANCE - NEW)

    return seconds(timed) / work.steps * 1e3, drawn
