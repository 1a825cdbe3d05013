"""What holds for every test: one thread per process, no network, the same examples on each run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Before torch, onnxruntime and tokenizers are imported: several pytest workers share few cores, and model libraries
# that each take them all starve one another.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models come from this tree: a name that looks like a hub's is an error, not a download.
os.environ["HF_HUB_OFFLINE"] = "1"
# As the product does (edge_client/__init__.py): tests that import onnxruntime by themselves report nothing either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A failure is the same on every machine and run; a deadline measures the neighbours' load, not the code.
settings.register_profile("slipstream", derandomize=True, deadline=None)
settings.load_profile("slipstream")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Texts that were compared with the target's own, and how many parted at a near-tie of the reference itself."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    properties = [entry for report in reports if report.when == "call" for entry in report.user_properties]
    compared = sum(value for name, value in properties if name == "compared")
    if compared:
        ties = sum(value for name, value in properties if name == "near_ties")
        terminalreporter.write_line(
            f"{compared} texts compared with the target alone: {ties} parted at a near-tie of its own (below 1e-4 nats)"
        )
