"""Demo, benchmarks, simulator command line, WAN emulation, model training and export."""

import edge_client  # noqa: F401 - keeps onnxruntime from reporting, whichever script imports it first
