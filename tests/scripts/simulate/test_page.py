from __future__ import annotations

import re

import pytest
import yaml

from scripts.simulate import __main__ as simulate
from scripts.simulate.build import build
from scripts.simulate.describe import BEGIN, PAGE, tables, with_tables
from scripts.simulate.load import load
from shared.errors import UserError

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_fresh():
    assert with_tables(TEXT) == TEXT, "run: python -m scripts.simulate describe --write"


def test_the_command_prints_the_tables(capsys):
    assert simulate.main(["describe"]) == 0
    assert capsys.readouterr().out == f"{tables()}\n"


def test_a_page_without_marks_is_left_alone():
    with pytest.raises(UserError, match="the marks are missing"):
        with_tables(TEXT.replace(BEGIN, ""))


def test_every_key_says_what_it_is_and_every_link_leads_somewhere():
    made = tables()
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in re.findall(r"^\| `.*$", made, re.MULTILINE)
    ]
    assert len(rows) > 120
    for row in rows:
        key, kinds, _, about = row
        assert kinds
        assert about or key in ("`kind`", "`process`"), key
    headings = {title.lower() for title in re.findall(r"^## (.*)$", made, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(.*?)\)", made)) <= headings


def test_the_examples_on_the_page_are_right(tmp_path):
    first, second = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "laptop.yaml").write_text(first, encoding="utf-8")
    assert build(load(tmp_path / "laptop.yaml")).duration_ms == 120_000
    (tmp_path / "crowded.yaml").write_text(
        yaml.safe_dump(
            yaml.safe_load(second) | {"include": str(PAGE.parent.parent / "scenarios" / "office.yaml")}
        )
    )
    writers, readers = load(tmp_path / "crowded.yaml").fleets
    assert (writers.count, writers.network.loss_percent, writers.workload, readers.count) == (
        60,
        1,
        "chat",
        30,
    )


def test_the_mistakes_on_the_page_are_told_as_it_says(tmp_path):
    (first, *_) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "office.yaml"
    for told, good, bad in zip(
        re.findall(r"^    simulate: (.*)$", TEXT, re.MULTILINE),
        ("step_ms: 4", "network: wifi"),
        ("step_ms: -3", "network: lte5"),
        strict=True,
    ):
        path.write_text(first.replace(good, bad), encoding="utf-8")
        with pytest.raises(UserError) as error:
            load(path)
        want = re.sub(r"^office.yaml:\d+: ", "", told).removesuffix(", ...")
        assert want in str(error.value)
