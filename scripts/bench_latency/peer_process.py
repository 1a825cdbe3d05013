"""The peer that is measured: transformers' `generate`, with and without an assistant, in a process of its own.

Target and drafter in one process on the server's host, as a user would otherwise run them. One JSON line each way, as
with the edge's process; floors are applied to both models' forwards by sleeping, as server and client do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.recorder import Clock
from scripts.bench_latency.wire import OPEN, Answer


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """What to load."""

    target: Path
    drafter: Path
    threads: int
    step_floor_ms: float
    draft_floor_ms: float


@dataclass(frozen=True, slots=True)
class PeerAsk:
    """One generation, greedy."""

    prompt: str
    tokens: int
    assisted: bool


class Peer:
    """The two models."""

    def __init__(self, options: PeerOptions) -> None:
        import torch  # noqa: PLC0415 - seconds, and the environment must be set before
        from tokenizers import Tokenizer  # noqa: PLC0415
        from transformers import AutoModelForCausalLM  # noqa: PLC0415

        from scripts.bench.peer_drafter import load_peer_drafter  # noqa: PLC0415

        torch.set_num_threads(options.threads)
        self._tokenizer = Tokenizer.from_file(str(options.target / "tokenizer.json"))
        self._target: Any = AutoModelForCausalLM.from_pretrained(options.target, dtype=torch.float32).eval()
        self._drafter = load_peer_drafter(options.drafter, self._target.config.max_position_embeddings)
        _floor(self._target, options.step_floor_ms / 1000)
        _floor(self._drafter, options.draft_floor_ms / 1000)

    def generate(self, ask: PeerAsk) -> Answer:
        """One generation, with the times at which tokens came."""
        import torch  # noqa: PLC0415

        prompt = self._tokenizer.encode(ask.prompt).ids
        ids = torch.tensor([prompt])
        clock = Clock(time.monotonic_ns())
        out = self._target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=ask.tokens,
            streamer=_Streamer(clock),
            **({"assistant_model": self._drafter} if ask.assisted else {}),
        )
        tokens = tuple(out[0, len(prompt) :].tolist())
        return Answer(
            tokens=tokens,
            finish_reason="length" if len(tokens) == ask.tokens else "stop",
            commits=clock.commits,
        )


class _Streamer:
    """Told the prompt first, then every few new tokens; `generate` asks for no more than these two methods."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._prompt_seen = False

    def put(self, tokens: Any) -> None:
        if self._prompt_seen:
            self._clock.committed(time.monotonic_ns(), tokens.numel())
        self._prompt_seen = True

    def end(self) -> None:
        pass


def _floor(model: Any, seconds: float) -> None:
    """Have every forward of `model` last at least so long."""
    if not seconds:
        return
    began = [0.0]

    def before(*_: Any) -> None:
        began[0] = time.perf_counter()

    def after(*_: Any) -> None:
        time.sleep(max(0.0, seconds - (time.perf_counter() - began[0])))

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after)


def main() -> None:
    """Options, then generations, until standard input ends."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    peer = Peer(decode(PeerOptions, json.loads(sys.stdin.readline())))
    print(f"{OPEN} transformers", flush=True)
    for line in sys.stdin:
        print(json.dumps(encode(peer.generate(decode(PeerAsk, json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
