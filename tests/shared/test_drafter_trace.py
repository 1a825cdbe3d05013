"""The file that a real drafter's luck is recorded in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.drafter_trace import DrafterTrace, Guess, TraceSource, read_trace, write_trace
from shared.errors import UserError

SOURCE = TraceSource("target", "drafter", "3 prompts", temperature=0.5, seed=7)
TRACE = DrafterTrace(
    (
        (Guess(0, (0.25, 1.5, 20.0)), Guess(None, (1.0, 1.0, 1.0))),
        (Guess(2, (0.0, 2.0, 2.5)), Guess(0, (0.5, 2.0, 2.5)), Guess(1, (0.5, 2.0, 2.5))),
    ),
    SOURCE,
)


def test_what_is_written_is_read(tmp_path: Path):
    write_trace(TRACE, tmp_path / "a.npz")
    assert read_trace(tmp_path / "a.npz") == TRACE
    write_trace(read_trace(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_costs_are_kept_to_a_thousandth_of_a_nat_and_capped(tmp_path: Path):
    write_trace(DrafterTrace(((Guess(0, (0.0204, 1e9)),),), SOURCE), tmp_path / "a.npz")
    first, second = read_trace(tmp_path / "a.npz").texts[0][0].costs
    assert first == pytest.approx(0.0204, abs=0.0005)
    assert second == pytest.approx(64.0, abs=0.01)


def test_its_figures():
    assert TRACE.tokens == 5
    assert TRACE.candidates == 3
    assert [TRACE.right(rank) for rank in range(3)] == [0.4, 0.2, 0.2]
    assert TRACE.acceptance == 0.4


@pytest.mark.parametrize(
    "texts",
    [
        (),
        ((),),
        ((Guess(0, (1.0,)),), (Guess(0, (1.0, 2.0)),)),
        ((Guess(None, ()),),),
    ],
)
def test_what_is_no_recording_is_refused(texts: tuple[tuple[Guess, ...], ...]):
    with pytest.raises(ValueError, match=r"at least one|same number"):
        DrafterTrace(texts, SOURCE)


def _damaged(path: Path, **changes: np.ndarray) -> None:
    write_trace(TRACE, path)
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": np.array("slipstream-drafter-trace 9")}, "says it is 'slipstream-drafter-trace 9', not"),
        ({"lengths": np.array([2, 9])}, "is damaged"),
        ({"ranks": np.array([0, 4, 0, 0, 0])}, "a rank beyond the candidates"),
        ({"costs": np.zeros(5)}, "is damaged"),
        ({"source": np.array("{}")}, "is damaged"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, changes: dict[str, np.ndarray], says: str):
    _damaged(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=says) as refused:
        read_trace(tmp_path / "a.npz")
    assert "\n" not in str(refused.value)


def test_another_file_is_one_line(tmp_path: Path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "nothing").write_bytes(b"")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name, says in (
        ("text", "not a file of"),
        ("nothing", "not a file of"),
        ("none", "cannot be read"),
        ("other.npz", "'nothing'"),
    ):
        with pytest.raises(UserError, match=says):
            read_trace(tmp_path / name)


def test_objects_are_never_unpickled(tmp_path: Path):
    np.savez(tmp_path / "bad.npz", format=np.array([object()], dtype=object))
    with pytest.raises(UserError, match="not a file of"):
        read_trace(tmp_path / "bad.npz")
