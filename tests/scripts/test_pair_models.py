"""The training's model, its losses and its evaluation, on random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.pair.data import Mixture, consecutive_windows
from scripts.pair.distil import distillation_loss, greedy_agreement
from scripts.pair.evaluate import acceptance, repetition
from scripts.pair.export import export_drafter
from scripts.pair.generate import generate
from scripts.pair.model import Llama, exit_as_drafter
from scripts.pair.optimizer import Optimizer, orthogonalise
from scripts.pair.runtime import OnnxDrafter
from scripts.pair.save import numpy_weights, save_target
from scripts.pair.shape import END_OF_TEXT_ID, PADDING_ID, Shape
from scripts.pair.tokenizer import train_tokenizer

SHAPE = Shape(
    layers=3, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocabulary=300, max_positions=64
)
TEXTS = ["def first(second):\n    return third\n" * 5, "for each in range(9):\n    print(each)\n"]


def random_model(seed: int, exit_layer: int | None = None) -> Llama:
    """Layers that outweigh the embedding: with tied weights, the next token would else be the last one again."""
    torch.manual_seed(seed)
    model = Llama(SHAPE, exit_layer).eval().requires_grad_(requires_grad=False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parameter.mul_(5.0 if "embed" in name else 12.0)
    return model


@pytest.fixture
def model() -> Llama:
    return random_model(1, exit_layer=2)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, SHAPE.vocabulary)


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(2, 300, (rows, length)))


def test_saved_target_is_the_model_that_was_trained(model, tokenizer, tmp_path):
    save_target(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    batch = ids(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch).logits, model(batch), atol=2e-2, rtol=1e-2)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.pad_token_id == PADDING_ID == loaded.generation_config.pad_token_id
    assert ours.eos_token_id == END_OF_TEXT_ID == loaded.config.eos_token_id
    assert ours.decode(ours.encode("héllo\n\tworld  ")) == "héllo\n\tworld  "
    assert tokenizer.encode("def first").ids == ours.encode("def first")  # no token is added


def test_cached_steps_give_the_uncached_logits(model):
    batch = ids(3, 20)
    caches = model.empty_caches(3, 20, torch.float32)
    rows = [model.step(batch[:, :9], caches, 0)]
    rows += [model.step(batch[:, at : at + 1], caches, at) for at in range(9, 20)]
    torch.testing.assert_close(torch.stack(rows, dim=1), model(batch)[:, 8:], atol=1e-4, rtol=1e-4)


def test_the_exit_becomes_a_drafter(model):
    batch = ids(2, 20)
    torch.testing.assert_close(exit_as_drafter(model)(batch), model.both_logits(batch)[1])
    with pytest.raises(ValueError, match="no early exit"):
        Llama(SHAPE).both_logits(batch)
    with pytest.raises(ValueError, match="no early exit"):
        exit_as_drafter(Llama(SHAPE))


def test_generation_is_greedy_where_it_is_not_sampled(model):
    prompts = ids(4, 12)
    texts = generate(model, prompts, 24, sampled_rows=2)
    again = generate(model, prompts, 24, sampled_rows=2)
    torch.testing.assert_close(texts[:, :12], prompts)
    assert (texts[2:] == again[2:]).all()
    assert (texts[:2] != again[:2]).any()
    assert greedy_agreement(model, model, texts, 12) == 1.0
    with torch.autocast("cpu", torch.bfloat16):
        follows = model(texts[2:, :-1]).argmax(-1)[:, 11:] == texts[2:, 12:]
    assert follows.float().mean() > 0.9  # half precision may flip a near-tie


def test_distillation_loss_is_zero_only_at_the_target():
    teacher = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert abs(float(distillation_loss(teacher, teacher, 0.5))) < 1e-6
    assert float(distillation_loss(teacher + 3.0, teacher, 0.5)) < 1e-5  # a constant changes no distribution
    assert float(distillation_loss(teacher.flip(-1), teacher, 0.5)) > 0.1


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(2, 48, 96, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(matrices))
    assert 0.5 < float(singular.min()) < float(singular.max()) < 1.5


def test_the_optimizer_learns_a_pattern():
    torch.manual_seed(0)
    model = Llama(SHAPE, exit_layer=2)
    optimizer = Optimizer(model, muon_rate=5e-3, adam_rate=3e-3, weight_decay=0.1)
    stream = np.tile(np.arange(2, 12, dtype=np.uint16), 40)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(25):
        batch = Mixture((stream,), (1.0,)).batch(rng, 4, 21)
        logits, early = model.both_logits(batch[:, :-1])
        loss = sum(
            torch.nn.functional.cross_entropy(each.flatten(0, 1), batch[:, 1:].flatten())
            for each in (logits, early)
        )
        loss.backward()
        optimizer.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_drafter_that_is_the_target_is_always_accepted(model, tokenizer, tmp_path):
    save_target(model, tokenizer, tmp_path / "target")
    target = AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype=torch.float32).eval()
    files = tmp_path / "target" / "tokenizer.json"
    prompts = [row.tolist() for row in ids(3, 12)]

    def figures(drafter: Llama, folder: str) -> list[float]:
        export_drafter(numpy_weights(drafter), drafter.shape, files, tmp_path / folder, "float32")
        lines = acceptance(target, OnnxDrafter(tmp_path / folder, 64), prompts, 20, END_OF_TEXT_ID)
        return [float(line.split(": ")[1].split()[0]) for line in lines[1:4]]

    assert figures(model, "same") == [1.0, 1.0, 1.0]
    greedy, overlap, coupled = figures(random_model(2), "stranger")
    assert greedy < 0.2
    assert max(overlap, coupled) < 0.8


def test_repetition():
    assert repetition([1, 2, 3, 4, 5, 6, 7]) == 0.0
    assert repetition([1] * 10) == pytest.approx(6 / 7)
    assert repetition([1, 2]) == 0.0


def test_windows_do_not_overlap():
    windows = consecutive_windows(np.arange(10, dtype=np.uint16), 4)
    assert windows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
