"""A column of integers is absolute and one of fractions is relative, whichever the graph takes."""

from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
import torch
from corpora import Item, items_of, write

from exportable_losses import catalog
from exportable_losses.runtime import Scorer
from exportable_losses.runtime.corpus.columns import Column
from exportable_losses.runtime.corpus.reading import windows

NUMBER = 6
IDS = [f"utt{i}" for i in range(NUMBER)]
COUNTED = {
    "ctc_loss": {"input_lens": "log_probs", "target_lens": "targets"},
    "l1_loss": {"length": "predictions"},
    "TokenErrorRate": {"prediction_lens": "predictions", "target_lens": "targets"},
}


def score(scorer: Scorer, path: Path) -> list[dict[str, Any]]:
    (window,) = windows([str(path)], scorer.columns)
    return scorer.score_window(window).to_pylist()


def graph_of(row: str, *, absolute: bool) -> Path:
    inputs = catalog.get(row).example_inputs()
    if absolute:
        inputs |= {name: torch.tensor([4, 3, 2]) for name in COUNTED[row]}
    return exports.onnx(catalog.get(row).module(), inputs)


def shortened(item: Item, lengths: dict[str, str]) -> tuple[Item, dict[str, int]]:
    """An item that is padded with garbage, and how much of it counts."""
    padded, counts = dict(item), {}
    for name, of in lengths.items():
        array = item[of]
        counts[name] = len(array)
        behind = np.full((3, *array.shape[1:]), np.nan if array.dtype.kind == "f" else -100, array.dtype)
        padded[of] = np.concatenate([array, behind])
    if "predictions" in padded and padded["predictions"].ndim == 2:
        padded["targets"] = np.concatenate([item["targets"], np.full((3, 3), np.inf, np.float32)])
    return padded, counts


@pytest.mark.parametrize("absolute", [False, True], ids=["relative graph", "absolute graph"])
@pytest.mark.parametrize("row", COUNTED)
def test_columns_of_either_kind_go_into_graphs_of_either_kind(
    row: str, absolute: bool, tmp_path: Path
) -> None:
    scorer, items = Scorer(graph_of(row, absolute=absolute)), items_of(row, NUMBER)
    padded = [shortened(item, COUNTED[row]) for item in items]
    expected = score(scorer, write("npz", tmp_path / "plain", items, IDS))
    assert [found["reason"] for found in expected] == [None] * NUMBER
    for dtype in (np.int64, np.uint8, np.float32, np.float64):
        shard = []
        for item, counts in padded:
            sizes = {name: len(item[of]) for name, of in COUNTED[row].items()}
            lengths = {
                name: dtype(count / sizes[name] if dtype in (np.float32, np.float64) else count)
                for name, count in counts.items()
            }
            shard.append(item | lengths)
        found = score(scorer, write("npz", tmp_path / dtype.__name__, shard, IDS))
        for one, other in zip(found, expected, strict=True):
            assert one["reason"] is None
            # padded to another size, sums are rounded otherwise
            assert one["size"] == other["size"]
            for name in set(one) - {"id", "size", "reason"}:
                assert one[name] == pytest.approx(other[name], rel=1e-6), name


@pytest.mark.parametrize("absolute", [False, True], ids=["relative graph", "absolute graph"])
def test_float32_costs_no_sample_of_ten_seconds(absolute: bool, tmp_path: Path) -> None:
    counts = [159_999, 53_333, 147_291, 22_223, 1, 160_000]
    error = np.random.default_rng(0).standard_normal((160_000, 1)).astype(np.float32)
    items = [
        {"predictions": error, "targets": np.zeros_like(error), "length": np.float32(count / 160_000)}
        for count in counts
    ]
    found = score(Scorer(graph_of("l1_loss", absolute=absolute)), write("npz", tmp_path / "long", items, IDS))
    assert [row["reason"] for row in found] == [None] * NUMBER
    assert [row["size"] for row in found] == counts
    for row, count in zip(found, counts, strict=True):
        assert row["loss"] == pytest.approx(np.abs(error[:count].astype(np.float64)).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (np.float16(0.5), "length: got float16, expected float32, float64 or integers"),
        (np.bool_(True), "length: got bool, expected float32, float64 or integers"),
        (np.int64(99), "length: got 99 of "),
        (np.int64(-1), "length: got -1 of "),
        (np.int64(0), "length: got 0.0 at [0], expected relative lengths"),
        (np.float32(1.5), "length: got 1.5 of "),
        (np.float32(0.505), "length: got 0.505 of "),  # part of a frame: relative to another size
        (np.float32(np.nan), "length: got nan of "),
    ],
    ids=str,
)
def test_a_length_that_cannot_be_is_set_aside(length: Any, reason: str, tmp_path: Path) -> None:
    items = [item | {"length": np.float32(1)} for item in items_of("l1_loss", 2)]
    items[1]["length"] = length
    path = write("npz", tmp_path / "dev", items, IDS[:2])
    good, bad = score(Scorer(graph_of("l1_loss", absolute=False)), path)
    assert good["reason"] is None
    assert bad["reason"].startswith(reason)


@pytest.mark.parametrize("row", ["l1_loss", "nll_loss", "LaplacianVarianceLoss"])
def test_a_graph_without_its_optional_length_is_scored(row: str, tmp_path: Path) -> None:
    entry = catalog.get(row)
    inputs = {name: x for name, x in entry.example_inputs().items() if name != "length"}
    scorer = Scorer(exports.onnx(entry.module(), inputs))
    items = [{name: x[i].numpy() for name, x in inputs.items()} for i in range(3)]
    found = score(scorer, write("npz", tmp_path / "dev", items, IDS[:3]))
    for i, got in enumerate(found):
        alone = entry.module()(**{name: x[i : i + 1] for name, x in inputs.items()})
        assert got["reason"] is None
        assert got["loss"] == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize("row", ["VariationalAutoencoderLoss", "LaplacianVarianceLoss"])
def test_absolute_lengths_of_no_one_size_are_refused(row: str) -> None:
    """Of 14 frames and 11 latents; of rows that only the graph knows."""
    entry = catalog.get(row)
    batches = Scorer(exports.onnx(entry.module())).batches
    item = {name: Column.of([x[0].numpy()]) for name, x in entry.example_inputs().items()}
    assert len(batches.ready(np.zeros(1, int), item)) == 1
    with pytest.raises(ValueError, match=r"^length: got absolute lengths, expected rel"):
        batches.ready(np.zeros(1, int), item | {"length": Column.of([np.array(7)])})
