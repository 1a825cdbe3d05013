"""The drafter's step: one greedy token through `OnnxDrafter.forward`, against a bare onnxruntime loop on its graph.

The loop does what must be done for a step and no more: inputs and outputs bound once, keys and values in one buffer, a
zero bias, eight candidates by numpy. It knows no tree, no rollback, no sampling. What ours costs above it is the price
of being a drafter.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_client.drafter.load import load_drafter
from edge_client.drafter.runtime import open_session
from scripts.bench.measure import Side, seconds, take_turns
from scripts.bench.report import Aim, Figure, Section
from scripts.bench.settings import BenchSettings
from shared.sampling import SamplingParams

WIDTH: Final = 8
"""Candidates per step."""
THREADS: Final = 1
"""A drafter's: a second gains nothing at this size."""
AIM: Final = Aim("at most 1.25", most=1.25)


class BareLoop:
    """A greedy chain over a graph of our format (scripts/pair/FORMAT.md) with everything bound in place."""

    def __init__(self, folder: Path, output: str) -> None:
        """`output` says where candidates come from: the graph's `topk`, or its `logits` and numpy."""
        about = json.loads((folder / "drafter.json").read_text(encoding="utf-8"))
        self._session = open_session(folder / "model.onnx", "cpu", THREADS)
        self._binding = self._session.io_binding()
        self._options = ort.RunOptions()
        # So that whoever reads the logits does not pay for the graph's own top-k.
        self._options.only_execute_path_to_fetches = True
        capacity = about["max_positions"]
        self._bias = np.zeros(capacity, np.float32)
        self._one: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.zeros((1, 1), np.int64),
            "position_ids": np.zeros((1, 1), np.int64),
            "seqlens_k": np.zeros(1, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
        }
        for name, array in self._one.items():
            self._bind(name, array)
        shape = (1, about["kv_heads"], capacity, about["head_dim"])
        self._past = {
            f"{layer}.{part}": np.zeros(shape, np.float32)
            for layer in range(about["layers"])
            for part in ("key", "value")
        }
        for name, array in self._past.items():
            self._bind(f"past_key_values.{name}", array)
            self._bind_output(f"present.{name}", array)
        self._from_graph = output == "topk"
        self._logits = np.zeros((1, 1, about["vocabulary_size"]), np.float32)
        self._values = np.zeros((1, 1, about["top_k"]), np.float32)
        self._ids = np.zeros((1, 1, about["top_k"]), np.int64)
        if self._from_graph:
            self._bind_output("topk_values", self._values)
            self._bind_output("topk_ids", self._ids)
        else:
            self._bind_output("logits", self._logits)

    def prefill(self, tokens: list[int]) -> int:
        """Keys and values of a whole prompt, in one call as ours computes them; its likeliest next token."""
        binding, count = self._session.io_binding(), len(tokens)
        binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        binding.bind_cpu_input("position_ids", np.arange(count, dtype=np.int64)[None])
        binding.bind_cpu_input("attention_bias", np.zeros((1, 1, count, count), np.float32))
        binding.bind_cpu_input("seqlens_k", np.array([count - 1], np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(count, np.int32))
        binding.bind_output("logits")  # first: outputs come in the order in which they were bound
        for name, array in self._past.items():
            place = ("cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            binding.bind_input(f"past_key_values.{name}", *place)
            binding.bind_output(f"present.{name}", *place)
        self._session.run_with_iobinding(binding)
        return int(binding.get_outputs()[0].numpy()[0, -1].argmax())

    def step(self, past: int, token: int) -> tuple[list[int], list[float]]:
        """Ids and ln p of the likeliest tokens after `token` at position `past`."""
        one = self._one
        one["input_ids"][0, 0] = token
        one["position_ids"][0, 0] = past
        one["seqlens_k"][0] = past
        one["total_sequence_length"][()] = past + 1
        self._bind("attention_bias", self._bias[: past + 1].reshape(1, 1, 1, past + 1))
        self._session.run_with_iobinding(self._binding, self._options)
        if self._from_graph:
            return self._ids[0, 0, :WIDTH].tolist(), self._values[0, 0, :WIDTH].tolist()
        row = self._logits[0, 0]
        ids = np.argpartition(row, -WIDTH)[-WIDTH:]
        ids = ids[np.argsort(-row[ids], kind="stable")]
        best = row[ids]
        total = np.log(np.exp(row - best[0]).sum())
        return ids.tolist(), (best - best[0] - total).tolist()

    def _bind(self, name: str, array: npt.NDArray[Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_output(self, name: str, array: npt.NDArray[Any]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def measure_drafter(settings: BenchSettings) -> Section:
    """Microseconds per step of both."""
    folder = settings.pair / "drafter"
    drafter = load_drafter(str(folder), threads=THREADS)
    steps, sampling = settings.drafter_steps, SamplingParams()
    start = settings.past - steps // 2
    written: dict[str, dict[int, list[int]]] = {name: {} for name in ("ours", "topk", "logits")}

    def prompt(number: int) -> list[int]:
        # Another text each round: what a round finds in the slots must not be of use to the next.
        return random.Random(number).choices(range(drafter.vocabulary_size), k=start)

    def ours(number: int) -> float:
        log = prompt(number)
        log.append(drafter.forward(log, start, [()], sampling, WIDTH)[0][0].token)

        def work() -> None:
            for length in range(start + 1, start + 1 + steps):
                (candidates,) = drafter.forward(log, length, [()], sampling, WIDTH)
                log.append(candidates[0].token)

        took = seconds(work)
        written["ours"][number] = log
        return took / steps * 1e6

    def bare(output: str) -> Side:
        loop = BareLoop(folder, output)

        def turn(number: int) -> float:
            log = prompt(number)
            log.append(loop.prefill(log))

            def work() -> None:
                for past in range(start, start + steps):
                    ids, _ = loop.step(past, log[past])
                    log.append(ids[0])

            took = seconds(work)
            written[output][number] = log
            return took / steps * 1e6

        return turn

    rounds = take_turns({"ours": ours, "topk": bare("topk"), "logits": bare("logits")}, settings.rounds * 4)
    drafter.close()
    names = {
        "topk": "bare loop that fetches the graph's top-k",
        "logits": "bare loop, top 8 of the logits by numpy",
    }
    best = rounds.lowest(list(names))
    figures = tuple(
        Figure(
            f"one token, past {settings.past}: {name}",
            rounds.spread("ours"),
            rounds.spread(key),
            rounds.ratio("ours", key),
            AIM if key == best else None,
        )
        for key, name in names.items()
    )
    different = sum(written["ours"][number] != written[best][number] for number in written["ours"])
    return Section(
        key="drafter",
        title="The drafter's step",
        unit="us",
        ours="OnnxDrafter.forward",
        peer="bare onnxruntime",
        ratio_of="time / peer's",
        settings=(
            f"{THREADS} onnxruntime thread on each side, IO binding, shared key/value buffer, greedy",
            f"{WIDTH} candidates a step; {settings.rounds * 4} rounds of {steps} steps",
            "the aim is set against the faster of the two loops",
        ),
        figures=figures,
        notes=(f"texts identical in {len(written['ours']) - different} of {len(written['ours'])} rounds",),
        failures=(f"{different} texts differ from the bare loop's",) if different else (),
    )
