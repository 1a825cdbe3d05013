"""What the decoding sections share: prompts, transformers' `generate` as the peer, and ours as a user runs it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from edge_client.app import Client, ClientOptions, DraftOptions, GenerateOptions
from scripts.bench.loop_thread import LoopThread
from scripts.bench.measure import CpuClock, Rounds, Side
from scripts.bench.settings import BenchSettings
from scripts.pair.prompts import HeldOutError, held_out_prompts
from scripts.processes import Child, child, python
from shared.errors import UserError

Tokens = tuple[int, ...]

CPU_TICK_S: Final = 0.01
"""What another process's CPU time is counted in."""


def bench_prompts(settings: BenchSettings) -> list[Tokens]:
    """Held-out prompts as token ids, one per round.

    Raises:
        UserError: this interpreter's library holds too few.
    """
    tokenizer = Tokenizer.from_file(str(settings.pair / "target" / "tokenizer.json"))
    try:
        return [tuple(tokenizer.encode(text).ids) for text in held_out_prompts(settings.prompts)]
    except HeldOutError as error:
        raise UserError(str(error)) from error


@dataclass(slots=True)
class Texts:
    """What every side wrote after every prompt."""

    written: dict[str, dict[int, Tokens]] = field(default_factory=dict)
    per_cpu: dict[str, list[float]] = field(default_factory=dict)
    """Tokens per CPU second of all processes involved, a value per turn."""

    def note(self, side: str, prompt: int, tokens: Sequence[int]) -> None:
        """A side has continued a prompt."""
        self.written.setdefault(side, {})[prompt] = tuple(tokens)

    def timed(
        self, side: str, prompts: Sequence[Tokens], cpu: CpuClock, write: Callable[[Tokens], Tokens]
    ) -> Side:
        """A side that continues one prompt a round (the warm-up the last one) and measures tokens per second."""

        def turn(number: int) -> float:
            cpu_began, began = cpu.now(), time.perf_counter()
            tokens = write(prompts[number])
            took, cpu_took = time.perf_counter() - began, cpu.now() - cpu_began
            self.note(side, number % len(prompts), tokens)
            if number >= 0:
                self.per_cpu.setdefault(side, []).append(len(tokens) / max(cpu_took, CPU_TICK_S))
            return len(tokens) / took

        return turn

    def cost(self, side: str, peer: str) -> str:
        """A note on what a side's tokens cost in CPU time, which busy neighbours hardly change."""
        ours, theirs = (statistics.median(self.per_cpu[name]) for name in (side, peer))
        ratio = Rounds(self.per_cpu).ratio(side, peer).median
        return f"tokens per CPU second: {side} {ours:.0f}, {peer} {theirs:.0f}, ratio {ratio:.2f}"

    def compare(self, reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(notes, failures): how many texts of the other sides are the reference's, token for token."""
        wanted = self.written[reference]
        pairs = [
            (side, texts[prompt] == wanted[prompt])
            for side, texts in self.written.items()
            if side != reference
            for prompt in texts
        ]
        same = sum(equal for _, equal in pairs)
        different = sorted({side for side, equal in pairs if not equal})
        note = f"texts identical to those of {reference}: {same} of {len(pairs)}"
        return (note,), (f"texts differ: {', '.join(different)}",) if different else ()


class PeerTarget:
    """`generate` on the stock model, greedy, in this process."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence."""
        positions: int = self._model.config.max_position_embeddings
        return positions

    def generate(self, prompt: Tokens, tokens: int, threads: int, assistant: Any = None) -> Tokens:
        """Up to `tokens` new tokens; fewer if the model ends its text."""
        torch.set_num_threads(threads)
        ids = torch.tensor([prompt])
        more = {} if assistant is None else {"assistant_model": assistant}
        out = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, **more
        )
        return tuple(out[0, len(prompt) :].tolist())


def ask(loop: LoopThread, client: Client, prompt: Tokens, tokens: int, draft: DraftOptions) -> Tokens:
    """One greedy generation of ours, from the request to the last token."""
    options = GenerateOptions(prompt=prompt, max_new_tokens=tokens, draft=draft)
    return loop.call(client.generate(options)).tokens


def connect(loop: LoopThread, address: str, settings: BenchSettings, *, drafting: bool) -> Client:
    """A client of the pair's, open until the loop's block is left."""
    drafter = str(settings.pair / "drafter") if drafting else "none"
    tokenizer = settings.pair / "target" / "tokenizer.json"
    return loop.enter(Client(ClientOptions(server=address, drafter=drafter, tokenizer=tokenizer, threads=1)))


@contextlib.contextmanager
def target_server(settings: BenchSettings, threads: int) -> Iterator[Child]:
    """The pair's target in a process of its own."""
    command = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--device", "cpu")
    command += ["--dtype", "float32", "--threads", str(threads), "--model", str(settings.pair / "target")]
    # One token a step where nothing is drafted, and every prompt computed, as the peers decode.
    command += ["--no-prompt-lookup", "--no-prefix-reuse"]
    with child(f"server with {threads} threads", command) as server:
        yield server
