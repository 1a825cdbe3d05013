"""Make and measure the demo pair: `python -m scripts.pair train --out models/demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer

from scripts.pair.calibrate import calibrate as calibrate_pair
from scripts.pair.corpus import held_out_texts, training_files
from scripts.pair.data import Tokens, encode_files, training_mixture
from scripts.pair.distil import DistilPlan
from scripts.pair.distil import distil as distil_drafter
from scripts.pair.evaluate import evaluate as evaluate_pair
from scripts.pair.export import Storage, export_drafter
from scripts.pair.heldout import write_manifest
from scripts.pair.model import Llama
from scripts.pair.prompts import HELD_OUT_FILE, library_root
from scripts.pair.save import numpy_weights, save_target
from scripts.pair.target import DRAFTER_LAYERS, TARGET_SHAPE, TargetPlan, train_target
from scripts.pair.tokenizer import train_tokenizer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False, help=__doc__)

Work = Annotated[Path, typer.Option(help="Folder for checkpoints.")]
Out = Annotated[Path, typer.Option(help="Folder of the finished pair.")]
Threads = Annotated[int, typer.Option(help="Threads of torch.")]
WORK = Path("build/pair")
OUT = Path("models/demo")


def say(line: str) -> None:
    """Print with the time of day, at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def read_tokenizer(work: Path) -> Tokenizer:
    """The tokenizer that the `tokenizer` command wrote."""
    return Tokenizer.from_file(str(work / "tokenizer.json"))


def held_out_stream(tokenizer: Tokenizer) -> Tokens:
    """The held-out files as tokens."""
    return encode_files(tokenizer, held_out_texts())


def load_target(work: Path) -> Llama:
    """The target that the `target` command wrote, with its early exit."""
    model = Llama(TARGET_SHAPE, DRAFTER_LAYERS)
    model.load_state_dict(torch.load(work / "target.pt", weights_only=True))
    return model


@app.command()
def tokenizer(work: Work = WORK) -> None:
    """Train the tokenizer on the library's sources, less the held-out files."""
    work.mkdir(parents=True, exist_ok=True)
    files = [file for file in training_files() if not file.is_test]
    train_tokenizer((file.text for file in files), TARGET_SHAPE.vocabulary).save(str(work / "tokenizer.json"))
    say(f"tokenizer from {len(files)} files")


@app.command()
def heldout(libraries: list[Path], work: Work = WORK) -> None:
    """Write heldout.json anew from several releases' library folders; needs the tokenizer."""
    tokens = read_tokenizer(work)
    prompts = write_manifest(
        [library_root(), *libraries], lambda text: len(tokens.encode(text).ids), HELD_OUT_FILE
    )
    say(f"{prompts} held-out prompts")


@app.command()
def target(minutes: float = 25, work: Work = WORK, threads: Threads = 2, *, resume: bool = False) -> None:
    """Train the target, or with --resume train it further; needs the tokenizer."""
    torch.set_num_threads(threads)
    tokens, plan = read_tokenizer(work), TargetPlan(minutes=minutes, resume=resume)
    files = training_files()
    say(f"{len(files)} training files, {sum(len(file.text) for file in files)} characters; {plan}")
    mixture = training_mixture(tokens, files, plan.library_share)
    train_target(plan, mixture, held_out_stream(tokens), work / "target.pt", say)


@app.command()
def distil(minutes: float = 25, work: Work = WORK, threads: Threads = 2) -> None:
    """Distil the drafter on the target's own text; needs the target."""
    torch.set_num_threads(threads)
    tokens, plan = read_tokenizer(work), DistilPlan(minutes=minutes)
    say(str(plan))
    mixture = training_mixture(tokens, training_files(), TargetPlan(minutes=minutes).library_share)
    distil_drafter(plan, load_target(work), mixture, held_out_stream(tokens), work / "drafter.pt", say)


@app.command()
def export(work: Work = WORK, out: Out = OUT, storage: Storage = "int8") -> None:
    """Write target and drafter in the formats in which they are shipped."""
    drafter_shape = Llama(TARGET_SHAPE, DRAFTER_LAYERS).drafter_shape
    drafter = Llama(drafter_shape)
    drafter.load_state_dict(torch.load(work / "drafter.pt", weights_only=True))
    save_target(load_target(work), read_tokenizer(work), out / "target")
    tokenizer_json = out / "target" / "tokenizer.json"
    export_drafter(numpy_weights(drafter), drafter_shape, tokenizer_json, out / "drafter", storage)
    for file in sorted(out.rglob("*")):
        if file.is_file():
            say(f"{file.relative_to(out)}: {file.stat().st_size} bytes")


@app.command()
def evaluate(out: Out = OUT, prompts: int = 96, tokens: int = 128, threads: Threads = 2) -> None:
    """Print held-out loss, acceptance and step times of a finished pair."""
    torch.set_num_threads(threads)
    evaluate_pair(out, prompts, tokens, say)


@app.command()
def calibrate(out: Out = OUT, prompts: int = 24, tokens: int = 128, threads: Threads = 2) -> None:
    """Fit how sure the drafter should be, and write it into its drafter.json."""
    torch.set_num_threads(threads)
    calibrate_pair(out, prompts, tokens, say)


@app.command()
def train(minutes: float = 50, work: Work = WORK, out: Out = OUT, threads: Threads = 2) -> None:
    """Everything, from the sources on this machine to the finished pair; half of the minutes for each model."""
    tokenizer(work)
    target(minutes / 2, work, threads)
    distil(minutes / 2, work, threads)
    export(work, out)
    calibrate(out, threads=threads)
    evaluate(out, threads=threads)


if __name__ == "__main__":
    app()
