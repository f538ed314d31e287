"""Two runs compared: differences, intervals, verdicts, and what one of them lacks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import mean_run, write_run

from exportable_losses.contract import Total
from exportable_losses.runtime.corpus.compare import Comparison, compare_runs
from exportable_losses.runtime.corpus.runs import Run, read_run
from exportable_losses.runtime.corpus.totals import Totals, composed, terms

RANDOM = np.random.default_rng(5)


def compare(tmp_path: Path, a: Any, b: Any, weights: Any = 1.0, **more: Any) -> Comparison:
    mean_run(tmp_path / "a", a, weights)
    mean_run(tmp_path / "b", b, weights)
    return compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"), **more)


def test_the_difference_of_weighted_means(tmp_path: Path) -> None:
    found = compare(tmp_path, [1.0, 2.0, 4.0], [1.5, 2.0, 3.0], [1.0, 1.0, 6.0])
    (moves,) = found.outputs
    assert (moves.output, found.ids, moves.moved, moves.largest) == ("loss", found.a.ids, 2, 1.0)
    assert (moves.a, moves.b) == (27 / 8, 21.5 / 8)
    assert moves.difference == pytest.approx(-5.5 / 8)
    assert moves.moves.tolist() == [0.5, 0.0, -1.0]
    assert moves.worst(5) == [2, 0]
    assert (moves.verdict, found.ok) == ("-", True)


def test_pairs_are_made_by_id_not_by_place(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0, 2.0, 3.0], ids=["x", "y", "z"], sizes=[10, 20, 30])
    mean_run(tmp_path / "b", [3.0, 1.0, 2.5], ids=["z", "x", "y"], sizes=[30, 10, 20])
    found = compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert found.ids == ["x", "y", "z"]
    assert found.sizes.tolist() == [10, 20, 30]
    assert found.outputs[0].moves.tolist() == [0.0, 0.5, 0.0]


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(tmp_path: Path) -> None:
    a = RANDOM.gamma(4, 10, 4000)
    moves = RANDOM.normal(0.3, 2.0, 4000)
    (found,) = compare(tmp_path, a, a + moves).outputs
    half = 1.96 * moves.std() / math.sqrt(4000)
    np.testing.assert_allclose(found.interval, moves.mean() + np.array([-half, half]), atol=0.12 * half)


def test_the_interval_of_a_weighted_mean_is_that_of_a_ratio(tmp_path: Path) -> None:
    """The variance of a ratio of sums, by the delta method."""
    weights = RANDOM.integers(1, 60, 3000).astype(float)
    moves = RANDOM.normal(0.1, 1.0, 3000) * (1 + weights / 30)
    (found,) = compare(tmp_path, np.zeros(3000), moves, weights, confidence=0.9).outputs
    mean = moves @ weights / weights.sum()
    half = 1.645 * math.sqrt(((moves - mean) ** 2 * weights**2).sum()) / weights.sum()
    np.testing.assert_allclose(found.interval, mean + np.array([-half, half]), atol=0.15 * half)
    assert found.difference == pytest.approx(mean)


def test_one_item_tells_nothing(tmp_path: Path) -> None:
    found = compare(tmp_path, [1.0], [1.001], tolerance=1e9)
    assert (found.outputs[0].interval, found.outputs[0].verdict) == ((-math.inf, math.inf), "undecided")
    assert found.reasons == ["loss: 1 item, too few for an interval"]


@pytest.mark.parametrize(("items", "verdict"), [(1, "undecided"), (58, "undecided"), (59, "within")])
def test_equal_runs_of_few_items_tell_nothing_of_others(tmp_path: Path, items: int, verdict: str) -> None:
    values = np.arange(items)
    assert compare(tmp_path, values, values, tolerance=0).outputs[0].verdict == verdict
    runs = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    assert compare_runs(*runs, item_tolerance=0).ok  # of these items it can be told


def test_one_item_of_many_that_moved_is_undecided_where_another_would_be_outside(tmp_path: Path) -> None:
    moves = np.zeros(1000)
    moves[7] = 1
    assert compare(tmp_path, moves * 0, moves, tolerance=0.0011).outputs[0].verdict == "undecided"


def test_draws_are_the_same_for_both_runs_and_every_time(tmp_path: Path) -> None:
    """What the runs have in common does not widen the interval: the draws are paired."""
    a = RANDOM.normal(0, 1000, 500)
    (moves,) = compare(tmp_path, a, a + 0.25).outputs
    np.testing.assert_allclose(moves.interval, 0.25, rtol=1e-9)
    runs = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    assert compare_runs(*runs).to_json() == compare_runs(*runs).to_json()


TOTALS = {
    "nll": Total("nll", "mean", "T"),
    "perplexity": Total("perplexity", "exp_mean", "T"),
    "errors": Total("errors", "sum"),
    "tokens": Total("tokens", "sum"),
    "rate": Total("rate", "ratio", "errors tokens"),
    "both": Total("both", "plus", "nll errors"),
    "calibration": Total("calibration", "calibration", "gaps frames"),
}


def every_kind(random: np.random.Generator, count: int) -> dict[str, Any]:
    errors, tokens = random.integers(0, 5, count) * 1.0, random.integers(1, 9, count) * 1.0
    return {
        "nll": random.gamma(2, 1, count),
        "nll_weight": random.integers(1, 9, count) * 1.0,
        "perplexity": np.exp(random.gamma(2, 1, count)),
        "perplexity_weight": random.integers(1, 9, count) * 1.0,
        "errors": errors,
        "tokens": tokens,
        "rate": errors / tokens,
        "both": random.gamma(2, 1, count),
        "calibration": random.gamma(2, 1, count),
        "gaps": random.normal(0, 1, (count, 4)).tolist(),
        "frames": tokens,
    }


def by_hand(columns: dict[str, Any], draw: Any) -> dict[str, float]:
    """The totals of the items of a draw, each where it stands in the definition of its row."""
    items = {name: np.asarray(column)[draw] for name, column in columns.items()}
    nll = np.average(items["nll"], weights=items["nll_weight"])
    return {
        "nll": nll,
        "perplexity": math.exp(np.average(np.log(items["perplexity"]), weights=items["perplexity_weight"])),
        "errors": items["errors"].sum(),
        "tokens": items["tokens"].sum(),
        "rate": items["errors"].sum() / items["tokens"].sum(),
        "both": nll + items["errors"].sum(),
        "calibration": np.abs(items["gaps"].sum(0)).sum() / items["frames"].sum(),
    }


def test_sums_side_by_side_come_to_what_each_comes_to_alone() -> None:
    columns = every_kind(RANDOM, 30)
    draws = RANDOM.integers(30, size=(5, 30))
    sums = {
        name: np.stack([term[draw].sum(0) for draw in draws]) for name, term in terms(TOTALS, columns).items()
    }
    found = composed(TOTALS, sums)
    for i, draw in enumerate(draws):
        expected = by_hand(columns, draw)
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected)
        totals = Totals(TOTALS)
        totals.add({name: np.asarray(column)[draw] for name, column in columns.items()})
        assert {name: total["value"] for name, total in totals.result().items()} == pytest.approx(expected)


def test_outputs_of_every_kind(tmp_path: Path) -> None:
    columns = [every_kind(np.random.default_rng(seed), 60) for seed in (1, 2)]
    for name, each in zip("ab", columns, strict=True):
        totals = Totals(TOTALS)
        totals.add(each)
        write_run(tmp_path / name, each, totals.result())
    a, b = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    found = compare_runs(a, b, resamples=300, seed=7)
    random = np.random.default_rng(7)
    draws = [random.integers(60, size=60) for _ in range(300)]
    expected = [by_hand(each, slice(None)) for each in columns]
    drawn = [[by_hand(each, draw) for each in columns] for draw in draws]
    assert [moves.output for moves in found.outputs] == list(TOTALS)
    for moves in found.outputs:
        name = moves.output
        assert (moves.a, moves.b) == pytest.approx(tuple(each[name] for each in expected))
        assert moves.a == pytest.approx(a.about["totals"][name]["value"], rel=1e-15)
        value = expected[1][name] - expected[0][name]
        without = [np.delete(np.arange(60), i) for i in range(60)]
        left = np.array([by_hand(columns[1], i)[name] - by_hand(columns[0], i)[name] for i in without])
        wide = 2.0009954  # Student's t of 59
        error = math.sqrt(59 / 60 * ((left - left.mean()) ** 2).sum())
        spread = np.quantile([other[name] - one[name] - value for one, other in drawn], [0.025, 0.975])
        pull = left.mean() - left
        lean = 59 / 58 * (pull**3).sum() / (pull**2).sum() * (1 + 2 * wide**2) / 6
        low, high = wide / 1.9599640 * math.sqrt(60 / 59) * spread
        wanted = value + min(low, min(lean, 0) - wide * error), value + max(high, max(lean, 0) + wide * error)
        assert moves.interval == pytest.approx(wanted, 1e-6)
        np.testing.assert_array_equal(moves.moves, columns[1][name] - columns[0][name])
    rate, nll = compare_runs(a, b, ["rate", "nll"], resamples=300, seed=7).outputs
    assert [rate.interval, nll.interval] == [found.outputs[4].interval, found.outputs[0].interval]


@pytest.mark.parametrize(
    ("tolerance", "item_tolerance", "verdict"),
    [
        (None, None, "-"),
        (0.2, None, "within"),
        (0.105, None, "undecided"),  # the mean is in it, the end of the interval is not
        (0.09, None, "outside"),
        (None, 3.9, "within"),
        (None, 0.5, "outside"),
        (0.2, 3.9, "within"),
        (0.2, 0.5, "outside"),
        (0.105, 0.5, "outside"),
        (0.0, None, "outside"),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_verdicts(
    tmp_path: Path, tolerance: float | None, item_tolerance: float | None, verdict: str, sign: int
) -> None:
    moves = 0.1 + 0.5 * np.sin(np.arange(1000) * 2 * np.pi / 1000)
    moves[0] += 3
    a = RANDOM.normal(0, 1, 1000)
    found = compare(
        tmp_path, a, a + sign * (moves - 0.003), tolerance=tolerance, item_tolerance=item_tolerance
    )
    assert found.outputs[0].difference == pytest.approx(sign * 0.1)
    assert found.outputs[0].verdict == verdict
    assert found.ok == (verdict in ("-", "within"))
    assert bool(found.reasons) != found.ok
    assert found.undecided == (verdict == "undecided")


def test_nothing_moves_between_equal_runs(tmp_path: Path) -> None:
    values = [1.0, math.inf, -math.inf, math.nan, 1e300] * 20
    (moves,) = compare(tmp_path, values, values, tolerance=0, item_tolerance=0).outputs
    assert (moves.difference, moves.interval, moves.moved, moves.verdict) == (0.0, (0.0, 0.0), 0, "within")
    assert moves.worst(3) == []


def test_nothing_finite_at_all(tmp_path: Path) -> None:
    found = compare(tmp_path, [math.inf] * 60, [math.inf] * 60, tolerance=0)
    assert found.ok
    found = compare(tmp_path / "other", [math.inf, 1.0], [1.0, math.inf], tolerance=1e9)
    assert (found.outputs[0].verdict, found.outputs[0].one_sided) == ("outside", 2)


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("swap", [False, True])
def test_what_is_finite_in_one_run_alone_is_outside_every_tolerance(
    tmp_path: Path, odd: float, swap: bool
) -> None:
    runs = [[1.0, 2.0, 3.0], [1.0, odd, 3.5]]
    found = compare(tmp_path, *(reversed(runs) if swap else runs))
    (moves,) = found.outputs
    assert (moves.one_sided, moves.verdict, found.ok) == (1, "outside", False)
    assert abs(moves.difference) == 0.25  # of the other two
    assert np.isinf(moves.moves[1])
    assert moves.worst(1) == [1]
    assert found.reasons == ["loss: 1 item infinite or not a number in only one run"]
    if odd == odd:
        assert np.sign(moves.moves[1]) == np.sign(odd) * (-1 if swap else 1)


def test_items_that_one_run_lacks(tmp_path: Path) -> None:
    mean_run(
        tmp_path / "a",
        [1.0, 2.0, 3.0, 4.0],
        ids=list("wxyz"),
        sizes=[9, 8, 7, 6],
        set_aside={"q": "bad", "c": "worse"},
    )
    mean_run(
        tmp_path / "b", [1.0, 4.0, 5.0], ids=list("wzq"), set_aside={"x": "a NaN", "c": "worse", "d": "bad"}
    )
    runs = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    found = compare_runs(*runs, item_tolerance=1.0)
    lacking = [(item.id, item.run, item.reason) for item in found.missing]
    assert lacking == [("q", "A", "bad"), ("x", "B", "a NaN"), ("y", "B", "")]
    assert found.sizes.tolist() == [9, 6]
    assert (found.ids, found.neither, found.ok) == (["w", "z"], 2, False)
    assert found.outputs[0].verdict == "within"
    assert found.reasons == ["3 items scored in only one run"]
    assert compare_runs(*runs, item_tolerance=1.0, allow_missing=True).ok


def test_tolerances_by_output(tmp_path: Path) -> None:
    columns = {"one": [1.0, 2.0] * 20, "other": [10.0, 20.0] * 20}
    totals = {name: {"kind": "sum", "by": "", "value": sum(values)} for name, values in columns.items()}
    write_run(tmp_path / "a", columns, totals)
    write_run(tmp_path / "b", {"one": [1.0, 2.1] * 20, "other": [10.0, 25.0] * 20}, totals)
    runs = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    found = compare_runs(*runs, tolerance={"one": 4.0}, item_tolerance={"other": 4.0})
    assert [moves.verdict for moves in found.outputs] == ["within", "outside"]
    assert found.reasons == ["other: 20 items moved by more than 4"]
    assert compare_runs(*runs, ["one"], tolerance=4.0).ok


def test_other_settings_are_a_warning_other_rows_an_error(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0])
    mean_run(tmp_path / "b", [1.0], settings={"blank_index": 3, "reduction": "none"})
    mean_run(tmp_path / "c", [1.0], row="nll_loss")
    a, b, c = (read_run(tmp_path / name) for name in "abc")
    assert compare_runs(a, b).warnings == ["the setting blank_index is 0 in A and 3 in B"]
    assert compare_runs(a, a).warnings == []
    with pytest.raises(ValueError, match="got ctc_loss in A and nll_loss in B, expected the same row"):
        compare_runs(a, c)


def test_a_file_that_was_damaged_is_a_warning(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0, 2.0])
    about = (tmp_path / "a" / "totals.json").read_text()
    (tmp_path / "a" / "totals.json").write_text(about.replace('"rows": 2', '"rows": 2, "damaged": "cut off"'))
    mean_run(tmp_path / "b", [1.0, 2.0])
    found = compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert found.warnings == ["dev.parquet is damaged in A, and may have more items"]


def test_an_output_of_the_whole_corpus_has_no_items(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0, 2.0])
    about = (tmp_path / "a" / "totals.json").read_text()
    (tmp_path / "a" / "totals.json").write_text(
        about.replace('"totals": {', '"totals": {"eer": {"value": 0.25}, ')
    )
    a = read_run(tmp_path / "a")
    found = compare_runs(a, a)
    assert [moves.output for moves in found.outputs] == ["loss"]
    assert found.warnings == ["the output eer is one of the whole corpus, not of items, and is not compared"]
    with pytest.raises(ValueError, match="output: got eer, expected one of loss"):
        compare_runs(a, a, ["eer"])


def test_a_sum_beside_a_mean_is_refused(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0, 2.0])
    write_run(tmp_path / "b", {"loss": [1.0, 2.0]}, {"loss": {"kind": "sum", "by": "", "value": 3.0}})
    with pytest.raises(ValueError, match="loss: got a mean in A and a sum in B"):
        compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["cost"]}, "output: got cost, expected one of loss"),
        ({"tolerance": {"cost": 1.0}}, "tolerance: got one for cost, expected one of loss"),
        ({"tolerance": -1.0}, "tolerance: got -1, expected a number that is not below zero"),
        ({"item_tolerance": math.nan}, "item_tolerance: got nan"),
        ({"confidence": 1.0}, "confidence: got 1, expected a number between 0 and 1"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, [1.0], [2.0], **arguments)


def test_runs_without_an_item_in_common(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0], ids=["x"])
    mean_run(tmp_path / "b", [1.0], ids=["y"])
    with pytest.raises(ValueError, match=r"id: got 'x' … in A and 'y' … in B, expected items that both have"):
        compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got a folder without totals\.json, expected a folder that"):
        read_run(tmp_path)
    (tmp_path / "state").mkdir()
    with pytest.raises(ValueError, match="got an unfinished run, which the same `score` again would finish"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("totals.json", b"{", "Expecting"),
        ("totals.json", b'{"format": 2}', "got format 2, expected 1"),
        ("totals.json", b'{"format": 1}', "no 'totals'"),
        ("items.parquet", b"PAR1", ""),
        ("items.parquet", None, "items.parquet"),
        ("set_aside.parquet", None, "set_aside.parquet"),
    ],
)
def test_a_run_that_is_broken(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    folder = mean_run(tmp_path / "a", [1.0])
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"a: not a run that this version reads: .*{message}"):
        read_run(folder)


def test_a_column_that_is_missing_or_an_id_that_is_there_twice(tmp_path: Path) -> None:
    total = {"loss": {"kind": "mean", "by": "", "value": 1.0}}
    with pytest.raises(ValueError, match="loss_weight"):
        read_run(write_run(tmp_path / "a", {"loss": [1.0]}, total))
    with pytest.raises(ValueError, match="id: got 'x' more than once"):
        read_run(mean_run(tmp_path / "b", [1.0, 2.0], ids=["x", "x"]))


def test_means_weighted_otherwise_are_not_compared(tmp_path: Path) -> None:
    """The same items have another mean by frames than by items."""
    columns = {"loss": [1.0, 2.0], "loss_weight": [30.0, 10.0]}
    for name, by in (("frames", "T"), ("items", "")):
        write_run(tmp_path / name, columns, {"loss": {"kind": "mean", "by": by, "value": 1.25}})
    frames, items = read_run(tmp_path / "frames"), read_run(tmp_path / "items")
    same = "expected the same in both; export both graphs with the same settings"
    with pytest.raises(ValueError, match=f"^loss: got a mean by T in A and a mean in B, {same}"):
        compare_runs(frames, items)
    with pytest.raises(ValueError, match=f"^loss: got a mean in A and a mean by T in B, {same}"):
        compare_runs(items, frames)
    assert compare_runs(frames, frames).ok


@pytest.fixture
def more(tmp_path: Path) -> list[Run]:
    """Two runs, the first of which has an output more."""
    columns = {"errors": [1.0, 2.0], "tokens": [5.0, 5.0]}
    runs = []
    for outputs in (["errors", "tokens"], ["tokens"]):
        totals = {name: {"kind": "sum", "by": "", "value": sum(columns[name])} for name in outputs}
        folder = tmp_path / "-".join(outputs)
        runs.append(read_run(write_run(folder, {name: columns[name] for name in outputs}, totals)))
    return runs


def test_an_output_that_one_run_lacks_is_named_with_the_run_that_has_it(more: list[Run]) -> None:
    for a, b, has in ((*more, "A"), (*reversed(more), "B")):
        found = compare_runs(a, b)
        assert found.warnings == [f"the output errors is in {has} alone"]
        assert [moves.output for moves in found.outputs] == ["tokens"]


def test_runs_without_an_output_in_common(more: list[Run], tmp_path: Path) -> None:
    total = {"errors": {"kind": "sum", "by": "", "value": 3.0}}
    other = read_run(write_run(tmp_path / "other", {"errors": [1.0, 2.0]}, total))
    with pytest.raises(ValueError, match=r"^output: got tokens in A and errors in B, expected one that"):
        compare_runs(more[1], other)


def test_an_output_that_is_named_twice_is_compared_once(more: list[Run]) -> None:
    found = compare_runs(more[0], more[0], ["tokens", "errors", "tokens"])
    assert [moves.output for moves in found.outputs] == ["tokens", "errors"]


def test_what_is_wrong_is_not_undecided(tmp_path: Path) -> None:
    """More items would not mend an item that is missing, nor an output that is outside."""
    moves = 0.1 + 0.5 * np.sin(np.arange(1000) * 2 * np.pi / 1000)
    mean_run(tmp_path / "a", np.zeros(1001))
    mean_run(tmp_path / "b", moves)
    runs = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    found = compare_runs(*runs, tolerance=0.105)
    assert [moves.verdict for moves in found.outputs] == ["undecided"]
    assert not found.undecided
    assert compare_runs(*runs, tolerance=0.105, allow_missing=True).undecided


def test_json_has_the_items_that_one_run_lacks(tmp_path: Path) -> None:
    mean_run(tmp_path / "a", [1.0, 2.0], ids=["x", "y"], set_aside={"q": "bad", "c": "worse"})
    mean_run(tmp_path / "b", [1.0], ids=["x"], set_aside={"y": "a NaN", "c": "worse"})
    found = compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b")).to_json()
    assert (found["a"], found["b"]) == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert found["missing"] == [{"id": "y", "run": "B", "reason": "a NaN"}]
    assert (found["items"], found["set_aside_in_both"]) == (1, 2)
    assert found["reasons"] == ["1 item scored in only one run"]


@pytest.mark.parametrize("content", ["[]", "null", '{"format": 1, "totals": ["loss"]}'])
def test_totals_that_are_json_of_something_else(tmp_path: Path, content: str) -> None:
    folder = mean_run(tmp_path / "a", [1.0])
    (folder / "totals.json").write_text(content)
    with pytest.raises(ValueError, match="a: not a run that this version reads: "):
        read_run(folder)
