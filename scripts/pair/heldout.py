"""Make `heldout.json`: pin the held-out files and choose prompts in them.

Done once for several Python releases; running it again changes what the published figures were measured on.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.pair.corpus import SourceFile, is_held_out_path, library_files
from scripts.pair.prompts import FORMAT_VERSION

PROMPTS_PER_FILE = 6
MIN_TOKENS, MAX_TOKENS = 32, 256
LINE_START = re.compile(r"^(?=\S|[ \t]+\S)", re.MULTILINE)
# A prompt ends with a word whose successor is a space or a newline: such a cut is a border between pre-tokens, so
# the prompt's tokens are a prefix of the text's tokens and the model is not asked to go on from half a word.
WORD_END = re.compile(r"(?<=\S)(?=[ \n])")


def choose_spans(text: str, seed: str, count_tokens: Callable[[str], int]) -> list[tuple[int, int]]:
    """Up to PROMPTS_PER_FILE disjoint byte spans of MIN_TOKENS..MAX_TOKENS tokens, each from a line's start."""
    rng = random.Random(seed)
    starts = [match.start() for match in LINE_START.finditer(text)]
    ends = [match.start() for match in WORD_END.finditer(text)]
    spans: list[tuple[int, int]] = []
    for _ in range(PROMPTS_PER_FILE * 6):
        if len(spans) == PROMPTS_PER_FILE or not starts:
            break
        start = rng.choice(starts)
        wanted = round(MIN_TOKENS * (MAX_TOKENS / MIN_TOKENS) ** rng.random())
        end = _end_of_prompt(text, start, ends, wanted, count_tokens)
        if end is None or any(start < other_end and other_start < end for other_start, other_end in spans):
            continue
        spans.append((start, end))
    return [(len(text[:a].encode()), len(text[:b].encode())) for a, b in sorted(spans)]


def _end_of_prompt(
    text: str, start: int, ends: Sequence[int], wanted: int, count_tokens: Callable[[str], int]
) -> int | None:
    """The first word end at which text[start:end] has at least `wanted` tokens; None near the file's end."""
    low, high = 0, len(ends) - 1
    if high < 0 or count_tokens(text[start : ends[high]]) < wanted:
        return None
    while low < high:  # the number of tokens grows with the end
        middle = (low + high) // 2
        if ends[middle] > start and count_tokens(text[start : ends[middle]]) >= wanted:
            high = middle
        else:
            low = middle + 1
    return ends[low] if count_tokens(text[start : ends[low]]) <= MAX_TOKENS else None


def write_manifest(roots: Sequence[Path], count_tokens: Callable[[str], int], manifest: Path) -> int:
    """Pin the held-out files of every library in `roots` (the first decides nothing but the order); returns prompts."""
    pinned: dict[str, SourceFile] = {}
    for root in roots:
        for file in library_files(root):
            if is_held_out_path(file.path):
                pinned.setdefault(file.sha256, file)
    entries = []
    for file in pinned.values():
        # Seeded by the path, so that a file little changed between releases keeps most of its prompts.
        spans = choose_spans(file.text, file.path, count_tokens)
        if spans:
            entries.append({"path": file.path, "sha256": file.sha256, "spans": spans})
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    manifest.write_text(f'{{"format_version": {FORMAT_VERSION}, "files": [\n{lines}\n]}}\n', encoding="utf-8")
    return sum(len(entry["spans"]) for entry in entries)
