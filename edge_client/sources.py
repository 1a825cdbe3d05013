"""From what a user names to a drafter that suits the server's model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_client.drafter.interface import Drafter
from edge_client.drafter.load import load_drafter
from edge_client.profiled import ProfiledDrafter
from shared.acceptance import parse_pair
from shared.errors import UserError
from shared.messages import ModelInfo

NO_DRAFTER: Final = "none"
PROFILED: Final = "profiled"
MODELS: Final = Path(__file__).resolve().parent.parent / "models"
"""Where a checkout keeps its models; `models/NAME/drafter` may be called NAME."""
DEMO_DRAFTER: Final = MODELS / "demo" / "drafter"


def is_profiled(source: str) -> bool:
    """Whether a profile stands in for a drafter."""
    return source.partition(":")[0] == PROFILED


def drafter_path(source: str) -> Path | None:
    """The folder or file of a drafter that is one; None for `none` and profiles."""
    if source == NO_DRAFTER or is_profiled(source):
        return None
    path, named = Path(source), MODELS / source / "drafter"
    return named if not path.exists() and named.is_dir() else path


def open_drafter(source: str, provider: str, threads: int, sleep: Callable[[float], None]) -> Drafter | None:
    """The drafter that `source` names: a path, a name, `profiled:...` or `none`. To be called in the model's thread.

    Raises:
        UserError: see `load_drafter` and `parse_pair`.
    """
    if is_profiled(source):
        return ProfiledDrafter(parse_pair(source), sleep)
    path = drafter_path(source)
    return None if path is None else load_drafter(str(path), provider, threads)


def check_fits(drafter: Drafter, info: ModelInfo) -> None:
    """Whether the drafter's token ids mean the same as the server's.

    Raises:
        UserError: they do not.
    """
    own, theirs = drafter.tokenizer_fingerprint, info.tokenizer_fingerprint
    if own and theirs and own != theirs:
        raise UserError(
            f"the drafter's tokenizer ({own[:12]}) is not that of the server's model {info.name} ({theirs[:12]}): "
            "give a drafter made for this target, or --drafter none"
        )
    # Models pad their vocabularies differently; with the same tokenizer only ids that the target lacks do harm.
    same = own != "" and own == theirs
    if drafter.vocabulary_size > info.vocabulary_size or (
        not same and drafter.vocabulary_size != info.vocabulary_size
    ):
        raise UserError(
            f"the drafter has a vocabulary of {drafter.vocabulary_size} tokens, the server's model {info.name} one of "
            f"{info.vocabulary_size}: give a drafter made for this target, or --drafter none"
        )
