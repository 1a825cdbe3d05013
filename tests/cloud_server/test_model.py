"""Loading: what a target says about itself, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    T5Config,
)

from cloud_server.model import load_model, require_exact_attention
from cloud_server.target import Target
from shared.errors import UserError
from shared.fingerprint import tokenizer_fingerprint
from tests.cloud_server.tiny_target import CONTEXT, VOCABULARY, config_of, save_tiny


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_tiny(tmp_path / "tiny")


def test_what_a_model_says_about_itself(folder):
    loaded = load_model(folder)
    assert (loaded.name, loaded.vocabulary_size, loaded.context_length) == ("tiny", VOCABULARY, CONTEXT)
    assert loaded.eos_ids == (2,)
    assert (loaded.device.type, loaded.dtype) == ("cpu", torch.float32)
    assert not loaded.module.training
    assert len(loaded.model_fingerprint) == 64
    info = loaded.info
    assert (info.model_fingerprint, info.stop_tokens) == (loaded.model_fingerprint, (2,))


def test_half_precision_on_disk_is_float32_on_a_cpu_unless_asked_for(folder):
    load_model(folder).module.half().save_pretrained(folder)
    assert {p.dtype for p in load_model(folder).module.parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(folder, dtype="bfloat16").module.parameters()} == {torch.bfloat16}


def test_several_end_tokens(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [9, 2]}))
    assert load_model(folder).eos_ids == (2, 9)


def test_the_fingerprint_is_of_what_decides_facts_and_of_nothing_else(folder, tmp_path):
    original = load_model(folder).model_fingerprint
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_model(moved).model_fingerprint == original
    module = load_model(folder).module
    module.save_pretrained(moved, max_shard_size="5KB")
    assert len(list(moved.glob("model-*.safetensors"))) > 1
    (moved / "model.safetensors").unlink(missing_ok=True)
    assert load_model(moved).model_fingerprint == original

    assert load_model(folder, dtype="bfloat16").model_fingerprint != original
    assert load_model(save_tiny(tmp_path / "other", seed=1)).model_fingerprint != original
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    module.save_pretrained(tmp_path / "touched")
    assert load_model(tmp_path / "touched").model_fingerprint != original
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert load_model(folder).model_fingerprint != original


def test_the_fingerprint_of_the_tokenizer(folder):
    assert load_model(folder).tokenizer_fingerprint == tokenizer_fingerprint(folder) == ""
    (folder / "tokenizer.json").write_bytes(b"{}")
    known = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert tokenizer_fingerprint(folder) == tokenizer_fingerprint(folder / "tokenizer.json") == known
    assert load_model(folder).tokenizer_fingerprint == known


def one_line(call, *words: str) -> None:
    with pytest.raises(UserError) as refused:
        call()
    text = str(refused.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_there_is_no_such_model(tmp_path):
    one_line(lambda: load_model(tmp_path / "absent"), "no model folder", "absent")
    one_line(lambda: load_model("./absent"), "no model folder")
    one_line(lambda: load_model("nobody/nothing-of-the-sort"), "nobody/nothing-of-the-sort")
    (tmp_path / "empty").mkdir()
    one_line(lambda: load_model(tmp_path / "empty"), "no usable model")


def test_there_are_no_or_too_few_weights(folder, tmp_path):
    config_of("llama").save_pretrained(tmp_path / "bare")
    one_line(lambda: load_model(tmp_path / "bare"), "weights")
    AutoModel.from_config(config_of("qwen3")).save_pretrained(tmp_path / "headless")
    one_line(lambda: load_model(tmp_path / "headless"), "lacks", "lm_head.weight")


def test_it_is_no_causal_language_model(tmp_path):
    T5Config().save_pretrained(tmp_path / "t5")
    one_line(lambda: load_model(tmp_path / "t5"), "t5", "not a causal language model")


def test_there_is_no_such_device_or_dtype(folder):
    one_line(lambda: load_model(folder, dtype="int3"), "int3", "float32")
    one_line(lambda: load_model(folder, device="abacus"), "abacus")
    one_line(lambda: load_model(folder, device="mps"), "mps")
    one_line(lambda: load_model(folder, device="cuda:99"), "cuda:99")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(sliding_window=128), "window of 128"),
        (Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=2), "sliding_attention"),
        (Gemma2Config(), "sliding_attention"),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic"),
        (BertConfig(is_decoder=True, position_embedding_type="alibi"), "ALiBi"),
        (T5Config(), "encoder-decoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_attention_that_cannot_be_served_exactly_is_refused(config, reason):
    one_line(lambda: require_exact_attention(config), "exactly", reason)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(sliding_window=None),
        MistralConfig(sliding_window=4096, max_position_embeddings=4096),
        Qwen2Config(use_sliding_window=False, sliding_window=64),
        LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
        GPT2Config(),
    ],
    ids=["no window", "window of the whole context", "window switched off", "linear rope", "gpt2"],
)
def test_attention_that_can_be_served_is_not_refused(config):
    require_exact_attention(config)


def test_a_model_that_computes_something_else_is_found_out(folder, monkeypatch):
    """The last line of defence: the adopted model is compared with its stock self."""
    monkeypatch.setattr("cloud_server.lean.LeanDecoder._paired", lambda _, weight: weight.detach())
    one_line(lambda: Target(load_model(folder)), "LlamaForCausalLM", "lean decoder", "differ")


def test_attention_arguments_that_change_scores_are_refused(folder, monkeypatch):
    monkeypatch.setattr("cloud_server.target.CHANGES_SCORES", ("scaling",))
    one_line(lambda: Target(load_model(folder)), "its attention has scaling")
