"""Measure the shipped files: held-out loss, acceptance along the target's own text, step times.

The target runs in transformers as float32, the drafter in onnxruntime as exported. Texts are the target's
continuations of held-out prompts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, DynamicCache

from scripts.pair.corpus import held_out_texts
from scripts.pair.data import consecutive_windows, encode_files
from scripts.pair.prompts import held_out_prompts
from scripts.pair.runtime import OnnxDrafter
from shared.noise import gumbel_rows

Rows = npt.NDArray[np.float64]
NGRAM = 4


@dataclass(frozen=True, slots=True)
class Text:
    """One continuation by the target, with its log-probabilities [new tokens, vocabulary] at each of its tokens."""

    prompt: list[int]
    new: list[int]
    log_p: Rows


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over all prompts, and the 10 %, 50 % and 90 % points of the per-prompt means."""

    mean: float
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, per_prompt: Sequence[float]) -> Spread:
        low, median, high = np.percentile(per_prompt, [10, 50, 90])
        return cls(float(np.mean(per_prompt)), float(low), float(median), float(high))

    def __str__(self) -> str:
        return f"{self.mean:.3f} (per prompt 10/50/90 %: {self.low:.2f}/{self.median:.2f}/{self.high:.2f})"


def noise(seed: int, first: int, count: int, vocabulary: int) -> Rows:
    """Gumbel noise of `count` positions from `first` on, float64 [count, vocabulary]."""
    seeds = np.full(count, seed, dtype=np.uint64)
    return gumbel_rows(seeds, np.arange(first, first + count, dtype=np.int64), vocabulary)


def log_softmax(logits: npt.NDArray[Any]) -> Rows:
    """In float64, over the last axis."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    result: Rows = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@torch.no_grad()
def write_text(target: Any, prompt: list[int], tokens: int, seed: int | None, end: int) -> Text:
    """Up to `tokens` tokens, greedy or (with a seed) noise-coupled at T = 1, ending at the end-of-text token."""
    cache, given, new, rows = DynamicCache(config=target.config), prompt, [], []
    for position in range(len(prompt), len(prompt) + tokens):
        logits = target(torch.tensor([given]), past_key_values=cache, use_cache=True).logits[0, -1]
        log_p = log_softmax(logits.numpy())
        scores = log_p if seed is None else log_p + noise(seed, position, 1, len(log_p))[0]
        new.append(int(scores.argmax()))
        rows.append(log_p)
        given = new[-1:]
        if given == [end]:
            break
    return Text(prompt, new, np.stack(rows))


def drafter_log_q(drafter: OnnxDrafter, text: Text) -> Rows:
    """The drafter's log-probabilities [new tokens, vocabulary] where the target wrote its text."""
    ids = [*text.prompt, *text.new]
    return log_softmax(drafter.chain_logits(ids)[len(text.prompt) - 1 : -1])


def repetition(tokens: Sequence[int]) -> float:
    """Share of the 4-grams that occurred before in the same text."""
    grams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def median_microseconds(step: Callable[[], object], repeats: int) -> float:
    """The median time of one call."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


@torch.no_grad()
def target_step_microseconds(target: Any, past: int, threads: int, repeats: int = 100) -> float:
    """One new token after `past`, in transformers with its own cache."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    cache = DynamicCache(config=target.config)
    target(torch.zeros(1, past, dtype=torch.int64) + 7, past_key_values=cache, use_cache=True)

    def step() -> None:
        target(torch.tensor([[7]]), past_key_values=cache, use_cache=True)
        cache.crop(-1)  # removes one token

    result = median_microseconds(step, repeats)
    torch.set_num_threads(before)
    return result


def drafter_step_microseconds(drafter: OnnxDrafter, past: int, branches: int, repeats: int = 400) -> float:
    """One call for `branches` new nodes after `past` tokens, first choices out."""
    bias = np.zeros((branches, past + branches))
    binding = drafter.bind([7] * branches, [past] * branches, bias, past, ["topk_values", "topk_ids"])
    return median_microseconds(lambda: drafter.session.run_with_iobinding(binding), repeats)


