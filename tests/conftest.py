"""What holds for every test: one thread per process, no network, the same examples on each run."""

from __future__ import annotations

import os

from hypothesis import settings

# Before torch, onnxruntime and tokenizers are imported: several pytest workers share few cores, and model libraries
# that each take them all starve one another.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models come from this tree: a name that looks like a hub's is an error, not a download.
os.environ["HF_HUB_OFFLINE"] = "1"

# A failure is the same on every machine and run; a deadline measures the neighbours' load, not the code.
settings.register_profile("slipstream", derandomize=True, deadline=None)
settings.load_profile("slipstream")
