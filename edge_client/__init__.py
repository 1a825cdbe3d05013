"""The edge side: ONNX drafter, tokenizer, gRPC transport and command line. Never imports torch."""

import os

# onnxruntime reports to its maker unless told otherwise, and reads this when it is imported: nothing leaves the device
# but the session, so it is told here, before any module of the package can import it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
