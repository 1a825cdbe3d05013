from __future__ import annotations

from pathlib import Path

import pytest

from scripts.simulate.documents import MOST_DEPTH, Node, merge, parse_value, read_tree
from shared.errors import UserError


def value(text: str):
    return parse_value(text, "here", Path("/folder")).plain()


def tree(tmp_path: Path, text: str, name: str = "one.yaml") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("true", True),
        ("on", "on"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("5g", "5g"),
        ("~", None),
        ("''", ""),
        ("'3'", "3"),
        ("[1, {a: 2}]", [1, {"a": 2}]),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("{a: &x {b: 1}, c: {<<: *x, b: 2}}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: 1, b: 2, a: 3}", "a stands twice in one mapping"),
        ("{[1]: 2}", "a key is a text"),
        ("&x [*x]", f"more than {MOST_DEPTH} levels deep"),
        ("[" * 100_000, f"more than {MOST_DEPTH} levels deep"),
        ("{a: [1}", "not YAML: "),
        ("!!python/object/apply:os.getcwd []", "the tag "),
        ("!mine 3", "the tag !mine means nothing here"),
        ("!!binary aGk=", "the tag "),
        ("!!int abc", "is neither text, number"),
        ("9" * 50, "is neither text, number"),
        ("", "there is nothing in it"),
        ("a: 1\n---\nb: 2", "not YAML: "),
        ("{<<: 3}", "<< takes a mapping"),
        ("\x00", "not YAML: "),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text, message):
    with pytest.raises(UserError, match=r"^here") as error:
        value(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_few_lines_that_stand_for_billions_of_values_are_refused():
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(UserError, match="more than 200,000 values, aliases counted"):
        value("\n".join(lines))


def test_a_value_knows_its_file_and_line(tmp_path):
    path = tree(tmp_path, "a: 1\nb:\n  - c: 2\n  - d\n")
    read = read_tree(path)
    assert isinstance(read.value, dict)
    below = read.value["b"]
    assert isinstance(below.value, list)
    assert below.value[1].where == f"{path}:4"


# ---- including ----


def test_own_keys_lie_over_included_ones_and_later_files_over_earlier(tmp_path):
    tree(tmp_path, "a: 1\nb: 1\nc: {x: 1, y: 1}", "first.yaml")
    tree(tmp_path, "b: 2\nc: {y: 2}", "second.yaml")
    path = tree(tmp_path, "include: [first.yaml, second.yaml]\nc: {z: 3}\na: 3")
    assert read_tree(path).plain() == {"a": 3, "b": 2, "c": {"x": 1, "y": 2, "z": 3}}


def test_names_of_files_are_relative_to_the_file_that_names_them(tmp_path):
    tree(tmp_path, "w: {file: rows.csv}\nh: {hardware: gpu.json}", "parts/more.yaml")
    path = tree(tmp_path, "include: parts/more.yaml\nv: {file: /elsewhere/x.csv}")
    assert read_tree(path).plain() == {
        "w": {"file": str(tmp_path / "parts" / "rows.csv")},
        "h": {"hardware": str(tmp_path / "parts" / "gpu.json")},
        "v": {"file": "/elsewhere/x.csv"},
    }


def test_a_file_may_be_included_twice_but_not_within_itself(tmp_path):
    tree(tmp_path, "a: 1", "leaf.yaml")
    tree(tmp_path, "include: leaf.yaml\nb: 1", "left.yaml")
    tree(tmp_path, "include: leaf.yaml\nc: 1", "right.yaml")
    path = tree(tmp_path, "include: [left.yaml, right.yaml]")
    assert read_tree(path).plain() == {"a": 1, "b": 1, "c": 1}


def test_a_circle_of_includes_is_named(tmp_path):
    tree(tmp_path, "include: two.yaml", "one.yaml")
    tree(tmp_path, "include: sub/../three.yaml", "two.yaml")
    tree(tmp_path, "include: two.yaml", "three.yaml")
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=r"two.yaml -> three.yaml -> two.yaml$"):
        read_tree(tmp_path / "one.yaml")
    own = tree(tmp_path, "include: own.yaml", "own.yaml")
    with pytest.raises(UserError, match=r"own.yaml -> own.yaml$"):
        read_tree(own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: none.yaml", "one.yaml:1: include: there is no file"),
        ("a: 1\ninclude: 3", "one.yaml:2: include takes the name of a file"),
        ("include: [{a: 1}]", "include takes the name of a file"),
        ("[1, 2]", "a scenario is a mapping of keys"),
        ("just words", "a scenario is a mapping of keys"),
    ],
)
def test_includes_that_lead_nowhere_are_refused(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read_tree(tree(tmp_path, text))
    assert message in str(error.value)


def test_a_tree_of_includes_without_end_is_refused(tmp_path):
    for number in range(120):
        tree(tmp_path, f"include: f{number + 1}.yaml", f"f{number}.yaml")
    with pytest.raises(UserError, match="more than 100 files"):
        read_tree(tmp_path / "f0.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a" * (1 << 21)])
def test_what_is_no_text_or_too_long_is_refused(tmp_path, content):
    path = tmp_path / "one.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not YAML|more than 256 KiB"):
        read_tree(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_tree(path)


# ---- merging ----


def merged(base: str, over: str):
    nodes: list[Node] = [parse_value(text, "here", Path("/")) for text in (base, over)]
    return merge(*nodes).plain()


def test_lists_of_named_items_merge_by_name():
    assert merged("[{name: a, x: 1, y: 1}, {name: b}]", "[{name: c}, {name: a, y: 2}]") == [
        {"name": "a", "x": 1, "y": 2},
        {"name": "b"},
        {"name": "c"},
    ]


@pytest.mark.parametrize(
    "over", ["[1]", "[]", "[{name: a}, {name: a}]", "[{name: a}, {}]", "[{name: 3}]", "null", "{a: 1}"]
)
def test_everything_else_is_replaced(over):
    assert merged("[{name: a, x: 1}]", over) == value(over)
