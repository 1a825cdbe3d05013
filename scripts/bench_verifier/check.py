"""Does this device state the right facts? For whoever has an accelerator: one command, PASS or FAIL."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from cloud_server.model import LoadedModel
from cloud_server.noise import DeviceNoise, NoiseKey
from cloud_server.sampling import RowSpec, Sampler
from cloud_server.verifier import Verifier
from scripts.bench_verifier.flips import measure_flips
from scripts.bench_verifier.shapes import Maker
from shared.noise import GUMBEL_ULPS, MAX_POSITION, MAX_SEED, NOISE_BITS, gumbel, uniform_bits
from shared.sampling import SamplingParams, draw
from shared.step import Step, StepItem, StepNode

PROMPTS: Final = 6
PROMPT_TOKENS: Final = 40
NEW_TOKENS: Final = 48
CONTEXT: Final = 1024
KV_BYTES: Final = 1 << 28
NEAR_TIE: Final = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.05}
"""Nats: a fact may depend on its company only where the two best tokens are closer than that."""
NOISE_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome."""

    name: str
    passed: bool
    detail: str


def run_checks(make: Maker, device: torch.device) -> Iterator[Finding]:
    """Every check, one after the other. On a CPU the path of an accelerator is checked beside the CPU's own."""
    yield check_noise(device)
    yield check_draws(device)
    for portable in (False, True) if device.type == "cpu" else (False,):
        yield check_greedy(make, portable=portable)
    for dtype in ("float32", "bfloat16"):
        yield check_flips(make, dtype)


def check_noise(device: torch.device) -> Finding:
    """The generator's integers are numpy's bit for bit, and the noise is within the declared ulps."""
    rng = random.Random(1)
    keys = [NoiseKey(0, 0), NoiseKey(MAX_SEED, MAX_POSITION)]
    keys += [NoiseKey(rng.getrandbits(64), rng.getrandbits(40)) for _ in range(30)]
    ids = np.array([rng.randrange(1 << 20) for _ in range(NOISE_TOKENS)], dtype=np.int64)
    noise = DeviceNoise(device)
    on_device = torch.from_numpy(ids).to(device)
    words = noise.words_at(keys, on_device).cpu().numpy().view(np.uint64)
    values = noise.at(keys, on_device).cpu().numpy()
    seeds = np.array([key.seed for key in keys], dtype=np.uint64)[:, None]
    positions = np.array([key.position for key in keys], dtype=np.int64)[:, None]
    same = words >> np.uint64(64 - NOISE_BITS) == uniform_bits(seeds, positions, ids)
    exact = gumbel(seeds, positions, ids)
    ulps = np.abs(values - exact) / (2.0**-52 * np.maximum(1.0, np.abs(exact)))
    return Finding(
        "noise",
        bool(same.all()) and float(ulps.max()) <= GUMBEL_ULPS,
        f"{int(same.sum())} of {same.size} integers are those of numpy, g within {ulps.max():.1f} ulps of it "
        f"({GUMBEL_ULPS} are declared)",
    )


def check_draws(device: torch.device) -> Finding:
    """The batched sampler draws what the reference law draws from the same logits."""
    size, generator = 5000, torch.Generator().manual_seed(2)
    kinds = [
        SamplingParams(),
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=0.7, top_p=0.9, seed=4),
        SamplingParams(temperature=1.3, top_k=50, min_p=0.02, seed=5),
    ]
    rows = [RowSpec(kind, position) for position in range(16) for kind in kinds]
    logits = torch.randn(len(rows), size, generator=generator) * 3
    drawn = Sampler(size, device).draw(logits.to(device), rows)
    right = [draw(row.numpy(), spec.params, spec.position) for row, spec in zip(logits, rows, strict=True)]
    same = sum(a.token == b.token for a, b in zip(drawn, right, strict=True))
    return Finding("draws", same == len(rows), f"{same} of {len(rows)} are those of the reference law")


