"""What builds and checks images, without an engine: finding one, pip's settings, networks, secrets, compose."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml

from cloud_server.security import ServerSecurity, credentials
from scripts.container.engine import Engine, EngineError, find_engine
from scripts.container.images import IMAGES, Image, base_image, build
from scripts.container.leftovers import undo
from scripts.container.pip_settings import PipSettings, parse
from scripts.wan.profiles import PROFILES
from shared.errors import UserError
from shared.security import ClientSecurity, read_client
from tests.scripts.container_recipe import ROOT, ignore_patterns, in_context

SCRIPT = ROOT / "scripts" / "container" / "trial_secrets.sh"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


# Engines


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    real = shutil.which

    def which(name: str) -> str | None:
        return real(name, path=str(tmp_path / "bin"))

    monkeypatch.setattr(shutil, "which", which)
    return tmp_path / "bin"


def test_an_engine_that_answers_is_taken(programs: Path) -> None:
    program(programs, "docker", "echo 28.0")
    program(programs, "podman", "echo 5.0")
    assert find_engine().name == "docker"


def test_a_docker_client_without_its_daemon_is_passed_over(programs: Path) -> None:
    program(programs, "docker", "echo cannot connect to the daemon >&2; exit 1")
    program(programs, "podman", "echo 5.0")
    assert find_engine().name == "podman"


def test_a_docker_client_alone_is_no_engine(programs: Path) -> None:
    program(programs, "docker", "echo cannot connect to the daemon >&2; exit 1")
    with pytest.raises(UserError, match=r"docker is here but does not work \(cannot connect to the daemon\)"):
        find_engine()


def test_no_engine_at_all_is_one_line(programs: Path) -> None:
    with pytest.raises(UserError, match="install docker or podman"):
        find_engine()


def test_a_failed_command_says_why(programs: Path) -> None:
    program(programs, "podman", "echo no such image >&2; exit 125")
    with pytest.raises(EngineError, match="exit code 125:\nno such image"):
        Engine("podman", ("podman",)).ask("run", "nothing")


def test_a_docker_build_is_not_sent_to_folders_that_it_cannot_see(tmp_path: Path) -> None:
    pip = PipSettings({"find-links": str(tmp_path)})
    with pytest.raises(UserError, match="a docker build sees no folder"):
        build(Engine("docker", ("false",)), Image("x", "Dockerfile"), pip)


def test_a_build_hands_pip_over_as_a_secret(programs: Path, tmp_path: Path) -> None:
    program(programs, "podman", f'case "$1" in image) echo 7;; *) echo "$@" >{tmp_path}/said;; esac')
    pip = PipSettings({"index-url": "https://user:word@index.invalid/", "find-links": str(tmp_path)})
    built = build(Engine("podman", ("podman",)), IMAGES["wan"], pip, ["--build-arg=A=b"])
    said = (tmp_path / "said").read_text()
    assert built.size == 7
    assert "word" not in said
    assert re.search(r"--secret=id=pip.conf,src=\S+", said)
    assert f"--volume={tmp_path}:{tmp_path}:ro --build-arg=A=b --target=wan" in said


def test_the_images_have_one_base() -> None:
    assert re.fullmatch(r"python:3\.11-slim-\w+", base_image())


# pip's settings


def test_a_later_section_wins_and_only_places_count() -> None:
    listing = """\
