"""`cloud-server` with wrong arguments: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = ROOT / "tests" / "e2e" / "certificates"
CERTIFICATE, KEY, OTHER_KEY, AUTHORITY = (
    str(CERTIFICATES / name) for name in ("server.crt", "server.key", "client.key", "authority.crt")
)
OWN = ("--tls-cert", str(CERTIFICATES / "client.crt"), "--tls-key", OTHER_KEY)
TOKEN = "a-token-of-the-test"


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
        (("--listen", "0.0.0.0:0"), ("TLS (--tls-cert", "a token (--token-file", "127.0.0.1")),
        (("--listen", "[::]:0"), ("--allow-insecure-beyond-loopback",)),
        (("--listen", "name.invalid:0"), ("name.invalid", "resolved")),
        (("--tls-cert", CERTIFICATE), ("--tls-cert without --tls-key",)),
        (("--tls-key", KEY), ("--tls-key without --tls-cert",)),
        (("--tls-client-ca", AUTHORITY), ("--tls-client-ca without TLS",)),
        (("--tls-cert", CERTIFICATE, "--tls-key", OTHER_KEY), ("not the key of",)),
        (("--tls-cert", KEY, "--tls-key", KEY), ("--tls-cert", "not a certificate")),
        (("--tls-cert", CERTIFICATE, "--tls-key", CERTIFICATE), ("--tls-key", "not a private key")),
        (("--tls-cert", "/no/such/file", "--tls-key", KEY), ("/no/such/file", "cannot be read")),
        (("--tls-cert", CERTIFICATE, "--tls-key", KEY, "--tls-client-ca", KEY), ("--tls-client-ca",)),
        (("--token-file", "/no/such/file"), ("/no/such/file", "cannot be read")),
        (("--token-file", os.devnull), (os.devnull, "no token")),
        (("--model", "profiled", "--workers", "0"), ("--workers 0", "--cluster")),
        (("--model", "profiled", "--cluster", "192.0.2.1:5"), ("--cluster 192.0.2.1:5", "--cluster-tls-ca")),
        (("--model", "profiled", "--metrics-listen", "0.0.0.0:0"), ("--metrics-listen", "127.0.0.1")),
        (("--model", "profiled:speed=7", "--workers", "2", "--worker-kind", "process"), ("speed", "step_ms")),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_what_the_user_can_mend_is_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(run("serve", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "profiled:speed=7", "--listen", "127.0.0.1:0"), ("speed", "step_ms")),
        (("--model", "profiled", "--listen", "nowhere"), ("--listen nowhere", "HOST:PORT")),
        (("--listen", "0.0.0.0:0"), ("TLS (--tls-cert", "a token (--token-file", "127.0.0.1")),
        (("--token-file", "/no/such/file"), ("/no/such/file", "cannot be read")),
    ],
)
def test_a_worker_is_as_careful_as_a_server(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(run("worker", *arguments), *words)


@pytest.mark.parametrize("model", ["profiled", "/no/such/model"])
def test_a_taken_port_is_one_line(model: str) -> None:
    """Before the model is loaded, or even looked for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(run("serve", "--model", model, "--listen", address), address, "taken")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test asks for in vain")
def test_cuda_where_there_is_none_is_one_line() -> None:
    assert_one_line(run("serve", "--device", "cuda"), "cuda")


def test_a_model_that_is_no_decoder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'
    )
    assert_one_line(run("serve", "--model", str(tmp_path)), "not a causal language model")


@pytest.mark.parametrize(
    "option", ["--max-sessions=0", "--patience-ms=-1", "--step-floor-ms=x", "--threads=10000", "--nonsense"]
)
def test_a_wrong_option_is_named(option: str) -> None:
    result = run("serve", option)
    assert result.returncode == 2
    assert option.partition("=")[0].strip("-") in result.stderr
    assert "Traceback" not in result.stderr


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own, and its address; stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "cloud_server", "serve", "--model", "profiled", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.communicate()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def health(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("health", "--server", address, *arguments)


def test_health_of_a_server_in_plain_text_and_of_none() -> None:
    with serving("--listen", "127.0.0.1:0") as (_, address):
        assert (health(address).returncode, health(address).stderr) == (0, "")
    gone = health(address)
    assert gone.returncode == 1
    assert re.fullmatch(f"cloud-server: {address} does not answer .*\n", gone.stderr)
    assert_one_line(health("localhost"), "--server localhost", "HOST:PORT")


def test_health_under_mutual_tls_wants_a_certificate_and_no_token(tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text(TOKEN)
    key.write_text(Path(KEY).read_text())
    for path in (token, key):
        path.chmod(0o600)
    protected = ("--tls-cert", CERTIFICATE, "--tls-key", str(key), "--tls-client-ca", AUTHORITY)
    with serving("--listen", "0.0.0.0:0", *protected, "--token-file", str(token)) as (process, address):
        local = address.replace("0.0.0.0", "127.0.0.1")
        assert health(local, "--tls-ca", AUTHORITY, *OWN).returncode == 0
        assert health(local, "--tls-ca", AUTHORITY, *OWN, "--tls-server-name", "cloud.test").returncode == 0
        for arguments in ((), ("--tls-ca", AUTHORITY), ("--tls", *OWN), ("--tls-server-name", "x")):
            assert health(local, *arguments).returncode == 1, arguments
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_secret_that_everybody_may_read_is_a_warning(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    with serving("--listen", "127.0.0.1:0", "--token-file", str(token), "-v") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert f"cloud-server: --token-file {token} can be read by every user" in said
    assert TOKEN not in said


def test_health_needs_no_model_library() -> None:
    """It runs every few seconds for a container's health check."""
    code = (
        "import sys; from cloud_server.__main__ import main; sys.argv[1:] = ['health', '--server', '127.0.0.1:1']\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1 False False\n"


def interrupted(module: str, *arguments: str) -> Iterator[subprocess.CompletedProcess[str]]:
    """Ends of the command, interrupted at more and more of its imports, until it comes to its own end."""
    watch = (
        "import sys, os, signal, runpy\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import {module}, shared.interrupts\n"
        "left = int(sys.argv[1])\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left == 0: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv[1:] = sys.argv[2:]\n"
        "runpy.run_module('{module}.__main__', run_name='__main__', alter_sys=True)\n"
    ).replace("{module}", module)
    count = 2  # the first is the command's own module
    while True:
        done = subprocess.run(
            [sys.executable, "-c", watch, str(count), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        yield done
        if done.returncode != 130:
            return
        count *= 2


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("cloud_server", ("serve", "--model", "profiled", "--listen", "127.0.0.1:0", "--tls-key", KEY)),
        ("edge_client", ("generate", "abc", "--server", "127.0.0.1:1", "--drafter", "none")),
    ],
)
def test_ctrl_c_during_imports_is_silent(module: str, arguments: tuple[str, ...]) -> None:
    *before, last = interrupted(module, *arguments)
    assert len(before) >= 6
    assert {(done.stdout, done.stderr) for done in before} == {("", "")}
    assert last.returncode == 2, last.stderr


def test_a_port_is_free_again_at_once() -> None:
    """Connections that are just ending do not make it look taken."""
    with serving("--listen", "127.0.0.1:0") as (_, address):
        host, port = address.split(":")
        with socket.create_connection((host, int(port))):
            pass
    began = time.monotonic()
    with serving("--listen", address) as (_, again):
        assert again == address
    assert time.monotonic() - began < 30
