"""Makes workers from what the command line says; shared by the server and by the processes that it starts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from shared import interrupts

if TYPE_CHECKING:
    from cloud_server.worker import Worker

PROFILED: Final = "profiled"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to make one worker."""

    model: str
    """Folder or hub id, or profiled[:...]."""
    device: str | None = None
    """None: CUDA where there is one."""
    dtype: str | None = None
    step_floor_ms: float = 0.0
    kv_cache_mb: int | None = None
    threads: int | None = None
    """Of a step on a CPU; None: all cores."""
    prefix_reuse: bool = True
    """Whether a session may start from what another one computed."""

    @property
    def profiled(self) -> bool:
        """Whether it needs no model, and no torch."""
        return self.model.partition(":")[0] == PROFILED

    @property
    def place(self) -> str:
        """Where it computes, in words."""
        return PROFILED if self.profiled else self.device or "any device"

    def to_options(self) -> list[str]:
        """For the command line of `cloud-server worker`."""
        given = [(name.replace("_", "-"), value) for name, value in asdict(self).items() if value is not None]
        return [
            f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}"
            for name, value in given
        ]

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def threads_each(workers: int) -> int:
    """Threads of a step on a CPU for each of several workers on this machine: together all cores."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def make_workers(spec: WorkerSpec, count: int = 1) -> list[Worker]:
    """So many workers that hold one copy of the model's weights together, each with a cache of its own.

    Raises:
        UserError: the model cannot be had, or not be served exactly.
    """
    if spec.profiled:
        from cloud_server.profiled import ProfiledWorker  # noqa: PLC0415 - needs no torch
        from shared.acceptance import parse_pair  # noqa: PLC0415

        profile = parse_pair(spec.model).profile  # whose drafter's process changes no fact
        return [ProfiledWorker(profile, step_floor_ms=spec.step_floor_ms) for _ in range(count)]
    with interrupts.Silent():
        import torch  # noqa: PLC0415 - seconds to import; wrong arguments are told before
        import transformers  # noqa: PLC0415

        from cloud_server.model import load_model  # noqa: PLC0415
        from cloud_server.verifier import Verifier, default_kv_bytes  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    loaded = load_model(spec.model, spec.device, spec.dtype)
    limit = default_kv_bytes(loaded.device) // count if spec.kv_cache_mb is None else spec.kv_cache_mb << 20
    verifiers: list[Verifier] = []
    for _ in range(count):
        target = verifiers[0].target if verifiers else None
        verifiers.append(
            Verifier(
                loaded,
                step_floor_ms=spec.step_floor_ms,
                kv_limit_bytes=limit,
                prefix_reuse=spec.prefix_reuse,
                target=target,
            )
        )
    return list(verifiers)