@torch.no_grad()
def held_out_losses(
    target: Any, drafter: OnnxDrafter, tokenizer: Tokenizer, window: int = 512
) -> tuple[float, float]:
    """Nats per token of target and drafter over the held-out files."""
    windows = consecutive_windows(encode_files(tokenizer, held_out_texts()), window)
    sums = np.zeros(2)
    for row in windows:
        logits = (target(row[None, :-1]).logits[0], torch.from_numpy(drafter.chain_logits(row[:-1].tolist())))
        sums += [float(functional.cross_entropy(each.float(), row[1:])) for each in logits]
    return float(sums[0] / len(windows)), float(sums[1] / len(windows))


def acceptance(
    target: Any, drafter: OnnxDrafter, prompts: Sequence[list[int]], tokens: int, end: int
) -> list[str]:
    """Lines for the model card: the three acceptance figures, and how repetitive the texts are."""
    vocabulary = drafter.vocabulary
    greedy: list[float] = []
    overlap: list[float] = []
    coupled: list[float] = []
    repeats: dict[str, list[float]] = {"greedy": [], "T = 1": []}
    lengths = 0
    for seed, prompt in enumerate(prompts):
        text = write_text(target, prompt, tokens, None, end)
        log_q = drafter_log_q(drafter, text)
        greedy.append(float((log_q.argmax(-1) == np.array(text.new)).mean()))
        repeats["greedy"].append(repetition(text.new))
        lengths += len(text.new)
        text = write_text(target, prompt, tokens, seed, end)
        log_q = drafter_log_q(drafter, text)
        overlap.append(float(np.minimum(np.exp(log_q), np.exp(text.log_p)).sum(-1).mean()))
        choices = (log_q + noise(seed, len(prompt), len(text.new), vocabulary)).argmax(-1)
        coupled.append(float((choices == np.array(text.new)).mean()))
        repeats["T = 1"].append(repetition(text.new))
    return [
        f"{len(prompts)} held-out prompts, up to {tokens} tokens each ({lengths} greedy tokens)",
        f"greedy acceptance: {Spread.of(greedy)}",
        f"1 - TV at T = 1: {Spread.of(overlap)}",
        f"noise-coupled acceptance at T = 1: {Spread.of(coupled)}",
        f"repeated 4-grams, greedy text: {Spread.of(repeats['greedy'])}",
        f"repeated 4-grams, text at T = 1: {Spread.of(repeats['T = 1'])}",
    ]


def evaluate(pair: Path, prompt_count: int, tokens: int, say: Callable[[str], None]) -> None:
    """Print every figure of the model card for the pair in folder `pair`."""
    target = AutoModelForCausalLM.from_pretrained(pair / "target", dtype=torch.float32).eval()
    drafter = OnnxDrafter(pair / "drafter", capacity=target.config.max_position_embeddings)
    tokenizer = Tokenizer.from_file(str(pair / "target" / "tokenizer.json"))
    past = 128
    fast = drafter_step_microseconds(drafter, past, 1)
    say(f"drafter step, onnxruntime, 1 thread, past {past}: {fast:.0f} us")
    for branches in (2, 4, 8):
        say(f"  {branches} branches: {drafter_step_microseconds(drafter, past, branches):.0f} us")
    for threads in (1, 2):
        slow = target_step_microseconds(target, past, threads)
        say(f"target step, transformers, {threads} threads: {slow:.0f} us, {slow / fast:.1f} drafter steps")
    losses = held_out_losses(target, drafter, tokenizer)
    say(f"held-out loss, nats per token: target {losses[0]:.3f}, drafter {losses[1]:.3f}")
    prompts = [tokenizer.encode(prompt).ids for prompt in held_out_prompts(prompt_count)]
    for line in acceptance(target, drafter, prompts, tokens, target.config.eos_token_id):
        say(line)
