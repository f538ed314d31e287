"""`bench` times what it says, on inputs that are legal. No test here looks at a speed."""

import itertools
import json

import pytest
import torch

from exportable_losses import catalog
from exportable_losses.export.commands import timing


def test_every_row_has_a_case_and_its_sizes_are_the_rows():
    cases = timing.cases()
    assert list(dict.fromkeys(case.row for case in cases)) == catalog.names()
    for case in cases:
        small = {letter: size and (4 if letter == "V" else 2) for letter, size in case.sizes.items()}
        catalog.get(case.row).example_inputs(**small)


@pytest.mark.parametrize("row", timing._CASES)
def test_exceptions_name_rows_and_letters_that_exist(row):
    for case, exception in zip(timing.cases([row]), timing._CASES[row], strict=True):
        assert exception.items() <= case.sizes.items()


def test_shapes_of_the_lattices_and_permutations():
    shapes = {
        row: [tuple(case.sizes[letter] for letter in letters) for case in timing.cases([row])]
        for row, letters in (("ctc_loss", "BTSC"), ("transducer_loss", "BTUV"))
    }
    assert shapes["ctc_loss"] == [(16, 1000, 100, 500), (1, 500, 60, 64)]
    assert shapes["transducer_loss"] == [(4, 150, 40, 512)]
    assert [case.sizes["S"] for case in timing.cases(["PitWrapper"])] == [2, 3, 4, 8]


def test_json_has_both_times_and_their_ratio(cli):
    result = cli("bench", "--rows", "distance_diff_loss", "--threads", "1", "--seconds", "0", "--json")
    assert result.exit_code == 0, result.output
    (timing,) = json.loads(result.stdout)
    assert timing["row"] == "distance_diff_loss"
    assert timing["shapes"] == {"predictions": [16, 500], "targets": [16], "length": [16]}
    assert timing["ratio"] == timing["onnxruntime_ms"] / timing["baseline_ms"] > 0


def test_the_table_shows_ratios_above_and_below_one(cli, monkeypatch):
    times = iter([(2.0, 1.0), (1.0, 3.0)])
    monkeypatch.setattr(
        timing, "measure", lambda case, **_: timing.Timing(case.row, {"x": [4, 2]}, "eager", *next(times))
    )
    result = cli("bench", "--rows", "l1_loss,mse_loss")
    assert result.exit_code == 0, result.output
    shown = [line.split() for line in result.stdout.splitlines() if "_loss" in line]
    assert [(line[0], line[-1]) for line in shown] == [("l1_loss", "0.50"), ("mse_loss", "3.00")]
    assert all(" ".join(line[3:5]) == "eager module" for line in shown)
    assert result.stdout.splitlines()[0].split()[-5:] == ["baseline", "ms", "onnxruntime", "ms", "ratio"]


@pytest.mark.parametrize(
    ("row", "baseline"),
    [("ctc_loss", "ctc_loss"), ("transducer_loss", "log_softmax"), ("l1_loss", "eager")],
)
def test_baselines(row, baseline):
    entry = catalog.get(row)
    name, function = timing._baseline(row, entry.module(), entry.example_inputs())
    assert name == baseline
    function()


def test_an_unknown_row_is_a_wrong_call(cli):
    result = cli("bench", "--rows", "l1_loss,l2_loss")
    assert (result.exit_code, "there is no row l2_loss" in result.stderr) == (2, True)


def test_a_race_takes_turns():
    order = []
    timing.race(lambda: order.append("a"), lambda: order.append("b"), seconds=0)
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 9  # five turns of both


def test_torch_has_its_threads_back_after_a_case():
    before = torch.get_num_threads()

    def fail():
        with timing._torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ValueError("an export that fails")

    with pytest.raises(ValueError, match="an export that fails"):
        fail()
    assert torch.get_num_threads() == before
    with timing._torch_threads(None):
        assert torch.get_num_threads() == before
