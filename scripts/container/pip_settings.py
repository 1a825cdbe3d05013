"""This machine's settings of pip, for a build: packages come from where they come from here."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

KEYS: Final = frozenset(
    {"cert", "extra-index-url", "find-links", "index-url", "no-index", "timeout", "trusted-host"}
)
"""Settings that say where packages come from."""
CERT_IN_BUILD: Final = "/run/secrets/pip-ca.crt"
"""Where the Dockerfiles show a build the authority that `cert` names here."""
INDEXES: Final = frozenset({"extra-index-url", "index-url"})
SECTIONS: Final = ("global", "install", ":env:")
"""Of `pip config list`; a later one overrides an earlier one."""


@dataclass(frozen=True, slots=True)
class PipSettings:
    """What a build needs to know. May hold credentials: goes into files of this user alone."""

    options: dict[str, str]

    @property
    def authority(self) -> Path | None:
        """The certificates that indexes are checked against, where they are not those that pip comes with."""
        return Path(self.options["cert"]) if "cert" in self.options else None

    @property
    def local(self) -> tuple[Path, ...]:
        """Folders of this machine that packages come from; of an index, what its pages lie in."""
        places = [(key, value) for key, value in self.options.items() if key != "cert"]
        named = [(key, _local(word)) for key, value in places for word in value.split()]
        # The pages of an index link to files beside its folder.
        paths = [path.parent if key in INDEXES else path for key, path in named if path is not None]
        return tuple(dict.fromkeys(path for path in paths if path.exists()))

    def write(self, path: Path) -> None:
        """As a pip.conf for a build."""
        config = configparser.RawConfigParser()
        config["global"] = self.options | ({"cert": CERT_IN_BUILD} if "cert" in self.options else {})
        path.touch(mode=0o600)
        with path.open("w", encoding="utf-8") as file:
            config.write(file)


def read_pip_settings() -> PipSettings:
    """From pip itself, which knows its files and variables best."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def parse(listing: str) -> PipSettings:
    """The output of `pip config list`: lines of section.key='value'."""
    options: dict[str, str] = {}
    found = [_entry(line) for line in listing.splitlines() if "=" in line]
    for section in SECTIONS:
        for where, key, value in found:
            if where == section and key in KEYS:
                options[key] = " ".join(
                    value.split()
                )  # one line: a value of several may not begin a key by accident
    return PipSettings(options)


def _local(word: str) -> Path | None:
    """The path that a setting's word names on this machine, if it does."""
    if word.startswith("file:"):
        return Path(unquote(urlsplit(word).path))
    return Path(word) if word.startswith("/") else None


def _entry(line: str) -> tuple[str, str, str]:
    name, _, value = line.partition("=")
    section, _, key = name.rpartition(".")
    key = key.lower().replace("_", "-").removeprefix("default-")
    return section, key, str(ast.literal_eval(value))
