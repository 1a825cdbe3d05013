"""What the target alone writes, by transformers and the reference sampling law; and drafters of all tempers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from scripts.pair.prompts import held_out_prompts
from shared.policy.expansion import Candidate
from shared.sampling import SamplingParams, draw, rank_candidates

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
TARGET = DEMO / "target"
DRAFTER = DEMO / "drafter"
NEAR_TIE = 1e-4
"""Nats. A mismatch is excused only where the reference's two best scores are closer than this."""


@dataclass
class Reference:
    """The target by itself, as transformers runs it."""

    texts: dict[tuple[object, ...], list[int]] = field(default_factory=dict)

    @cached_property
    def model(self) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
        return [
            tuple(tokenizer.encode(text, add_special_tokens=False).ids[-256:])
            for text in held_out_prompts(32)
        ]

    @property
    def eos(self) -> int:
        return int(self.model.config.eos_token_id)

    def greedy(self, prompt: tuple[int, ...], new: int) -> list[int]:
        """`model.generate(do_sample=False)`."""
        key = ("greedy", prompt, new)
        if key not in self.texts:
            with torch.inference_mode():
                out = self.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=new)
            self.texts[key] = out[0, len(prompt) :].tolist()
        return self.texts[key]

    def sampled(self, prompt: tuple[int, ...], new: int, params: SamplingParams) -> list[int]:
        """The target alone, token by token, drawn with the reference law and the same seed."""
        key = ("sampled", prompt, new, params)
        if key not in self.texts:
            tokens = list(prompt)
            past = None
            while len(tokens) < len(prompt) + new and (len(tokens) == len(prompt) or tokens[-1] != self.eos):
                with torch.inference_mode():
                    out = self.model(
                        torch.tensor([tokens if past is None else tokens[-1:]]), past_key_values=past
                    )
                past = out.past_key_values
                tokens.append(draw(out.logits[0, -1].double().numpy(), params, len(tokens)).token)
            self.texts[key] = tokens[len(prompt) :]
        return self.texts[key]

    def text(self, prompt: tuple[int, ...], new: int, params: SamplingParams) -> list[int]:
        return self.greedy(prompt, new) if params.greedy else self.sampled(prompt, new, params)

    def logits(self, prefix: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.tensor([list(prefix)])).logits[0, -1].double().numpy()

    def difference(
        self, prompt: tuple[int, ...], got: Sequence[int], want: Sequence[int], params: SamplingParams
    ) -> Verdict:
        """Where two texts part, and whether the reference itself was torn there."""
        for index, (ours, theirs) in enumerate(zip(got, want, strict=False)):
            if ours != theirs:
                prefix = [*prompt, *want[:index]]
                margin = draw(self.logits(prefix), params, len(prefix)).margin
                return Verdict(index, margin)
        return (
            Verdict(min(len(got), len(want)), float("inf")) if len(got) != len(want) else Verdict(None, 0.0)
        )


@dataclass(frozen=True)
class Verdict:
    """`position`: first difference; None: none."""

    position: int | None
    margin: float

    @property
    def excused(self) -> bool:
        return self.position is not None and self.margin < NEAR_TIE


class FakeDrafter:
    """A drafter by a function of the prefix."""

    vocabulary_size = 4096
    context_length = 1024
    supports_trees = True
    tokenizer_fingerprint = ""

    def __init__(self, propose: Callable[[list[int], SamplingParams, int], list[Candidate]]) -> None:
        self._propose = propose
        self.forwards = 0

    def forward(
        self,
        log: Sequence[int],
        log_length: int,
        paths: Sequence[tuple[int, ...]],
        sampling: SamplingParams,
        width: int,
    ) -> list[list[Candidate]]:
        self.forwards += 1
        prefix = list(log[:log_length])
        return [self._propose(prefix + list(path), sampling, width) for path in paths]

    def close(self) -> None:
        pass


def random_drafter(vocabulary: int) -> FakeDrafter:
    """Anything at all, the same for the same prefix."""

    def propose(prefix: list[int], sampling: SamplingParams, width: int) -> list[Candidate]:
        generator = np.random.default_rng(prefix)
        return [
            Candidate(int(token), float(cost))
            for token, cost in zip(
                generator.integers(0, vocabulary, width), generator.uniform(0, 2, width), strict=True
            )
        ]

    return FakeDrafter(propose)


def wrong_drafter(prompt: Sequence[int], want: Sequence[int], vocabulary: int) -> FakeDrafter:
    """Never what the target draws, and very sure of it."""

    def propose(prefix: list[int], sampling: SamplingParams, width: int) -> list[Candidate]:
        index = len(prefix) - len(prompt)
        right = want[index] if index < len(want) else 0
        return [Candidate((right + 1 + rank) % vocabulary, 0.01 * rank) for rank in range(width)]

    return FakeDrafter(propose)


def stalling_drafter(inner: FakeDrafter, release: threading.Event, every: int = 3) -> FakeDrafter:
    """Falls silent in each third forward until the event (or half a tenth of a second) has passed."""

    def propose(prefix: list[int], sampling: SamplingParams, width: int) -> list[Candidate]:
        if drafter.forwards % every == 0:
            release.wait(0.05)
        return inner.forward(prefix, len(prefix), [()], sampling, width)[0]

    drafter = FakeDrafter(propose)
    return drafter


def target_drafter(reference: Reference) -> FakeDrafter:
    """The target itself as its drafter: everything it proposes first must be accepted."""

    def propose(prefix: list[int], sampling: SamplingParams, width: int) -> list[Candidate]:
        logits = reference.logits(prefix)
        ids = np.argsort(-logits, kind="stable")
        ranked, probabilities = rank_candidates(ids, logits[ids], sampling, len(prefix))
        return [
            Candidate(int(token), float(-np.log(max(probability, 1e-9))))
            for token, probability in zip(ranked[:width], probabilities[:width], strict=True)
        ]

    return FakeDrafter(propose)
