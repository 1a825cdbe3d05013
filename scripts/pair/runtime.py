"""The exported drafter in onnxruntime, as plainly as possible: for the evaluation and the exporter's tests.

The product's own runtime is in `edge_client`; this one is independent of it, so that each checks the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from scripts.pair.shape import Array

MASKED = -1e9


class OnnxDrafter:
    """One session with one shared cache buffer of `capacity` slots, on one thread."""

    def __init__(self, folder: Path, capacity: int) -> None:
        about = json.loads((folder / "drafter.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.vocabulary: int = about["vocabulary_size"]
        self.top_k: int = about["top_k"]
        sizes = (1, about["kv_heads"], capacity, about["head_dim"])
        self.cache = {
            f"{layer}.{part}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(sizes, dtype=np.float32))
            for layer in range(about["layers"])
            for part in ("key", "value")
        }

    def bind(
        self, ids: Sequence[int], positions: Sequence[int], bias: Array, past: int, outputs: Sequence[str]
    ) -> onnxruntime.IOBinding:
        """A binding for one call: new tokens go to slots past..past + len(ids) - 1; bias [len(ids), total]."""
        total = past + len(ids)
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], dtype=np.int64))
        binding.bind_cpu_input("position_ids", np.array([positions], dtype=np.int64))
        binding.bind_cpu_input("attention_bias", np.ascontiguousarray(bias, dtype=np.float32)[None, None])
        binding.bind_cpu_input("seqlens_k", np.array([total - 1], dtype=np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(total, dtype=np.int32))
        for name in outputs:
            binding.bind_output(name)
        for name, buffer in self.cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            binding.bind_ortvalue_output(f"present.{name}", buffer)
        return binding

    def logits(
        self, ids: Sequence[int], positions: Sequence[int], bias: Array, past: int
    ) -> npt.NDArray[np.float32]:
        """float32 [len(ids), vocabulary] of one call with any mask."""
        binding = self.bind(ids, positions, bias, past, ["logits"])
        self.session.run_with_iobinding(binding)
        result: npt.NDArray[np.float32] = binding.get_outputs()[0].numpy()[0]
        return result

    def chain_logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """float32 [len(ids), vocabulary] of a text from its beginning."""
        return self.logits(ids, range(len(ids)), np.zeros((len(ids), len(ids))), 0)
