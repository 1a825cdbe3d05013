"""A stand-in for the base image, and podman settings for a machine that has neither a registry nor systemd.

The real base is an official image. Where no registry can be reached, Debian's own archive holds the same distribution
and the same minor version of Python, of which debootstrap makes a folder and podman an image *under the name that the
Dockerfiles use*. It is not the real one: its Python lies under /usr/bin and is Debian's build. What it shows is that
the Dockerfiles build and that what they build serves; sizes are about right, no more. It lives in a store of its own,
so that nothing else is ever built from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from scripts.container.engine import Engine, EngineError
from scripts.container.images import base_image
from shared.errors import UserError

WORKPLACE: Final = Path("/var/tmp/slipstream-container")  # noqa: S108 - root's own, made with its rights
"""Where base, images and settings are kept between runs; a few gigabytes. May be removed at any time."""
TOOLS: Final = ("podman", "runc", "debootstrap", "apt-get", "iptables")
PACKAGES: Final = "podman runc debootstrap iptables netavark aardvark-dns"
INCLUDED: Final = "ca-certificates,python3,python3-venv"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOTSTRAP_S: Final = 1200.0

CONTAINERS_CONF: Final = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "{workplace}/networks"
"""
STORAGE_CONF: Final = """
[storage]
driver = "overlay"
graphroot = "{workplace}/store"
runroot = "{workplace}/run"
"""


def stand_in_engine(workplace: Path = WORKPLACE) -> Engine:
    """Podman with settings and a store of its own, which holds the stand-in base.

    Raises:
        UserError: this is not root on a Debian with the tools.
        EngineError: the base could not be made.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not found: apt-get install --no-install-recommends {PACKAGES}")
    if os.geteuid() != 0:
        raise UserError(
            "a stand-in base is made as root: run this as root, or where a registry can be reached"
        )
    workplace.mkdir(mode=0o700, exist_ok=True)
    if workplace.is_symlink() or workplace.stat().st_uid != 0:
        raise UserError(f"{workplace} is another user's: remove it")
    (workplace / "networks").mkdir(exist_ok=True)
    settings = []
    for name, content in (("CONTAINERS_CONF", CONTAINERS_CONF), ("CONTAINERS_STORAGE_CONF", STORAGE_CONF)):
        file = workplace / f"{name.lower()}.toml"
        file.write_text(content.format(workplace=workplace), encoding="utf-8")
        settings.append(f"{name}={file}")
    command = ("env", *settings, "podman")
    engine = Engine("podman", command, ("--format=docker", "--isolation=chroot", "--pull=never"))
    name = f"localhost/{base_image()}"
    if engine.attempt("image", "exists", name)[0] != 0:
        _make_base(engine, name, workplace)
    return engine


def _make_base(engine: Engine, name: str, workplace: Path) -> None:
    suite = name.rpartition("-")[2]
    root, archive = workplace / "base", workplace / "base.tar"
    shutil.rmtree(root, ignore_errors=True)
    try:
        _run("debootstrap", "--variant=minbase", f"--include={INCLUDED}", suite, str(root), _mirror(suite))
        for cache in (root / "var/cache/apt/archives", root / "var/lib/apt/lists"):
            shutil.rmtree(cache)
        for link in ("python", "python3"):  # where the real one has them
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3")
        _run("tar", "-C", str(root), "-cf", str(archive), ".")
        engine.ask("import", "--change", f"ENV PATH={PATH}", str(archive), name, within_s=BOOTSTRAP_S)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        archive.unlink(missing_ok=True)


def _mirror(suite: str) -> str:
    """The address from which this machine's apt has `suite`."""
    listing = _run(
        "apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"
    )
    for line in listing.splitlines():
        if line.split()[:2] == [suite, "main"]:
            return line.split()[2]
    raise UserError(f"apt knows no archive of {suite}: run apt-get update on a Debian {suite}")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOOTSTRAP_S, check=False)
    if done.returncode != 0:
        raise EngineError(f"{command[0]} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
