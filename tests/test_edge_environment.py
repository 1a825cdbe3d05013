"""The edge installs without torch and works. These run in `.venv-edge`: the extra `edge`, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-edge" / "bin" / "python"
DRAFTER = ROOT / "models" / "demo" / "drafter"

HEAVY = ("torch", "transformers", "safetensors", "onnx", "ray", "grpc_health", "grpc_reflection", "pytest")
"""Distributions that no edge device needs."""

DRAFT = """
import json, sys
from edge_client.drafter.load import load_drafter
from shared.sampling import SamplingParams

drafter = load_drafter(sys.argv[1])
log = [1, 2, 3]
ends, below = drafter.forward(log, len(log), [(), (4,)], SamplingParams(), 4)
drafter.close()
print(json.dumps({
    "tokens": [candidate.token for candidate in ends],
    "below": len(below),
    "vocabulary": drafter.vocabulary_size,
    "heavy": sorted(name for name in ("torch", "transformers", "cloud_server") if name in sys.modules),
}))
"""


def run_at_the_edge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the edge environment's interpreter, outside the checkout so that only what is installed can be imported."""
    assert PYTHON.exists(), f"{PYTHON.relative_to(ROOT)} is missing: run 'make test', which prepares it"
    quiet = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [str(PYTHON), *arguments],
        cwd="/",
        env=quiet | {"COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def import_of(name: str) -> subprocess.CompletedProcess[str]:
    return run_at_the_edge("-c", f"import {name}")


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_packages_are_absent(name: str) -> None:
    done = import_of(name)
    assert done.returncode == 1
    assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


@pytest.mark.parametrize(
    "name", ["onnxruntime", "tokenizers", "grpc", "jinja2", "shared.wire", "edge_client.drafter.load"]
)
def test_what_the_edge_needs_is_there(name: str) -> None:
    """Negative control of the absences: an import can succeed there."""
    done = import_of(name)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_edge_imports() -> None:
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in sorted((ROOT / "edge_client").rglob("*.py"))
        if path.name not in {"__init__.py", "__main__.py"}
    ]
    assert modules
    done = run_at_the_edge("-W", "error", "-c", "\n".join(f"import {module}" for module in modules))
    assert done.returncode == 0, done.stderr


def test_the_command_line_explains_itself() -> None:
    done = run_at_the_edge("-m", "edge_client", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_demo_drafter_drafts() -> None:
    done = run_at_the_edge("-W", "error", "-c", DRAFT, str(DRAFTER))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(set(answer["tokens"])) == 4
    assert all(0 <= token < answer["vocabulary"] for token in answer["tokens"])
    assert answer["below"] == 4
    assert answer["heavy"] == []


def test_a_wrong_model_path_is_one_clear_line() -> None:
    """Negative control of the draft above: the script fails where there is no model."""
    done = run_at_the_edge("-c", DRAFT, str(ROOT / "models" / "no-such-model"))
    assert done.returncode == 1
    assert "UserError" in done.stderr.splitlines()[-1]
