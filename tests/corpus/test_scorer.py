"""A scorer takes a model that fits, and sets aside what a graph of the whole corpus cannot see."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from corpora import items_of, write

from exportable_losses.runtime import Scorer
from exportable_losses.runtime.corpus.reading import Reader, windows
from exportable_losses.runtime.corpus.totals import Totals

IDS = [f"utt{i}" for i in range(4)]


@pytest.fixture
def items() -> list[dict[str, np.ndarray]]:
    """For a model that takes `scores`."""
    return [{"scores": item["log_probs"], "targets": item["targets"]} for item in items_of("ctc_loss", 4)]


def model(path: Path, result: str, program: str, output: str = "log_probs") -> Path:
    """A model of `scores`."""
    text = f"""<ir_version: 8, opset_import: ["": 18]>
        m (float[B, T, 9] scores) => (float{result} {output}) {{ {program} }}"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def score(scorer: Scorer, path: Path) -> list[dict[str, object]]:
    (window,) = windows([str(path)], scorer.columns)
    return scorer.score_window(window).to_pylist()


def test_a_model_s_outputs_go_where_their_names_do(
    items: list[dict[str, np.ndarray]], graphs: dict[str, Path], tmp_path: Path
) -> None:
    shard = write("npz", tmp_path / "dev", items, IDS)
    named = Scorer(
        graphs["ctc_loss"], model=model(tmp_path / "a.onnx", "[B, T, 9]", "log_probs = LogSoftmax(scores)")
    )
    told = Scorer(
        graphs["ctc_loss"],
        model=model(tmp_path / "b.onnx", "[B, T, 9]", "y = LogSoftmax(scores)", "y"),
        inputs={"log_probs": "y"},
    )
    assert named.columns == told.columns == ["scores", "targets", "input_lens", "target_lens"]
    found = score(named, shard)
    assert found == score(told, shard)
    assert [row["reason"] for row in found] == [None] * 4


@pytest.mark.parametrize(
    ("result", "program", "shape"),
    [
        ("[T, 9]", "axes = Constant<value_ints = [0]>() log_probs = Squeeze(scores, axes)", "[FRAMES, 9]"),
        ("[D, T, 9]", "log_probs = Concat<axis = 0>(scores, scores)", "[2, FRAMES, 9]"),
        ("", "log_probs = ReduceSum<keepdims = 0>(scores)", "[]"),
    ],
)
def test_a_model_gives_one_item_for_one(
    result: str,
    program: str,
    shape: str,
    items: list[dict[str, np.ndarray]],
    graphs: dict[str, Path],
    tmp_path: Path,
) -> None:
    scorer = Scorer(graphs["ctc_loss"], model=model(tmp_path / "model.onnx", result, program))
    found = score(scorer, write("npz", tmp_path / "dev", items, IDS))
    for row, item in zip(found, items, strict=True):
        got = shape.replace("FRAMES", str(len(item["scores"])))
        assert row["reason"] == f"log_probs: got shape {got}, expected one item first"


@pytest.mark.parametrize("batch_bytes", [0, -1])
def test_a_batch_needs_room(batch_bytes: int, graphs: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=f"^batch_bytes: got {batch_bytes}, expected a positive number"):
        Scorer(graphs["ctc_loss"], batch_bytes=batch_bytes)


@pytest.mark.parametrize("name", ["positive_scores", "negative_scores"])
def test_a_nan_is_found_though_the_graph_sees_all_items_at_once(
    name: str, graphs: dict[str, Path], tmp_path: Path
) -> None:
    """One item is set aside, and not the whole corpus."""
    items = items_of("EqualErrorRate", 4)
    items[1][name][-1] = np.nan
    found = score(Scorer(graphs["EqualErrorRate"]), write("npz", tmp_path / "dev", items, IDS))
    reasons = [row["reason"] for row in found]
    last = len(items[1][name]) - 1
    assert reasons == [None, f"{name}: got nan at [{last}], expected any number", None, None]


def test_an_item_that_cannot_be_scored_cannot_be_fed(graphs: dict[str, Path], tmp_path: Path) -> None:
    """A picture is of what was scored: the shard may have been written anew since."""
    items = items_of("ctc_loss", 2)
    items[1]["targets"] = items[1]["targets"][None]
    scorer = Scorer(graphs["ctc_loss"])
    (window,) = windows([str(write("npz", tmp_path / "dev", items, IDS[:2]))], scorer.columns)
    good, bad = Reader(scorer.columns).read(window)
    assert list(scorer.feed(good)) == ["log_probs", "targets", "input_lens", "target_lens"]
    with pytest.raises(
        ValueError, match=r"^utt1: targets: got 3 dimensions, expected the dimensions \(B, S\)"
    ):
        scorer.feed(bad)


def test_what_is_heard_in_silence_counts(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Two errors in seven words, and three words where nothing was said: five sevenths."""
    of = [([1, 2, 3, 4], [1, 2, 3, 5]), ([6, 7], []), ([1, 2], [1, 2, 3]), ([8], []), ([], [])]
    items = [{"predictions": np.array(a, np.int64), "targets": np.array(b, np.int64)} for a, b in of]
    scorer = Scorer(graphs["TokenErrorRate"])
    found = score(scorer, write("npz", tmp_path / "dev", items, [f"utt{i}" for i in range(5)]))
    assert [row["reason"] for row in found] == [None] * 5
    assert [row["insertions"] for row in found] == [0, 2, 0, 1, 0]
    assert [row["rate"] for row in found] == pytest.approx([1 / 4, np.inf, 1 / 3, np.inf, 0])
    totals = Totals(scorer.batches.totals)
    totals.add({name: np.array([row[name] for row in found]) for name in scorer.batches.columns})
    rate = totals.result()["rate"]
    assert (rate["numerator"], rate["denominator"], rate["value"]) == (5, 7, 5 / 7)


def test_what_cannot_be_aligned_is_set_aside(graphs: dict[str, Path], tmp_path: Path) -> None:
    """And not the best item of all, as `zero_infinity` would have it."""
    random = np.random.default_rng(0)
    items = items_of("ctc_loss", 7)
    items[1] = {"log_probs": items[1]["log_probs"][:21], "targets": random.integers(1, 9, 200)}
    items[2] = {"log_probs": items[2]["log_probs"][:4], "targets": np.array([1, 1, 2])}  # which just does
    items[3] = {"log_probs": items[3]["log_probs"][:3], "targets": np.array([1, 1, 2])}
    items[4]["log_probs"][:, items[4]["targets"][0]] = -np.inf
    sure = np.full((5, 9), -np.inf, np.float32)
    sure[range(5), [0, 1, 1, 0, 2]] = 0.0
    items[5] = {"log_probs": sure, "targets": np.array([1, 2])}
    items[6] = {"log_probs": items[6]["log_probs"], "targets": np.zeros(0, np.int64)}
    found = score(
        Scorer(graphs["ctc_loss"]), write("npz", tmp_path / "dev", items, [f"utt{i}" for i in range(7)])
    )
    reasons = [row["reason"] for row in found]
    assert [bool(reason) for reason in reasons] == [False, True, False, True, True, False, False]
    assert reasons[1] == "targets: got 200 labels for 21 frames, expected a target that can be aligned"
    assert found[5]["loss"] == 0
    assert min(found[row]["loss"] for row in (0, 2, 6)) > 0
