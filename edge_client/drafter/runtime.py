"""Opening an onnxruntime session: the provider chosen by name, one thread, errors that a user can act on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from shared.errors import UserError

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
"""Short names of onnxruntime's execution providers."""


RUN_ERRORS: Final = (
    ort_errors.Fail,
    ort_errors.EPFail,
    ort_errors.InvalidArgument,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,  # out of a call through an IO binding
)
"""What onnxruntime raises when it cannot build or run a graph: its exceptions have no common root of their own."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph."""

    name: str
    kind: str
    """onnxruntime's word: `tensor(float)`, `tensor(int64)`, ..."""
    shape: tuple[int | None, ...]
    """None where the size varies."""


def available_providers() -> list[str]:
    """Short names of what this onnxruntime offers."""
    offered = set(ort.get_available_providers())
    return [name for name, full in PROVIDERS.items() if full in offered]


def open_session(path: Path, provider: str, threads: int) -> ort.InferenceSession:
    """A session on `provider` (a key of `PROVIDERS`); what it cannot run, the CPU does.

    Args:
        threads: for one operator; one is right for a small drafter that shares the machine.

    Raises:
        UserError: the provider is not to be had, or the file is no model that onnxruntime can run.
    """
    if provider not in available_providers():
        offered = ", ".join(available_providers())
        raise UserError(
            f"execution provider '{provider}' is not in this onnxruntime: choose one of {offered}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors; the rest talks about the graph's author
    # Waiting threads sleep: between two drafts there is a network, and the cores belong to the device's user.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    wanted = [PROVIDERS[provider]]
    try:
        session = ort.InferenceSession(str(path), options, providers=wanted)
    except (ort_errors.InvalidProtobuf, ort_errors.InvalidGraph) as error:
        raise UserError(
            f"{path} is not an ONNX model: give a .onnx file or a folder that holds one"
        ) from error
    except RUN_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"onnxruntime {ort.__version__} cannot run {path}: {reason}") from error
    if PROVIDERS[provider] not in session.get_providers():
        raise UserError(
            f"execution provider '{provider}' did not start on this device: install its driver, or use cpu"
        )
    return session


def ports(session: ort.InferenceSession) -> tuple[dict[str, Port], dict[str, Port]]:
    """(inputs, outputs) of the session's graph, by name, in the graph's order."""
    return _ports(session.get_inputs()), _ports(session.get_outputs())


def _ports(arguments: list[ort.NodeArg]) -> dict[str, Port]:
    return {
        argument.name: Port(
            argument.name,
            argument.type,
            tuple(size if isinstance(size, int) else None for size in argument.shape),
        )
        for argument in arguments
    }
