"""Held-out prompts: pinned, varied, never trained on, and loud when they are missing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.pair.corpus import is_held_out_path, library_files, training_files
from scripts.pair.heldout import choose_spans, write_manifest
from scripts.pair.prompts import (
    HeldOutError,
    held_out_files,
    held_out_prompts,
    installed_prompts,
    library_root,
)

HERE_PROMPTS = 8


def words(text: str) -> int:
    return len(text.split())


def fake_library(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def held_out_name() -> str:
    return next(name for name in (f"module_{i}.py" for i in range(999)) if is_held_out_path(name))


TEXT = "".join(f"def function_{i}(first, second):\n    return first + second * {i}\n\n" for i in range(300))


def test_the_running_interpreter_has_prompts_in_a_fixed_order():
    prompts = held_out_prompts(HERE_PROMPTS)
    assert prompts == held_out_prompts(HERE_PROMPTS)
    assert prompts == installed_prompts()[:HERE_PROMPTS]
    assert len(set(prompts)) == HERE_PROMPTS
    assert all(prompt.strip() and not prompt[-1].isspace() for prompt in prompts)


def test_held_out_files_are_not_trained_on():
    trained = training_files()
    pinned = held_out_files()
    assert trained
    assert {file.sha256 for file in trained}.isdisjoint(entry.sha256 for entry in pinned)
    assert {file.path for file in trained}.isdisjoint(entry.path for entry in pinned)
    assert any(is_held_out_path(file.path) for file in library_files())  # the rule does bite here


def test_too_few_is_an_error_that_says_so():
    with pytest.raises(HeldOutError, match="100000 held-out prompts wanted"):
        held_out_prompts(100_000)
    with pytest.raises(ValueError, match="positive"):
        held_out_prompts(0)


def test_a_changed_file_gives_no_prompts(tmp_path):
    entry = next(entry for entry in held_out_files() if (library_root() / entry.path).is_file())
    content = (library_root() / entry.path).read_bytes()
    changed = tmp_path / entry.path
    changed.parent.mkdir(parents=True, exist_ok=True)
    changed.write_bytes(content + b"\n")
    assert hashlib.sha256(content).hexdigest() in {each.sha256 for each in held_out_files()}
    assert installed_prompts(tmp_path) == []
    changed.write_bytes(content)
    assert len(installed_prompts(tmp_path)) == len(entry.spans)


def test_a_manifest_round_trips(tmp_path):
    root = fake_library(
        tmp_path / "lib", {held_out_name(): TEXT, "test/" + held_out_name(): TEXT, "a.py": "x = 1\n"}
    )
    manifest = tmp_path / "heldout.json"
    count = write_manifest([root], words, manifest)
    prompts = installed_prompts(root, manifest)
    assert count == len(prompts) > 1
    assert all(32 <= words(prompt) <= 256 and prompt in TEXT for prompt in prompts)
    left = [file.path for file in training_files(root, manifest)]
    # The copy in the test suite is kept out by its content, the module by its path.
    assert left == ["a.py"]


def test_spans_end_with_whole_words_and_do_not_overlap():
    spans = choose_spans(TEXT, "seed", words)
    assert spans == sorted(spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(TEXT[end] in " \n" and not TEXT[end - 1].isspace() for _, end in spans)


def test_another_format_version_is_refused(tmp_path):
    manifest = tmp_path / "heldout.json"
    manifest.write_text(json.dumps({"format_version": 99, "files": []}))
    with pytest.raises(ValueError, match="format_version 99"):
        held_out_files(manifest)


def test_prompts_need_the_standard_library_only():
    code = (
        "import sys, scripts.pair.prompts; print(sorted({'torch', 'numpy', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
