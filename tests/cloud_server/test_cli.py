"""`cloud-server` with wrong arguments: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cloud_server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "/no/such/model"), ("/no/such/model", "config.json")),
        (("--model", "profiled:acceptance=7"), ("acceptance", "0..1")),
        (("--model", "profiled:speed=7"), ("speed", "step_ms")),
        (("--model", "profiled", "--listen", "nowhere"), ("--listen nowhere", "HOST:PORT")),
        (("--model", "profiled", "--listen", "127.0.0.1:99999"), ("HOST:PORT",)),
        (("--dtype", "int3"), ("int3", "float32")),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_what_the_user_can_mend_is_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(run("serve", *arguments), *words)


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(run("serve", "--model", "profiled", "--listen", address), address, "taken")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test asks for in vain")
def test_cuda_where_there_is_none_is_one_line() -> None:
    assert_one_line(run("serve", "--device", "cuda"), "cuda")


def test_a_model_that_is_no_decoder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'
    )
    assert_one_line(run("serve", "--model", str(tmp_path)), "not a causal language model")


@pytest.mark.parametrize(
    "option", ["--max-sessions=0", "--patience-ms=-1", "--step-floor-ms=x", "--nonsense"]
)
def test_a_wrong_option_is_named(option: str) -> None:
    result = run("serve", option)
    assert result.returncode == 2
    assert option.partition("=")[0].strip("-") in result.stderr
    assert "Traceback" not in result.stderr
