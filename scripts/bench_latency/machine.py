"""What the figures were measured on and with. No host names, no paths."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "slipstream",
    "grpcio",
    "numpy",
    "onnxruntime",
    "protobuf",
    "torch",
    "transformers",
    "uvloop",
)
HOSTS: Final = ("--server", "--tls-server-name")
"""Options whose values name a host."""
CPU_INFO: Final = Path("/proc/cpuinfo")


def machine() -> dict[str, str]:
    """Processor, cores, load, system, versions."""
    facts = {
        "cpu": cpu_model(CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in PACKAGES}


def cpu_model(cpu_info: str) -> str:
    """The processor's name in the text of /proc/cpuinfo; without one what Python knows."""
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def command_line(arguments: Sequence[str]) -> str:
    """How this was started, fit to be published: folders by their last name, servers without their address."""
    shown: list[str] = []
    for number, argument in enumerate(arguments):
        option, separator, value = (
            argument.partition("=") if argument.startswith("--") else ("", "", argument)
        )
        if (option if separator else arguments[number - 1] if number else "") in HOSTS:
            value = "HOST"
        elif option and not separator:
            shown.append(option)
            continue
        shown.append(f"{option}{separator}{_anonymous(value)}")
    return shlex.join(["python", "-m", "scripts.bench_latency", *shown])


def _anonymous(value: str) -> str:
    return Path(value).name if "/" in value and not value.startswith("profiled:") else value


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
