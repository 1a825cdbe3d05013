"""What a Dockerfile puts into an image, done without an engine: its copies, and the environment that it installs.

The packages are those of `.venv`, but only the ones that the image's extra brings along: whatever else the code would
need is missing, as it is in the image. Only the instructions that the project's own Dockerfiles use are known.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import sysconfig
import tomllib
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KNOWN = {
    *(
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "STOPSIGNAL",
    ),
    *("USER", "VOLUME", "WORKDIR"),
}


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [one.rest for one in self.instructions if one.word == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]


def stages(dockerfile: Path) -> dict[str, Stage]:
    """Stages by name, in order; one without a name is called by its number."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        assert word in KNOWN, f"{dockerfile.name}: {word} is not understood here"
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name or str(len(found))] = Stage(name or str(len(found)), base)
        elif found:
            [*found.values()][-1].instructions.append(Instruction(word, " ".join(rest.split())))
    return found


def lineage(all_stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those that it is built on, the first one first."""
    stage = all_stages[name]
    return [*(lineage(all_stages, stage.base) if stage.base in all_stages else []), stage]


def effective(line: Sequence[Stage], word: str) -> str:
    """What an instruction that replaces earlier ones comes to."""
    return [rest for stage in line for rest in stage.all(word)][-1]


def in_context(path: PurePosixPath, ignore: Sequence[str]) -> bool:
    """Whether .dockerignore lets a file in: the last pattern that means it or a folder above it decides."""
    kept = True
    places = [path, *path.parents][:-1]
    for pattern in ignore:
        name = pattern.removeprefix("!")
        assert not name.startswith("/"), pattern
        if name.startswith("**/"):
            hit = any(fnmatch.fnmatchcase(place.name, name[3:]) for place in places)
        else:
            depth = name.count("/") + 1
            hit = any(len(place.parts) == depth and fnmatch.fnmatchcase(str(place), name) for place in places)
        if hit:
            kept = pattern.startswith("!")
    return kept


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def copies(stage: Stage) -> list[tuple[list[str], str]]:
    """Sources and destination of what is copied from the checkout."""
    parted = [rest.split() for rest in stage.all("COPY") if not rest.startswith("--from=")]
    return [(words[:-1], words[-1]) for words in parted]


def lay_out(line: Sequence[Stage], app: Path, *, without: Iterable[str] = ()) -> None:
    """Copy what the stages copy into /app, which is `app` here, but for the sources named in `without`."""
    ignore, left_out = ignore_patterns(), set(without)
    for stage in line:
        for sources, destination in copies(stage):
            assert not destination.startswith("/"), destination
            for source in set(sources) - left_out:
                _copy(source, app / destination, ignore, into=destination.endswith("/"))


def _copy(source: str, destination: Path, ignore: Sequence[str], *, into: bool) -> None:
    origin = ROOT / source
    files = sorted(path for path in origin.rglob("*") if path.is_file()) if origin.is_dir() else [origin]
    kept = [path for path in files if in_context(PurePosixPath(path.relative_to(ROOT).as_posix()), ignore)]
    assert kept, f"COPY {source}: nothing of it is in the context"
    for path in kept:
        target = destination / path.relative_to(origin) if origin.is_dir() else destination
        if into and not origin.is_dir():
            target = destination / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def distributions() -> dict[str, metadata.Distribution]:
    """What is installed here, by canonical name."""
    return {canonicalize_name(one.name): one for one in metadata.distributions()}


def closure(extra: str) -> set[str]:
    """Canonical names of all that the project with this extra brings along, as the packages themselves say."""
    own, installed = Requirement(f"{PROJECT['name']}[{extra}]"), distributions()
    wanted, seen = [(own.name, frozenset(own.extras))], set()
    while wanted:
        name, extras = wanted.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in installed[canonicalize_name(name)].requires or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in (extras or {""})):
                wanted.append((requirement.name, frozenset(requirement.extras)))
    return {canonicalize_name(name) for name, _ in seen} - {canonicalize_name(own.name)}


@dataclass(frozen=True)
class Installation:
    """What the stage `build` installs in place."""

    extra: str
    packages: tuple[str, ...]
    """The folders that were there when it was installed: no others are found later."""


def installation(all_stages: dict[str, Stage]) -> Installation:
    (command,) = (rest for rest in all_stages["build"].all("RUN") if "--editable" in rest)
    extra, folders = (
        re.search(r"--editable '\.\[(\w+)\]'", command),
        re.search(r"mkdir ([\w ]+?) &&", command),
    )
    assert extra, command
    assert folders, command
    return Installation(extra[1], tuple(folders[1].split()))


def make_environment(
    folder: Path, installed: Installation, app: Path, *, without: Iterable[str] = ()
) -> None:
    """A virtual environment of links to what we have of the extra's distributions, the project in place at `app`."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    scheme = {"base": str(folder), "platbase": str(folder), "installed_base": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    ours = distributions()
    for name in sorted(closure(installed.extra) - set(without)):
        _link(ours[name], site)
    packages = {name: str(app / name) for name in installed.packages}
    (site / "in_place.py").write_text(_FINDER.replace("PACKAGES", json.dumps(packages)))
    (site / "in_place.pth").write_text("import in_place\n")
    for script, entry in PROJECT["scripts"].items():
        module, _, function = entry.partition(":")
        file = folder / "bin" / script
        file.write_text(
            f"#!{folder}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        file.chmod(0o755)


_FINDER = """
import sys
from importlib.util import spec_from_file_location

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        where = PACKAGES.get(name)
        return where and spec_from_file_location(
            name, where + "/__init__.py", submodule_search_locations=[where]
        )

sys.meta_path.append(Finder)
"""


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Link the top of what a distribution installs: folders, and modules beside them."""
    origin = Path(str(distribution.locate_file("")))
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        if not (site / top).is_symlink():
            (site / top).symlink_to(origin / top)
