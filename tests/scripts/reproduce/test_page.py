"""The whole command, small: the same bytes in one process and in two, and a page that says what is in the files."""

from __future__ import annotations

import json
import re

import pytest

from scripts.reproduce.capacity import Prices
from scripts.reproduce.page import KINDS, page
from scripts.reproduce.parts import FIGURES, DsiFigures, Part, Way, read, write
from scripts.simulate.__main__ import main
from shared.errors import UserError

TWO_JOBS = (Part.DSI, Part.SPECEDGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("reproduce")
    assert main(["reproduce", "all", "--quick", "--out", str(made)]) == 0
    return made


@pytest.mark.timeout(300)
def test_every_part_has_its_figures(folder):
    text = (folder / "reproduction.md").read_text()
    for part in Part:
        data = json.loads((folder / FIGURES / f"{part.value}.json").read_text())
        assert data["command"] == f"python -m scripts.simulate reproduce {part.value} --quick"
        assert data["command"] in text
    pictures = re.findall(r"\(figures/([\w-]+\.png)\)", text)
    assert len(pictures) >= 7
    for name in pictures:
        assert (folder / FIGURES / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", TWO_JOBS)
def test_processes_change_no_digit(folder, tmp_path, part):
    main(["reproduce", part.value, "--quick", "--out", str(tmp_path), "--jobs", "2"])
    names = [f"{part.value}.json", *(one.name for one in (tmp_path / FIGURES).glob("*.png"))]
    assert len(names) > 2
    for name in names:
        assert (tmp_path / FIGURES / name).read_bytes() == (folder / FIGURES / name).read_bytes(), name


def test_figures_are_read_back_as_they_were_written(folder, tmp_path):
    for part, kind in KINDS.items():
        once = read(folder, part, kind)
        write(tmp_path, part, once)
        assert read(tmp_path, part, kind) == once


def test_the_page_is_a_function_of_the_files(folder, tmp_path):
    assert page(folder) == (folder / "reproduction.md").read_text()
    figures = read(folder, Part.DSI, DsiFigures)
    write(tmp_path, Part.DSI, figures)
    alone = page(tmp_path)
    assert "Not made here: `python -m scripts.simulate reproduce distance`" in alone
    for one in figures.rows:
        assert f"{one.si_ms / one.chain_ms:.2f}" in alone


def test_another_version_s_file_is_refused(tmp_path):
    (tmp_path / FIGURES).mkdir()
    (tmp_path / FIGURES / "dsi.json").write_text('{"command": "x"}')
    with pytest.raises(UserError, match="make them again"):
        page(tmp_path)


def test_prices_are_part_of_the_command():
    way = Way(False, 3, Prices(4.0, 0.0), lambda *_: None)
    assert way.command(Part.SPECEDGE).endswith("specedge --verifier-per-hour 4 --edge-per-hour 0")
    assert way.command(Part.DSI).endswith("reproduce dsi")  # neither prices nor processes change it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["everything"], "one of dsi, dsd, distance, specedge or all"),
        (["dsi", "--verifier-per-hour", "0"], "--verifier-per-hour 0"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments, words, capsys, tmp_path):
    assert main(["reproduce", *arguments, "--quick", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_old_figures_are_refused_before_anything_is_simulated(tmp_path, capsys, monkeypatch):
    (tmp_path / FIGURES).mkdir()
    (tmp_path / FIGURES / "dsi.json").write_text('{"command": "x"}')
    monkeypatch.setattr(Way, "map", lambda *_: pytest.fail("it simulates"))
    assert main(["reproduce", "specedge", "--quick", "--out", str(tmp_path)]) == 2
    assert "make them again" in capsys.readouterr().err
