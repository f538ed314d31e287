"""A scorer takes a model that fits, and sets aside what a graph of the whole corpus cannot see."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from corpora import items_of, write

from exportable_losses.runtime import Scorer
from exportable_losses.runtime.corpus.reading import Reader, windows

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
