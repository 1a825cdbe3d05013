"""Tiny random targets of several families, and the reference: transformers' own forward over one whole prefix."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

from cloud_server.model import LoadedModel, load_model
from cloud_server.ragged import Forward
from cloud_server.verifier import Verifier
from shared.sampling import SamplingParams
from shared.step import Step, StepItem, StepNode, StepOutcome

VOCABULARY = 61
CONTEXT = 160

_SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    # Large enough that attention is sharp and a wrong mask shows at once.
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def config_of(family: str) -> PretrainedConfig:
    """`llama`, `qwen2` (biases) and `qwen3` (norms of heads) have a lean decoder.

    `cohere` scales its logits, `gpt2` has learned positions.
    """
    if family == "llama":
        return LlamaConfig(**_SHARED, num_key_value_heads=2, tie_word_embeddings=True)
    if family == "qwen3":
        return Qwen3Config(**_SHARED, num_key_value_heads=1, head_dim=12)
    if family == "qwen2":
        return Qwen2Config(**_SHARED, num_key_value_heads=2)
    if family == "cohere":
        return CohereConfig(**_SHARED, num_key_value_heads=2, logit_scale=0.25)
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=CONTEXT,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )


def save_tiny(folder: Path, family: str = "llama", *, seed: int = 0, **changes: object) -> Path:
    """A model folder with random weights."""
    config = config_of(family)
    for key, value in changes.items():
        setattr(config, key, value)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                # Fresh biases are 0 and fresh norms 1, which hides whether anybody reads them.
                if parameter.ndim == 1:
                    parameter.copy_(torch.randn_like(parameter) * 0.3 + (not name.endswith("bias")))
        module.save_pretrained(folder)
    return folder


class Reference:
    """The stock model, one prefix at a time, nothing cached but answers."""

    def __init__(self, folder: Path) -> None:
        self._module = load_model(folder, device="cpu").module
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.inference_mode()
    def logits(self, prefix: Sequence[int]) -> Tensor:
        """[V] after the prefix."""
        key = tuple(prefix)
        if key not in self._known:
            self._known[key] = self._module(torch.tensor([key]), use_cache=False).logits[0, -1]
        return self._known[key]


@dataclass(frozen=True)
class Seen:
    """Logits that the verifier computed, by session and key."""

    outcome: StepOutcome
    logits: dict[tuple[int, int], Tensor]


class Bench:
    """A verifier under test; `do` also returns the logits behind its facts."""

    def __init__(self, loaded: LoadedModel, **options: object) -> None:
        self.verifier = Verifier(loaded, **options)
        self._number = 0

    def do(self, *items: StepItem, released: Sequence[int] = ()) -> Seen:
        """One step. `released` sessions go first."""
        seen: dict[tuple[int, int], Tensor] = {}
        target = self.verifier._target
        stock = target.logits

        def spy(forward: Forward) -> Tensor:
            logits = stock(forward)
            for wanted, row in zip(forward.wanted, logits, strict=False):
                seen.update({(wanted.share.item.session, key): row.clone() for key in wanted.keys})
            return logits

        target.logits = spy
        try:
            self._number += 1
            return Seen(self.verifier.step(Step(self._number, items, tuple(released))), seen)
        finally:
            target.logits = stock


def path_to(item: StepItem, index: int) -> list[int]:
    """The whole prefix that ends with the item's node; -1: the trunk."""
    tokens: list[int] = []
    while index >= 0:
        tokens.append(item.nodes[index].token)
        index = item.nodes[index].parent
    return [*item.log[: item.length], *reversed(tokens)]


def greatest_error(seen: Seen, items: Sequence[StepItem], reference: Reference) -> float:
    """Over all wanted facts, the greatest difference of a logit to the reference's; asserts that each was answered
    with the reference's argmax unless the two best are closer than that."""
    worst = 0.0
    for item, answer in zip(items, seen.outcome.items, strict=True):
        wanted = [(node.key, index) for index, node in enumerate(item.nodes) if node.wanted]
        if item.end_key is not None:
            wanted.insert(0, (item.end_key, -1))
        assert [key for key, _ in answer.facts] == [key for key, _ in wanted]
        for (key, index), (_, fact) in zip(wanted, answer.facts, strict=True):
            right = reference.logits(path_to(item, index))
            worst = max(worst, float((seen.logits[item.session, key] - right).abs().max()))
            if item.sampling.greedy:
                assert fact.token == int(right.argmax()) or fact.margin < 1e-4
    return worst


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(count)]


def random_tree(
    rng: random.Random, size: int, *, first_key: int = 1, wanted: float = 1.0
) -> tuple[StepNode, ...]:
    """Few tokens, so that siblings repeat now and then; ancestors of a wanted node may be unwanted."""
    return tuple(
        StepNode(first_key + i, rng.randrange(5), rng.randrange(-1, i), rng.random() < wanted)
        for i in range(size)
    )


def chain(tokens: Sequence[int], *, first_key: int = 1) -> tuple[StepNode, ...]:
    return tuple(StepNode(first_key + i, token, i - 1, wanted=True) for i, token in enumerate(tokens))


def item(
    log: Sequence[int],
    nodes: tuple[StepNode, ...] = (),
    *,
    session: int = 1,
    length: int | None = None,
    end_key: int | None = 0,
    sampling: SamplingParams | None = None,
) -> StepItem:
    size = len(log) if length is None else length
    return StepItem(session, log, size, nodes, end_key, sampling or SamplingParams(), size)
