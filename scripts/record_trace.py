"""Records where a real drafter is right along its target's own text: `python -m scripts.record_trace --out FILE`.

The target writes a continuation of each prompt; then the drafter, as the edge runs it, is asked for its candidates
after every prefix of it. The file (`shared.drafter_trace`) holds ranks and costs, no text, and takes a drafter's place
in the simulator and in the live runtime: `--drafter profiled:process=trace,trace=FILE`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import torch
import transformers
import typer
from tokenizers import Tokenizer

from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from edge_client.drafter.interface import Drafter
from edge_client.drafter.load import load_drafter
from scripts.pair.prompts import HeldOutError, held_out_prompts
from shared.drafter_trace import MOST_CANDIDATES, DrafterTrace, Guess, TraceSource, write_trace
from shared.errors import UserError
from shared.interrupts import INTERRUPTED
from shared.sampling import SamplingParams
from shared.step import Step, StepItem

DEMO: Final = Path("models/demo")
Tokens = Sequence[int]

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def write_texts(
    verifier: Verifier, prompts: Sequence[Tokens], tokens: int, sampling: Sequence[SamplingParams]
) -> Iterator[list[int]]:
    """The target's own text after each prompt, the prompt included; up to `tokens` tokens, or to its stop token."""
    info = verifier.info
    for session, (prompt, law) in enumerate(zip(prompts, sampling, strict=True)):
        log = list(prompt)
        while len(log) < min(len(prompt) + tokens, info.context_length):
            item = StepItem(session, log, len(log), (), 0, law, len(prompt))
            ((_, fact),) = verifier.step(Step(len(log), (item,))).items[0].facts
            log.append(fact.token)
            if fact.token in info.stop_tokens:
                break
        verifier.step(Step(len(log) + 1, (), released=(session,)))
        yield log


def listen(
    drafter: Drafter, text: Tokens, prompt_length: int, sampling: SamplingParams, width: int
) -> tuple[Guess, ...]:
    """What the drafter says before each token of a text after the prompt, as far as its context reaches."""
    guesses: list[Guess] = []
    for length in range(prompt_length, len(text)):
        (found,) = drafter.forward(text, length, [()], sampling, width)
        if len(found) < width:
            break
        ranks = [rank for rank, candidate in enumerate(found) if candidate.token == text[length]]
        guesses.append(Guess(ranks[0] if ranks else None, tuple(candidate.cost for candidate in found)))
    return tuple(guesses)


def record(
    target: str,
    drafter: str,
    prompts: Sequence[Tokens],
    *,
    tokens: int,
    width: int,
    sampling: SamplingParams,
    about: str = "",
) -> DrafterTrace:
    """A recording of a pair; the n-th prompt is continued with the n-th seed from `sampling.seed` on.

    Raises:
        UserError: the pair cannot be loaded, does not fit together, or nothing can be recorded of it.
    """
    verifier = Verifier(load_model(target, "cpu", "float32"), prefix_reuse=False)
    edge = load_drafter(drafter)
    if edge.vocabulary_size != verifier.info.vocabulary_size:
        raise UserError(
            f"drafter {drafter} has {edge.vocabulary_size} tokens, target {target} {verifier.info.vocabulary_size}"
        )
    laws = [_seeded(sampling, number) for number in range(len(prompts))]
    texts = write_texts(verifier, prompts, tokens, laws)
    heard = [
        listen(edge, text, len(prompt), law, width)
        for text, prompt, law in zip(texts, prompts, laws, strict=True)
    ]
    verifier.close()
    edge.close()
    source = TraceSource(
        target=Path(target).as_posix(),
        drafter=Path(drafter).as_posix(),
        prompts=about,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )
    try:
        return DrafterTrace(tuple(filter(None, heard)), source)
    except ValueError as error:
        raise UserError(f"nothing to record: {error}") from error


def _seeded(sampling: SamplingParams, number: int) -> SamplingParams:
    return SamplingParams(
        sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.seed + number
    )


def _read_prompts(file: Path | None, count: int) -> tuple[list[str], str]:
    """Prompts, and in a word where they are from."""
    if file is None:
        try:
            return held_out_prompts(count), f"{count} held-out prompts"
        except HeldOutError as error:
            raise UserError(str(error)) from error
    try:
        texts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--prompts-file {file}: {error}") from error
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one for one in texts):
        raise UserError(f"--prompts-file {file}: a JSON list of texts, none of them empty")
    return texts[:count], f"{min(count, len(texts))} prompts of {file.name}"


def _summary(trace: DrafterTrace, out: Path) -> str:
    ranks = ", ".join(f"{trace.right(rank):.3f}" for rank in range(min(4, trace.candidates)))
    return (
        f"{out}: {len(trace.texts)} texts, {trace.tokens} tokens, {trace.candidates} candidates each; acceptance "
        f"{trace.acceptance:.4f} (by rank: {ranks}); {out.stat().st_size} bytes"
    )


@app.command()
def main(
    *,
    out: Annotated[Path, typer.Option(help="File to write, .npz.")],
    target: Annotated[str, typer.Option(help="Folder or hub id of the target.")] = str(DEMO / "target"),
    drafter: Annotated[str, typer.Option(help="Folder of the drafter.")] = str(DEMO / "drafter"),
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 48,
    prompts_file: Annotated[
        Path | None, typer.Option(help="JSON list of texts. [the demo pair's held-out prompts]")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json of the prompts. [the target's]")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens per prompt, at most.")] = 128,
    width: Annotated[int, typer.Option(min=1, max=MOST_CANDIDATES, help="Candidates that are recorded.")] = 8,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="In (0, 1].")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the first prompt's noise.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of the target.")] = 1,
) -> None:
    """Record a pair, by default the demo's."""
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    try:
        sampling = SamplingParams(temperature, top_p=top_p, seed=seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    texts, about = _read_prompts(prompts_file, prompts)
    words = tokenizer if tokenizer is not None else Path(target) / "tokenizer.json"
    if not words.is_file():
        raise UserError(f"{words} does not exist: name a tokenizer.json with --tokenizer")
    encoder = Tokenizer.from_file(str(words))
    ids = [tuple(encoder.encode(text).ids) for text in texts]
    trace = record(target, drafter, ids, tokens=tokens, width=width, sampling=sampling, about=about)
    try:
        write_trace(trace, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    print(_summary(trace, out))


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        print(f"record_trace: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
