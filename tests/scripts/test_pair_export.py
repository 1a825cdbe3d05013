"""The exported drafter against transformers: random trees, rollbacks, several new tokens after a past."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.pair.export import export_drafter, metadata, quantise_rows
from scripts.pair.runtime import MASKED, OnnxDrafter
from scripts.pair.shape import Array, Shape

SHAPE = Shape(
    layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocabulary=131, max_positions=64
)
CAPACITY = 96


def random_weights(shape: Shape) -> dict[str, Array]:
    """Float32 weights representable in float16, large enough that logits depend on the whole prefix."""
    generator = torch.Generator().manual_seed(5)
    reference = LlamaForCausalLM(LlamaConfig(**shape.transformers_config()))
    weights = {}
    for name, weight in reference.state_dict().items():
        if name == "lm_head.weight":
            continue
        noise = torch.randn(weight.shape, generator=generator)
        scaled = 1 + 0.1 * noise if weight.dim() == 1 else 1.5 * noise / weight.shape[-1] ** 0.5
        weights[name] = scaled.half().float().numpy()
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return random_weights(SHAPE)


@pytest.fixture(scope="module")
def reference(weights):
    model = LlamaForCausalLM(LlamaConfig(**SHAPE.transformers_config())).float().eval()
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()}, strict=False)
    model.tie_weights()

    @torch.no_grad()
    def last_logits(tokens: list[int]) -> Array:
        return model(torch.tensor([tokens])).logits[0, -1].numpy()

    return last_logits


def exported(weights, folder: Path, storage) -> OnnxDrafter:
    tokenizer = folder / "source.json"
    tokenizer.write_text("{}")
    export_drafter(weights, SHAPE, tokenizer, folder, storage)
    return OnnxDrafter(folder, CAPACITY)


@pytest.fixture(scope="module", params=["float32", "float16"])
def drafter(request, weights, tmp_path_factory) -> OnnxDrafter:
    return exported(weights, tmp_path_factory.mktemp(request.param), request.param)


def worst_difference(drafter: OnnxDrafter, reference, rng: np.random.Generator, shift: int = 0) -> float:
    """A prompt in chunks, then rounds of tree nodes with rollbacks between; `shift` moves the nodes' positions."""
    prompt = rng.integers(0, SHAPE.vocabulary, int(rng.integers(2, 20))).tolist()
    tokens, worst, past = list(prompt), 0.0, 0
    while past < len(prompt):
        chunk = int(rng.integers(1, len(prompt) - past + 1))
        rows = drafter.logits(
            prompt[past : past + chunk], range(past, past + chunk), np.zeros((chunk, past + chunk)), past
        )
        for row in range(chunk):
            worst = max(worst, float(np.abs(rows[row] - reference(prompt[: past + row + 1])).max()))
        past += chunk
    ancestors = [list(range(len(prompt)))]  # the end of the prompt, then one list of slots per tree node
    for _ in range(4):
        new: list[list[int]] = []
        size = int(rng.integers(1, 6))
        for node in range(size):
            known = ancestors + new
            new.append([*known[int(rng.integers(len(known)))], past + node])
        drawn = rng.integers(0, SHAPE.vocabulary, size).tolist()
        tokens = [*tokens[:past], *drawn]
        bias = np.full((size, past + size), MASKED)
        for node, path in enumerate(new):
            bias[node, path] = 0.0
        rows = drafter.logits(drawn, [len(path) - 1 + shift for path in new], bias, past)
        for node, path in enumerate(new):
            worst = max(worst, float(np.abs(rows[node] - reference([tokens[slot] for slot in path])).max()))
        past += size
        ancestors += new
        if rng.random() < 0.5:  # a rollback to some slot behind the prompt
            past = int(rng.integers(len(prompt), past + 1))
            ancestors = [path for path in ancestors if path[-1] < past]
    return worst


def test_trees_chunks_and_rollbacks_give_the_reference_logits(drafter, reference):
    rng = np.random.default_rng(3)
    assert max(worst_difference(drafter, reference, rng) for _ in range(12)) < 2e-4


def test_positions_matter(drafter, reference):
    assert worst_difference(drafter, reference, np.random.default_rng(3), shift=1) > 1e-2


def test_the_mask_matters(drafter):
    hidden = np.zeros((1, 4))
    hidden[0, 1] = MASKED
    drafter.chain_logits([5, 6, 7])
    seen = drafter.logits([8], [3], np.zeros((1, 4)), 3)
    unseen = drafter.logits([8], [3], hidden, 3)
    assert np.abs(seen - unseen).max() > 1e-3


def test_more_slots_than_positions(drafter, reference):
    tokens = list(range(SHAPE.max_positions - 1))
    drafter.chain_logits(tokens)
    past = len(tokens)
    for slot in range(past, past + 20):  # siblings at the last position
        bias = np.full((1, slot + 1), MASKED)
        bias[0, [*range(past), slot]] = 0.0
        rows = drafter.logits([slot], [past], bias, slot)
        np.testing.assert_allclose(rows[0], reference([*tokens, slot]), atol=2e-4)


def test_top_k_is_the_head_of_the_log_softmax(drafter):
    binding = drafter.bind([4, 9, 2], range(3), np.zeros((3, 3)), 0, ["logits", "topk_values", "topk_ids"])
    drafter.session.run_with_iobinding(binding)
    logits, values, ids = (output.numpy()[0] for output in binding.get_outputs()[:3])
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    assert ids.shape == (3, drafter.top_k)
    np.testing.assert_array_equal(ids, np.argsort(-log_p, axis=-1, kind="stable")[:, : drafter.top_k])
    np.testing.assert_allclose(values, np.take_along_axis(log_p, ids, -1), atol=1e-5)


def test_int8_stays_close(weights, reference, tmp_path):
    drafter = exported(weights, tmp_path, "int8")
    tokens = np.random.default_rng(1).integers(0, SHAPE.vocabulary, 40).tolist()
    rows = drafter.chain_logits(tokens)
    wanted = np.stack([reference(tokens[: end + 1]) for end in range(len(tokens))])
    assert np.abs(rows - wanted).mean() < 0.05 * wanted.std()


def test_quantisation_is_within_half_a_step():
    weight = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    weight[2, :32] = 0.0
    steps, scales = quantise_rows(weight)
    restored = (steps.astype(np.float32) - 128).reshape(6, 2, 32) * scales[:, :, None]
    assert (np.abs(restored.reshape(6, 64) - weight) <= np.repeat(scales, 32, axis=1) * 0.5001).all()


def test_metadata_describes_the_graph(drafter, tmp_path, weights):
    exported(weights, tmp_path, "float16")
    about = json.loads((tmp_path / "drafter.json").read_text())
    assert about == metadata(SHAPE, "float16")
    inputs = {each.name: each.shape for each in drafter.session.get_inputs()}
    assert sum(name.startswith("past_key_values.") for name in inputs) == 2 * about["layers"]
    assert inputs["past_key_values.0.key"] == [1, about["kv_heads"], "capacity", about["head_dim"]]


def test_head_dim_is_checked():
    with pytest.raises(ValueError, match="divisible by 16"):
        Shape(layers=1, hidden=32, intermediate=32, heads=4, kv_heads=2, head_dim=8)
