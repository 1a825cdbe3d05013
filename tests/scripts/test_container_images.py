"""The images hold what their programs need: laid out in a folder, run with the packages that they install alone."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.processes import Child, child
from tests.scripts.container_recipe import (
    PROJECT,
    ROOT,
    Stage,
    effective,
    installation,
    lay_out,
    lineage,
    make_environment,
    stages,
)

IMAGES = {
    "server": ("Dockerfile", "1"),
    "edge": ("Dockerfile.edge", "edge"),
    "wan": ("Dockerfile.edge", "wan"),
}
PROMPT = "def main():"


@functools.cache
def recipe(image: str) -> tuple[dict[str, Stage], list[Stage]]:
    dockerfile, stage = IMAGES[image]
    every = stages(ROOT / dockerfile)
    return every, lineage(every, stage)


@dataclass(frozen=True)
class Unpacked:
    """An image as a folder: app is its /app, venv its /opt/venv."""

    app: Path
    venv: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(self.venv / "bin" / arguments[0]), *arguments[1:]]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # The environment of a container says nothing about this machine's.
        kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        quiet = kept | {
            "HOME": str(self.app.parent),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
            "NO_COLOR": "1",
        }
        command = self.command(*arguments)
        return subprocess.run(
            command,
            cwd=self.app,
            env=quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def unpack(
    image: str, folder: Path, *, without: tuple[str, ...] = (), without_packages: tuple[str, ...] = ()
) -> Unpacked:
    every, line = recipe(image)
    lay_out(line, folder / "app", without=without)
    make_environment(folder / "venv", installation(every), folder / "app", without=without_packages)
    return Unpacked(folder / "app", folder / "venv")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return unpack("server", tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return unpack("edge", tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="module")
def serving(server: Unpacked) -> Iterator[Child]:
    """The server's program with the demo target that came along, on loopback."""
    command = server.command(
        "cloud-server", "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--threads", "1"
    )
    with child("server of the image's files", command, ready_s=100.0) as up:
        yield up


def test_the_server_serves_and_the_edge_generates(serving: Child, edge: Unpacked) -> None:
    texts = []
    for mode in ("stream", "cloud"):
        length = ("--max-new-tokens", "16", "--json", "--mode", mode)
        done = edge.run("edge-client", "generate", PROMPT, "--server", serving.address, *length)
        assert done.returncode == 0, done.stderr
        texts.append(json.loads(done.stdout)["tokens"])
    assert len(texts[0]) == 16
    assert texts[0] == texts[1]


def test_its_health_check_passes(serving: Child, server: Unpacked) -> None:
    done = server.run("cloud-server", "health", "--server", serving.address)
    assert done.returncode == 0, done.stderr


def test_its_health_check_fails_where_nobody_serves(server: Unpacked) -> None:
    done = server.run("cloud-server", "health", "--server", "127.0.0.1:1", "--within-s", "0.5")
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(("image", "package"), [("server", "cloud_server"), ("edge", "edge_client")])
def test_every_module_imports(image: str, package: str, request: pytest.FixtureRequest) -> None:
    unpacked: Unpacked = request.getfixturevalue(image)
    files = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / package).rglob("*.py"))]
    modules = [".".join(file.parts) for file in files if file.name not in {"__init__", "__main__"}]
    assert modules
    done = unpacked.run("python", "-W", "error", "-c", "\n".join(f"import {module}" for module in modules))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("image", "foreign"),
    [
        ("server", ("onnxruntime", "edge_client", "pytest", "matplotlib", "scripts")),
        ("edge", ("torch", "transformers", "cloud_server", "pytest")),
    ],
)
def test_nothing_else_is_there(image: str, foreign: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    """The other half of the promise: what these tests run has nothing of the environment that they run in."""
    unpacked: Unpacked = request.getfixturevalue(image)
    probe = (
        f"import importlib.util as u, sys; sys.path.pop(0); print([n for n in {foreign} if u.find_spec(n)])"
    )
    done = unpacked.run("python", "-c", probe)
    assert done.stdout == "[]\n", done.stderr


def test_the_emulator_emulates(tmp_path: Path) -> None:
    link = ("--target", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--profile", "lan")
    done = unpack("wan", tmp_path).run("python", "-m", "scripts.wan", "proxy", *link, "--control")
    assert done.returncode == 0, done.stderr  # its control is at its end: that is how it stops
    assert done.stdout.startswith("listening on 127.0.0.1:")


# Negative controls: what is taken away is missed, so the tests above can fail.


@pytest.mark.parametrize("missing", ["shared", "cloud_server"])
def test_a_server_without_a_copy_fails(tmp_path: Path, missing: str) -> None:
    done = unpack("server", tmp_path, without=(missing,)).run("cloud-server", "--help")
    assert done.returncode != 0
    assert missing in done.stderr


def test_a_server_without_its_model_says_so(tmp_path: Path) -> None:
    done = unpack("server", tmp_path, without=("models/demo/target",)).run("cloud-server", "serve")
    assert done.returncode == 2
    assert "no demo target" in done.stderr


@pytest.mark.parametrize(
    ("missing", "module"),
    [("typer", "typer"), ("grpcio-health-checking", "grpc_health"), ("safetensors", "safetensors")],
)
def test_a_server_without_a_package_fails(tmp_path: Path, missing: str, module: str) -> None:
    imports = "import cloud_server.__main__, cloud_server.app, safetensors"
    done = unpack("server", tmp_path, without_packages=(missing,)).run("python", "-c", imports)
    assert done.returncode == 1
    assert f"No module named '{module}" in done.stderr


def test_an_edge_without_a_package_fails(tmp_path: Path) -> None:
    unpacked = unpack("edge", tmp_path, without_packages=("tokenizers",))
    assert "No module named 'tokenizers'" in unpacked.run("python", "-c", "import edge_client.app").stderr


def test_an_emulator_without_a_copy_fails(tmp_path: Path) -> None:
    unpacked = unpack("wan", tmp_path)
    shutil.rmtree(unpacked.app / "scripts" / "wan")
    assert unpacked.run("python", "-m", "scripts.wan", "profiles").returncode == 1


# What the instructions say.


@pytest.mark.parametrize("image", IMAGES)
def test_the_environment_finds_what_is_copied(image: str) -> None:
    """Packages are found by a list that was made before they were copied: it must name them all."""
    every, line = recipe(image)
    copied = {path for stage in line for rest in stage.all("COPY") for path in rest.split()[:-1]}
    packages = {path for path in copied if (ROOT / path / "__init__.py").is_file() and "/" not in path}
    assert packages == set(installation(every).packages)


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_without_rights(image: str) -> None:
    _, line = recipe(image)
    user, _, group = effective(line, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(effective(line, "ENTRYPOINT"))
    assert json.loads(effective(line, "CMD"))


def test_the_server_is_safe_by_default() -> None:
    _, line = recipe("server")
    command = json.loads(effective(line, "CMD"))
    assert {"--tls-cert", "--tls-key", "--token-file"} < set(command)
    assert "--allow-insecure-beyond-loopback" not in command
    assert effective(line, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(effective(line, "ENTRYPOINT")) == ["cloud-server"]


@pytest.mark.parametrize("image", IMAGES)
def test_its_label_says_the_version(image: str) -> None:
    _, line = recipe(image)
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in effective(line, "LABEL")