def check_greedy(make: Maker, *, portable: bool) -> Finding:
    """Float32: sessions that draft well and badly, in one batch, write what `generate` writes."""
    loaded = make("float32", CONTEXT)
    rng = random.Random(4)
    prompts = [
        [rng.randrange(loaded.vocabulary_size) for _ in range(rng.randrange(1, PROMPT_TOKENS))]
        for _ in range(PROMPTS)
    ]
    right = [_generate(loaded, prompt) for prompt in prompts]
    verifier = Verifier(loaded, kv_limit_bytes=KV_BYTES, prefix_reuse=False, portable=portable)
    texts, widest = decode_with_drafts(verifier, prompts, right, NEW_TOKENS)
    same = sum(a == b for a, b in zip(texts, right, strict=True))
    how = "the accelerator's path on a CPU" if portable else "float32"
    verifier.close()
    return Finding(
        f"greedy, {how}",
        same == PROMPTS,
        f"{same} of {PROMPTS} texts of {NEW_TOKENS} tokens are those of generate(); up to {widest} nodes in a step",
    )


def check_flips(make: Maker, dtype: str) -> Finding:
    """Facts depend on their company only in near-ties; in float32 not even there, as far as was seen."""
    report = measure_flips(
        Verifier(make(dtype, CONTEXT), kv_limit_bytes=KV_BYTES, prefix_reuse=False), dtype, rounds=1
    )
    facts = sum(one.facts for one in report.flips)
    return Finding(
        f"flips, {dtype}",
        report.widest <= NEAR_TIE[dtype],
        f"{report.flipped} of {facts} argmaxes differ from plain decoding, the widest at a margin of "
        f"{report.widest:.2g} nats (allowed: {NEAR_TIE[dtype]}); margins moved by up to "
        f"{max(one.drift for one in report.flips):.1g}",
    )


@torch.inference_mode()
def _generate(loaded: LoadedModel, prompt: Sequence[int]) -> list[int]:
    module: Any = loaded.module
    ids = torch.tensor([prompt], device=loaded.device)
    out = module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    written: list[int] = out[0, len(prompt) :].tolist()
    return written


def decode_with_drafts(
    verifier: Verifier, prompts: Sequence[Sequence[int]], hints: Sequence[Sequence[int]], tokens: int
) -> tuple[list[list[int]], int]:
    """Decode all prompts in one batch by the verifier's facts alone, with trees drafted from hints that err.

    Returns:
        the texts, and the most nodes that one step held.
    """
    rng = random.Random(5)
    logs = [list(prompt) for prompt in prompts]
    number = widest = 0
    while any(len(log) < len(prompt) + tokens for log, prompt in zip(logs, prompts, strict=True)):
        items, number = [], number + 1
        for session, (log, prompt, hint) in enumerate(zip(logs, prompts, hints, strict=True)):
            if len(log) < len(prompt) + tokens:
                ahead = hint[len(log) - len(prompt) :][:6]
                nodes = tuple(_draft(ahead, rng, verifier.info.vocabulary_size))
                items.append(StepItem(session, log, len(log), nodes, 0, SamplingParams(), len(prompt)))
        widest = max(widest, sum(len(item.nodes) + 1 for item in items))
        outcome = verifier.step(Step(number, tuple(items)))
        for item, answer in zip(items, outcome.items, strict=True):
            _settle(logs[item.session], item, {key: fact.token for key, fact in answer.facts})
    return [log[len(prompt) :][:tokens] for log, prompt in zip(logs, prompts, strict=True)], widest


def _draft(ahead: Sequence[int], rng: random.Random, vocabulary: int) -> Iterator[StepNode]:
    """A chain of guesses, most of them the hint's, each with a wrong sibling."""
    parent, key = -1, 0
    for token in ahead:
        guess = token if rng.random() < 0.8 else rng.randrange(vocabulary)
        yield StepNode(key + 1, guess, parent, wanted=True)
        yield StepNode(key + 2, (guess + 1) % vocabulary, parent, wanted=True)
        parent, key = key, key + 2


def _settle(log: list[int], item: StepItem, facts: dict[int, int]) -> None:
    """Commit along the tree as far as it agrees with the facts, and one token more."""
    end, key = -1, 0
    while True:
        token = facts[key]
        log.append(token)
        child = next(
            (i for i, node in enumerate(item.nodes) if (node.parent, node.token) == (end, token)), None
        )
        if child is None:
            return
        end, key = child, item.nodes[child].key
