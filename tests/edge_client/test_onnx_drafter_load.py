"""What a user may point at: it loads and runs, or one line says what is wrong and what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_client.drafter.interface import Drafter
from edge_client.drafter.load import load_drafter
from edge_client.drafter.runtime import PROVIDERS, available_providers
from shared.errors import UserError
from shared.sampling import SamplingParams
from tests.edge_client.tiny_onnx import (
    TinyShape,
    half,
    write_tree_layout,
    write_usual_layout,
)

LOG = [3, 1, 4, 1, 5, 9, 2, 6]
PATHS = [(), (1,), (1, 2)]


def answers(drafter: Drafter) -> np.ndarray:
    rows = drafter.forward(LOG, len(LOG), PATHS, SamplingParams(), 5)
    return np.array([[candidate.cost for candidate in row] for row in rows])


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    write_tree_layout(folder)
    write_metadata(folder)
    return folder


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trees, tmp_path / "tree"))


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    return write_usual_layout(tmp_path / "usual")


def write_metadata(folder: Path, **changes: object) -> None:
    content = {"format": "slipstream-drafter", "format_version": 1, "max_positions": TinyShape().context}
    content["max_slots"] = 2 * TinyShape().context
    (folder / "drafter.json").write_text(json.dumps(content | changes))


def test_our_layout(tree: Path) -> None:
    drafter = load_drafter(str(tree))
    assert drafter.supports_trees
    assert (drafter.vocabulary_size, drafter.context_length) == (TinyShape().vocabulary, TinyShape().context)
    assert drafter.tokenizer_fingerprint == hashlib.sha256((tree / "tokenizer.json").read_bytes()).hexdigest()
    drafter.close()


def test_usual_layout_gives_the_same(tree: Path, usual: Path) -> None:
    ours, theirs = load_drafter(str(tree)), load_drafter(str(usual))
    assert not theirs.supports_trees
    assert (theirs.vocabulary_size, theirs.context_length) == (TinyShape().vocabulary, TinyShape().context)
    assert answers(theirs) == pytest.approx(answers(ours), abs=1e-4)


def test_usual_layout_wherever_its_files_lie(usual: Path, tmp_path: Path) -> None:
    expected = answers(load_drafter(str(usual)))
    flat = tmp_path / "flat"
    shutil.copytree(usual / "onnx", flat)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(usual / name, flat / name)
    (flat / "model.onnx").rename(flat / "decoder.onnx")
    for source in (usual / "onnx", usual / "onnx" / "model.onnx", flat, flat / "decoder.onnx"):
        assert answers(load_drafter(str(source))) == pytest.approx(expected)


def test_half_precision(usual: Path, tmp_path: Path) -> None:
    folder = write_usual_layout(tmp_path / "half", half(TinyShape()))
    assert answers(load_drafter(str(folder))) == pytest.approx(answers(load_drafter(str(usual))), abs=0.05)


@pytest.mark.parametrize("name", ["num_logits_to_keep", "logits_to_keep"])
def test_inputs_that_are_fed(usual: Path, tmp_path: Path, name: str) -> None:
    folder = write_usual_layout(tmp_path / "more", TinyShape(extra_inputs=(name,)))
    assert answers(load_drafter(str(folder))) == pytest.approx(answers(load_drafter(str(usual))))


def test_merged_decoders_are_told_which_branch_to_take(usual: Path, tmp_path: Path) -> None:
    """The branch without a past gives other logits here, so a wrong answer to `past?` would show."""
    model = onnx.load(usual / "onnx" / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["logits.whole" if name == "logits" else name for name in node.output]
    model.graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    model.graph.node.append(helper.make_node("Not", ["use_cache_branch"], ["first"]))
    model.graph.node.append(helper.make_node("Cast", ["first"], ["first.number"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Cast", ["use_cache_branch"], ["later"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Add", ["first.number", "later"], ["one.float"]))
    model.graph.node.append(helper.make_node("Mul", ["logits.whole", "later"], ["logits"]))
    onnx.save(model, usual / "onnx" / "model.onnx")
    drafter, plain = load_drafter(str(usual)), load_drafter(str(write_usual_layout(tmp_path / "plain")))
    ours, theirs = answers(drafter), answers(plain)
    assert ours[0] == pytest.approx(np.full(5, np.log(TinyShape().vocabulary)), abs=1e-4)
    assert ours[1:] == pytest.approx(theirs[1:], abs=1e-4)


def fails(source: Path, pattern: str, provider: str = "cpu") -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        load_drafter(str(source), provider)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "does not exist: give")
    fails(tmp_path, "holds neither drafter.json nor an ONNX model")


def test_not_an_onnx_file(tmp_path: Path, tree: Path) -> None:
    for content in (b"", b"not a model", b"\x08\x07"):
        (tmp_path / "model.onnx").write_bytes(content)
        fails(tmp_path / "model.onnx", "is not an ONNX model|cannot run")
        (tree / "model.onnx").write_bytes(content)
        fails(tree, "is not an ONNX model|cannot run")


def test_several_models(usual: Path) -> None:
    (usual / "onnx" / "model.onnx").rename(usual / "onnx" / "model_a.onnx")
    shutil.copy(usual / "onnx" / "model_a.onnx", usual / "onnx" / "model_b.onnx")
    fails(usual, "name one of model_a.onnx, model_b.onnx")


def test_missing_files(tree: Path, usual: Path) -> None:
    (usual / "tokenizer.json").unlink()
    fails(usual, "tokenizer.json is missing")
    (usual / "config.json").unlink()
    fails(usual, "config.json is missing")
    (tree / "tokenizer.json").unlink()
    fails(tree, "tokenizer.json is missing")
    (tree / "model.onnx").unlink()
    fails(tree, "no model.onnx")


def test_bad_metadata(tree: Path, usual: Path) -> None:
    write_metadata(tree, format_version=2)
    fails(tree, "format slipstream-drafter version 2, but this client reads slipstream-drafter version 1")
    write_metadata(tree, format="other")
    fails(tree, "format other version 1")
    write_metadata(tree, max_slots=0)
    fails(tree, "'max_slots' must be a positive integer")
    write_metadata(tree, max_positions="many")
    fails(tree, "'max_positions' must be a positive integer")
    (tree / "drafter.json").write_text("{")
    fails(tree, "is not JSON")
    (tree / "drafter.json").write_text("[]")
    fails(tree, "is not a JSON object")
    (usual / "config.json").write_text("{}")
    fails(usual, "'max_position_embeddings' must be a positive integer")


def test_a_graph_of_the_other_layout(tree: Path, usual: Path) -> None:
    ours, theirs = tree / "model.onnx", usual / "onnx" / "model.onnx"
    ours_content = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    fails(tree, "not in the format that its drafter.json states: no attention_bias, seqlens_k")
    theirs.write_bytes(ours_content)
    fails(usual, "'attention_bias', which is not supported")


def test_an_input_that_is_not_understood(tmp_path: Path) -> None:
    fails(
        write_usual_layout(tmp_path, TinyShape(extra_inputs=("token_type_ids",))),
        "'token_type_ids', which is not",
    )


def test_not_a_decoder(tmp_path: Path) -> None:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT64, [1, "S"])

    def save(source: str, target: str) -> None:
        node = helper.make_node("Identity", [source], [target])
        graph = helper.make_graph([node], "other", [info(source)], [info(target)])
        opsets = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")

    save("pixels", "classes")
    fails(tmp_path, "is not a decoder")
    save("input_ids", "logits")
    fails(tmp_path, "no past_key_values inputs")


@pytest.mark.parametrize("provider", ["cuda", "no-such"])
def test_a_provider_that_is_not_there(tree: Path, provider: str) -> None:
    if provider in available_providers():
        pytest.skip("this machine has it")
    fails(tree, f"'{provider}' is not in this onnxruntime: choose one of .*cpu", provider)


def test_a_model_that_loads_and_does_not_run(tree: Path) -> None:
    """It would otherwise fail in the middle of a session."""
    model = onnx.load(tree / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in ("cos", "sin"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:0], tensor.name))
    onnx.save(model, tree / "model.onnx")
    fails(tree, "loads but does not run")


def test_provider_names_are_onnxruntimes_own() -> None:
    assert all(name.endswith("ExecutionProvider") for name in PROVIDERS.values())
    assert "cpu" in available_providers()
