"""`compare` and `report`: what they print and write, and how they end."""

import json
import re

import numpy as np
import pytest
from run_folders import mean_run, write_run

VALUES = np.arange(1.0, 101.0)


@pytest.fixture
def run_a(tmp_path):
    return mean_run(tmp_path / "float", VALUES)


@pytest.fixture
def run_b(tmp_path):
    """All moved by 0.01, one by 0.51 more."""
    return mean_run(tmp_path / "quantised", VALUES + 0.01 + 0.5 * (VALUES == 42))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 0),
        (("--tolerance", "0.05"), 0),
        (("--tolerance", "loss=0.05", "--item-tolerance", "loss=0.6"), 0),
        (("--tolerance", "0.016"), 1),  # the interval reaches further
        (("--tolerance", "0.01"), 1),
        (("--tolerance", "0.05", "--item-tolerance", "0.1"), 1),
        (("--tolerance", "0.05", "--tolerance", "0.06"), 2),
        (("--tolerance", "0.05", "--tolerance", "loss=0.06"), 2),
        (("--tolerance", "much"), 2),
        (("--tolerance", "cost=0.05"), 2),
        (("--tolerance", "-1"), 2),
        (("--item-tolerance", "loss="), 2),
        (("--output", "cost"), 2),
        (("--confidence", "95"), 2),
    ],
)
def test_the_exit_code(cli, run_a, run_b, options, code):
    result = cli("compare", run_a, run_b, *options)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("Error: ") == (code == 2)


def test_prints_by_how_much_and_which_items(cli, run_a, run_b):
    result = cli("compare", run_a, run_b, "--tolerance", "0.01", "--worst", "2")
    lines = [line.split() for line in result.stdout.splitlines()]
    (row,) = [line for line in lines if line[:2] == ["loss", "50.5"]]
    assert row[2:4] == ["50.515", "+0.015"]
    assert row[-2:] == ["100", "outside"]
    assert ["utterance-0041", "100", "42", "42.51", "+0.51"] in lines
    assert sum(line[0].startswith("utterance") for line in lines if line) == 2
    assert "loss: the total moved by +0.015, more than 0.01" in result.stdout
    assert "100 items compared, none in only one run; 1 output, 1 off." in result.stdout


def test_an_undecided_total_fails_and_says_why(cli, run_a, run_b):
    result = cli("compare", run_a, run_b, "--tolerance", "0.016")
    assert result.exit_code == 1
    assert "undecided" in result.stdout
    assert "reaches beyond 0.016" in result.stdout


def test_missing_items_fail_unless_they_are_allowed(cli, run_a, tmp_path):
    fewer = mean_run(tmp_path / "fewer", VALUES[:80], set_aside={"utterance-0081": "a [bold]NaN"})
    result = cli("compare", run_a, fewer)
    assert result.exit_code == 1
    assert "utterance-0080: B lacks it, not in its data" in result.stdout
    assert "utterance-0081: B lacks it, a [bold]NaN" in result.stdout
    assert result.stdout.count("B lacks it") == 10
    assert "and 10 more that one run lacks" in result.stdout
    assert "80 items compared, 20 in only one run; 1 output, none off." in result.stdout
    assert cli("compare", run_a, fewer, "--allow-missing").exit_code == 0


def test_writes_json(cli, run_a, tmp_path):
    other = mean_run(tmp_path / "other", np.where(VALUES == 3, np.inf, VALUES))
    path = tmp_path / "new" / "moves.json"
    assert cli("compare", run_a, other, "--json", path, "--tolerance", "0.5").exit_code == 1
    found = json.loads(path.read_text(), parse_constant=pytest.fail)  # Infinity and NaN are no JSON
    assert (found["ok"], found["items"]) == (False, 100)
    loss = found["outputs"]["loss"]
    assert (loss["difference"], loss["one_sided"], loss["verdict"]) == (0.0, 1, "outside")
    assert loss["worst"] == [{"id": "utterance-0002", "size": 100, "a": 3.0, "b": "inf", "difference": "inf"}]


