from __future__ import annotations

import statistics

import pytest
from pydantic import TypeAdapter

from scripts.simulate.recorded import Lengths, read_arrivals, read_lengths
from scripts.simulate.schema_draws import Spread, TokenSpread
from shared.errors import UserError
from shared.sim.random import Keyed

DRAWS = 4_000


def spread(**values):
    return TypeAdapter(Spread).validate_python(values)


def draws(one) -> list[float]:
    random = Keyed(7, "draws")
    return [one.at(random.uniform()) for _ in range(DRAWS)]


def test_a_bare_number_is_a_constant():
    assert TypeAdapter(TokenSpread).validate_python(7).at(0.3) == 7.0


def test_uniform_values_lie_between_the_bounds_each_as_likely():
    found = draws(spread(kind="uniform", least=10, most=20))
    assert 10 <= min(found) < 10.1
    assert 19.9 < max(found) < 20
    assert statistics.mean(found) == pytest.approx(15, rel=0.02)


def test_lognormal_values_have_their_median_and_their_width():
    one = spread(kind="lognormal", median=100, sigma=0.5, least=1, most=100_000)
    found = draws(one)
    assert statistics.median(found) == pytest.approx(100, rel=0.03)
    assert one.at(0.8413447) == pytest.approx(100 * 2.718281828**0.5, rel=1e-5)  # one standard deviation
    narrow = draws(spread(kind="lognormal", median=100, sigma=0.5, least=90, most=110))
    assert (min(narrow), max(narrow)) == (90, 110)


def test_exponential_values_have_their_mean():
    found = draws(spread(kind="exponential", mean=30, least=0, most=10_000))
    assert statistics.mean(found) == pytest.approx(30, rel=0.05)
    assert sum(value > 30 for value in found) / DRAWS == pytest.approx(0.368, abs=0.02)


def test_choices_come_as_often_as_they_weigh():
    found = draws(spread(kind="choice", values=[1, 2, 3], weights=[6, 0, 2]))
    assert found.count(1) / DRAWS == pytest.approx(0.75, abs=0.02)
    assert found.count(2) == 0
    assert draws(spread(kind="choice", values=[1, 2])).count(1) / DRAWS == pytest.approx(0.5, abs=0.03)


# ---- recorded ----

CSV = "at_s,prompt_tokens,who,output_tokens\n0,10,a,5\n1.5,20,b,6\n1.5,30,a,7\n"
JSONL = "\n".join(
    f'{{"at_s": {at}, "prompt_tokens": {prompt}, "output_tokens": {output}}}'
    for at, prompt, output in ((0, 10, 5), (1.5, 20, 6), (1.5, 30, 7))
)


@pytest.mark.parametrize(("name", "text"), [("rows.csv", CSV), ("rows.jsonl", JSONL + "\n\n")])
def test_rows_are_read_from_csv_and_from_json_lines(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_lengths(path) == (Lengths(10, 5), Lengths(20, 6), Lengths(30, 7))
    assert read_arrivals(path) == (0.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "prompt_tokens,at_s\n3,0\n", "row 1: the column output_tokens is missing (1 to 1,000,000)"),
        ("rows.csv", CSV.replace("30", "0"), "row 3: prompt_tokens '0' is not a whole number from 1 to 1,000,000"),
        ("rows.csv", CSV.replace("30", "x"), "row 3: prompt_tokens 'x' is not a whole number"),
        ("rows.csv", CSV.replace("30", "nan"), "row 3: prompt_tokens 'nan' is not a whole number"),
        ("rows.csv", CSV.replace("30", "2.5"), "row 3: prompt_tokens '2.5' is not a whole number"),
        ("rows.csv", "at_s,prompt_tokens,output_tokens\n1\n", "row 1: prompt_tokens None is not a whole number"),
        ("rows.csv", "at_s,prompt_tokens,output_tokens\n", "no row in it"),
        ("rows.csv", "", "no row in it"),
        ("rows.jsonl", "[1, 2]\n", "row 1 is not an object of names and values"),
        ("rows.jsonl", JSONL + "\n{", "after row 3: "),
        ("rows.jsonl", '{"prompt_tokens": true, "output_tokens": 1}', "prompt_tokens True is not a whole number"),
        ("rows.jsonl", '{"prompt_tokens": [1], "output_tokens": 1}', "prompt_tokens [1] is not a whole number"),
        ("rows.txt", CSV, "the name must end in one of .csv, .jsonl"),
    ],
)  # fmt: skip
def test_a_row_that_is_none_is_told(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_lengths(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_times_never_decrease(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("at_s\n3\n2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 2: at_s 2 is before the row above it, 3"):
        read_arrivals(path)
    path.write_text("at_s\n-1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 1: at_s '-1' is not a number from 0 to 86,400"):
        read_arrivals(path)


def test_bytes_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"at_s\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"after row 0: "):
        read_arrivals(path)
