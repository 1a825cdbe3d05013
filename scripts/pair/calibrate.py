"""Fit the drafter's calibration: how sure it should be, given how sure it says it is.

Two numbers, fitted by maximum likelihood: the sharpness at which p ** sharpness, normalised over the best few, best
predicts which token a greedy target takes, and the same for the scores with noise of a target that samples at T = 1
(`edge_client.drafter.candidates.Calibration`). Written into drafter.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from edge_client.drafter.candidates import GREEDY_POOL, Calibration
from scripts.pair.evaluate import Rows, drafter_log_q, noise, write_text
from scripts.pair.prompts import held_out_prompts
from scripts.pair.runtime import OnnxDrafter

GRID: Final = (0.5, 0.7, 1.0, 1.4, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0)
MISSED: Final = 1e-3
"""What a token outside the candidates is taken to have been given."""
EVALUATED: Final = 64
"""The first prompts are those that the model card's figures come from: they are left alone here."""


def log_likelihood(scores: Rows, tokens: Sequence[int], sharpness: float) -> float:
    """Mean nats of the target's tokens [n] under the sharpened estimates from the drafter's scores [n, vocabulary]."""
    best = np.argsort(-scores, axis=-1)[:, :GREEDY_POOL]
    estimates = Calibration(greedy_sharpness=sharpness).greedy(np.take_along_axis(scores, best, -1))
    hits = best == np.array(tokens)[:, None]
    return float(np.where(hits.any(-1), np.where(hits, estimates, 0.0).sum(-1), np.log(MISSED)).mean())


@torch.no_grad()
def calibrate(pair: Path, prompt_count: int, tokens: int, say: Callable[[str], None]) -> None:
    """Fit on `prompt_count` held-out prompts beyond the evaluated ones, and write the result down."""
    target: Any = AutoModelForCausalLM.from_pretrained(pair / "target", dtype=torch.float32).eval()
    drafter = OnnxDrafter(pair / "drafter", capacity=target.config.max_position_embeddings)
    tokenizer = Tokenizer.from_file(str(pair / "target" / "tokenizer.json"))
    prompts = held_out_prompts(EVALUATED + prompt_count)[EVALUATED:]
    calibration: dict[str, float] = {}
    for name in ("greedy", "sampled"):
        rows, new = [], []
        for number, prompt in enumerate(prompts):
            ids, seed = tokenizer.encode(prompt).ids, None if name == "greedy" else number
            text = write_text(target, ids, tokens, seed, target.config.eos_token_id)
            scores = drafter_log_q(drafter, text)
            if seed is not None:
                scores += noise(seed, len(ids), len(text.new), scores.shape[-1])
            rows.append(scores)
            new += text.new
        told = np.concatenate(rows)
        likelihood = {sharpness: log_likelihood(told, new, sharpness) for sharpness in GRID}
        best = max(likelihood, key=lambda sharpness: likelihood[sharpness])
        plain, fitted = -likelihood[1.0], -likelihood[best]
        say(f"{len(new)} {name} tokens: {plain:.3f} nats each at sharpness 1, {fitted:.3f} at {best}")
        calibration[f"{name}_sharpness"] = best
    file = pair / "drafter" / "drafter.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    metadata["calibration"] = calibration
    file.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