def test_writes_pages(cli, run_a, run_b, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "utterance-0041.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    two, one = tmp_path / "new" / "two.html", tmp_path / "newer" / "one.html"
    assert cli("compare", run_a, run_b, "--report", two, "--pictures", pictures).exit_code == 0
    result = cli("report", run_a, "--out", one, "--worst", "3")
    assert (result.exit_code, result.stdout) == (0, f"Wrote {one}.\n")
    assert two.read_text().count("data:image/svg+xml") == 1
    assert one.read_text().count("utterance-") == 3


def test_what_is_no_run_is_a_wrong_call(cli, run_a, tmp_path):
    for words in (("compare", run_a, tmp_path), ("report", tmp_path, "--out", tmp_path / "page.html")):
        result = cli(*words)
        assert (result.exit_code, "expected a folder that `score --out` wrote" in result.stderr) == (2, True)
    assert cli("compare", run_a, tmp_path / "nowhere").exit_code == 2
    assert cli("report", run_a, "--out", tmp_path / "page.html", "--output", "cost").exit_code == 2


def test_another_row_is_a_wrong_call(cli, run_a, tmp_path):
    other = write_run(
        tmp_path / "other", {"loss": [1.0]}, {"loss": {"kind": "sum", "by": "", "value": 1.0}}, row="l1_loss"
    )
    result = cli("compare", run_a, other)
    assert (result.exit_code, "expected the same row in both" in result.stderr) == (2, True)


@pytest.fixture
def rates(tmp_path):
    """Two runs of an error rate: 3 and 4 errors in 20 tokens."""

    def rate(name, errors):
        found = {"value": sum(errors) / 20, "numerator": sum(errors), "denominator": 20}
        totals = {"rate": {"kind": "mean", "by": "", **found}}
        values = np.array(errors) / 5
        return write_run(
            tmp_path / name, {"rate": values, "rate_weight": np.full(4, 5.0)}, totals, row="TokenErrorRate"
        )

    return [rate("float-rate", [1, 0, 2, 0]), rate("quantised-rate", [1, 0, 2, 1])]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 0),
        (("--tolerance", "loss=0.05"), 0),
        (("--tolerance", "loss=0.05", "--tolerance", "rate=0.01"), 1),
        (("--tolerance", "loss=0.01", "--tolerance", "rate=0.5"), 1),
        (("--item-tolerance", "rate=0.1"), 1),
        (("--output", "loss", "--tolerance", "0.05"), 0),
        (("--output", "rate", "--tolerance", "0.05"), 1),
        (("--tolerance", "error=0.05"), 2),
    ],
)
def test_several_pairs(cli, run_a, run_b, rates, options, code):
    result = cli("compare", run_a, run_b, *rates, *options)
    assert result.exit_code == code, result.output
    shown = [name for name in ("loss", "rate") if f"\n{name} " in f"\n{result.stdout}"]
    assert shown == ([] if code == 2 else [options[1]] if "--output" in options else ["loss", "rate"])


def test_several_pairs_on_one_page_and_in_one_json(cli, run_a, run_b, rates, tmp_path):
    page, numbers = tmp_path / "page.html", tmp_path / "moves.json"
    words = ("--tolerance", "rate=0.01", "--json", numbers, "--report", page)
    assert cli("compare", run_a, run_b, *rates, *words).exit_code == 1
    found = json.loads(numbers.read_text())
    assert (found["ok"], [pair["ok"] for pair in found["pairs"]]) == (False, [True, False])
    assert found["pairs"][1]["outputs"]["rate"]["difference"] == pytest.approx(0.05)
    source = page.read_text(encoding="utf-8")
    assert source.count("<h1>") == 2
    assert source.index("No tolerance was given") < source.index("Does not pass")
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))


def test_runs_come_in_pairs(cli, run_a, run_b):
    result = cli("compare", run_a, run_b, run_a)
    assert (result.exit_code, "RUN: got 3, expected pairs: A and B." in result.stderr) == (2, True)


def test_pairs_with_an_output_of_the_same_name_share_no_ids(cli, run_a, run_b, tmp_path):
    page = tmp_path / "page.html"
    assert cli("compare", run_a, run_b, run_b, run_a, "--report", page).exit_code == 0
    ids = re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))
    assert len(ids) > 8
    assert len(ids) == len(set(ids))


def test_prints_what_makes_the_runs_differ_before_any_number_does(cli, tmp_path):
    aside = {"broken": "a NaN", "torn": "a NaN"}
    one = mean_run(tmp_path / "one", VALUES, set_aside=aside)
    other = mean_run(tmp_path / "other", VALUES, set_aside=aside, settings={"blank_index": 3})
    lines = cli("compare", one, other).stdout.splitlines()
    assert "2 set aside in both runs or in the only one that has them" in lines
    assert "Note: the setting blank_index is 0 in A and 3 in B" in lines
    assert not [line for line in cli("compare", one, one).stdout.splitlines() if "Note" in line]
