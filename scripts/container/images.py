"""The images, and how they are built."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from scripts.container.engine import Engine
from scripts.container.pip_settings import CERT_IN_BUILD, PipSettings
from scripts.processes import ROOT
from shared.errors import UserError

BUILD_S: Final = 3600.0
"""How long a build may take."""


@dataclass(frozen=True, slots=True)
class Image:
    """What to build. The context is the repository, as far as .dockerignore lets it in."""

    tag: str
    dockerfile: str
    stage: str | None = None
    """None: the last one."""


IMAGES: Final[Mapping[str, Image]] = MappingProxyType(
    {
        "server": Image("slipstream-server", "Dockerfile"),
        "edge": Image("slipstream-edge", "Dockerfile.edge"),
        "wan": Image("slipstream-wan", "Dockerfile.edge", "wan"),
    }
)


@dataclass(frozen=True, slots=True)
class Built:
    """An image that exists."""

    image: Image
    seconds: float
    size: int
    """Bytes, unpacked, with the base."""


def base_image() -> str:
    """The base that the Dockerfiles name, with its tag."""
    found = {_base(ROOT / image.dockerfile) for image in IMAGES.values()}
    if len(found) != 1:
        raise ValueError(f"the images have different bases: {sorted(found)}")
    return found.pop()


def build(engine: Engine, image: Image, pip: PipSettings, arguments: Sequence[str] = ()) -> Built:
    """Build an image with this machine's settings of pip.

    Args:
        arguments: further ones of the engine's build command, such as `--build-arg=TORCH=cuda`.

    Raises:
        UserError: pip is told of folders that the engine cannot show to a build.
        EngineError: the build failed.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slipstream-build-") as folder:
        settings = Path(folder) / "pip.conf"
        pip.write(settings)
        options = [f"--secret=id=pip.conf,src={settings}", *_volumes(engine, pip), *arguments]
        if pip.authority is not None:
            options.append(f"--secret=id={Path(CERT_IN_BUILD).name},src={pip.authority}")
        if image.stage is not None:
            options.append(f"--target={image.stage}")
        command = ("build", *engine.build_options, *options, "-f", str(ROOT / image.dockerfile))
        engine.ask(*command, "-t", image.tag, str(ROOT), within_s=BUILD_S)
    return Built(image, time.monotonic() - begun, engine.size(image.tag))


def _volumes(engine: Engine, pip: PipSettings) -> list[str]:
    if pip.local and engine.name == "docker":
        named = ", ".join(map(str, pip.local))
        raise UserError(
            f"pip is told to look at {named}, and a docker build sees no folder of this machine: name an index by URL "
            "(PIP_EXTRA_INDEX_URL), or build with podman"
        )
    return [f"--volume={path}:{path}:ro" for path in pip.local]


def _base(dockerfile: Path) -> str:
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{dockerfile.name} names no base")
    return found[1]