:env:.find-links='/b'
:env:.default-timeout='9'
global.find-links='/a'
global.no-color='true'
install.extra-index-url='\\nhttps://one.invalid\\nhttps://two.invalid'
"""
    assert parse(listing).options == {
        "find-links": "/b",
        "timeout": "9",
        "extra-index-url": "https://one.invalid https://two.invalid",
    }


def test_an_index_is_seen_with_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "simple").mkdir()
    pip = PipSettings(
        {"index-url": f"file://{tmp_path}/simple", "extra-index-url": "https://other.invalid/simple"}
    )
    assert pip.local == (tmp_path,)


def test_what_is_written_is_what_pip_reads(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    PipSettings({"find-links": "/a%20b /c", "timeout": "9"}).write(file)
    assert file.read_text().split("\n")[:3] == ["[global]", "find-links = /a%20b /c", "timeout = 9"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_authority_of_our_own_travels_as_a_secret(programs: Path, tmp_path: Path) -> None:
    program(programs, "docker", f'case "$1" in image) echo 7;; *) echo "$@" >{tmp_path}/said;; esac')
    pip = PipSettings({"cert": "/etc/ssl/our.crt"})
    pip.write(tmp_path / "pip.conf")
    assert "cert = /run/secrets/pip-ca.crt" in (tmp_path / "pip.conf").read_text()
    build(Engine("docker", ("docker",)), IMAGES["edge"], pip)  # though docker shows a build no folders
    assert "--secret=id=pip-ca.crt,src=/etc/ssl/our.crt" in (tmp_path / "said").read_text()


# Networks


BEFORE = """\
*filter
:FORWARD ACCEPT [5:300]
-A FORWARD -j OTHERS
COMMIT
"""
AFTER = """\
*filter
:FORWARD DROP [9:900]
:NETAVARK_FORWARD - [0:0]
-A FORWARD -j OTHERS
-A FORWARD -j NEWCOMER
-A FORWARD -m comment --comment "netavark firewall plugin rules" -j NETAVARK_FORWARD
COMMIT
*nat
:NETAVARK-DNAT - [0:0]
COMMIT
"""


def test_only_what_podman_added_is_undone() -> None:
    assert undo(BEFORE, AFTER) == [
        (
            "filter",
            [
                "-D",
                "FORWARD",
                "-m",
                "comment",
                "--comment",
                "netavark firewall plugin rules",
                "-j",
                "NETAVARK_FORWARD",
            ],
        ),
        ("filter", ["-X", "NETAVARK_FORWARD"]),
        ("nat", ["-X", "NETAVARK-DNAT"]),
    ]


def test_what_was_there_before_stays() -> None:
    assert undo(AFTER, AFTER) == []


# The context


@pytest.mark.parametrize(
    "path",
    [
        "secrets/tls.key",
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "scripts/demo/run.py",
        "README.md",
        "models/other/target/model.safetensors",
        "shared/__pycache__/wire.cpython-311.pyc",
        "new.txt",
    ],
)
def test_the_context_is_without(path: str) -> None:
    assert not in_context(PurePosixPath(path), ignore_patterns())


@pytest.mark.parametrize(
    "path", ["shared/pb/slipstream/v1/slipstream_pb2.py", "models/demo/target/config.json", "LICENSE"]
)
def test_the_context_is_with(path: str) -> None:
    assert in_context(PurePosixPath(path), ignore_patterns())


# Secrets


@pytest.mark.skipif(shutil.which("openssl") is None, reason="trial secrets are made with openssl")
def test_trial_secrets_are_what_both_sides_take(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = subprocess.run(["sh", SCRIPT, folder], capture_output=True, text=True, check=True)
    assert "token" in made.stdout
    token = folder / "token"
    assert (
        credentials(ServerSecurity(folder / "tls.crt", folder / "tls.key", folder / "ca.crt", token))
        is not None
    )
    client = ClientSecurity(
        tls_ca=folder / "ca.crt",
        tls_cert=folder / "client.crt",
        tls_key=folder / "client.key",
        token_file=token,
    )
    assert len(read_client(client).token or "") == 64
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert (folder / ".gitignore").read_text() == "*\n"
    again = subprocess.run(["sh", SCRIPT, folder], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr


# Compose


@pytest.mark.parametrize("name", ["server", "wan", "edge"])
def test_a_service_can_do_no_more_than_it_must(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["image"] == IMAGES[name].tag
    assert service["build"].get("dockerfile", "Dockerfile") == IMAGES[name].dockerfile
    assert service["build"].get("target") == IMAGES[name].stage
    assert "ports" not in service


def test_a_stop_takes_longer_than_a_drain() -> None:
    server = COMPOSE["services"]["server"]
    (drain,) = (word.partition("=")[2] for word in server["command"] if word.startswith("--drain-s"))
    assert int(server["stop_grace_period"].removesuffix("s")) > float(drain)


def test_the_default_network_exists() -> None:
    (profile,) = (word for word in COMPOSE["services"]["wan"]["command"] if word.startswith("--profile"))
    default = re.fullmatch(r"--profile=\$\{WAN_PROFILE:-([\w-]+)\}", profile)
    assert default is not None
    assert default[1] in PROFILES


def test_the_edge_says_where_the_server_is(tmp_path: Path) -> None:
    """The entry point of compose.yaml, run: the subcommand first, then the server, then what the user gives."""
    program(tmp_path, "edge-client", 'printf "%s\\n" "$@"')
    entry = [word.replace("$$", "$") for word in COMPOSE["services"]["edge"]["entrypoint"]]
    said = subprocess.run(
        [*entry, "generate", "def main():", "--json"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said[:2] == ["generate", "--server=wan:50052"]
    assert said[-2:] == ["def main():", "--json"]


def test_secrets_are_read_from_where_the_script_puts_them() -> None:
    files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert files == {name: f"./secrets/{name}" for name in ("ca.crt", "tls.crt", "tls.key", "token")}
    assert "folder=${1:-secrets}" in SCRIPT.read_text()
