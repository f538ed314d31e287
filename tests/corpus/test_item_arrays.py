"""What a graph gives for each label, frame or source of an item is kept, cut to the item's size."""

from pathlib import Path
from typing import Any

import exports
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from corpora import columns, items_of

from exportable_losses import catalog
from exportable_losses.export import attach
from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.runs import read_run

Kept = list[dict[str, Any]]


def scored(graph: Path, items: Any, folder: Path, **settings: Any) -> Kept:
    folder.mkdir()
    pq.write_table(columns(items), folder / "dev.parquet")
    score_corpus(Scorer(graph, **settings), [folder / "dev.parquet"], folder / "scores", window_bytes=3000)
    assert len(read_run(folder / "scores").ids) == len(items)
    return pq.read_table(folder / "scores" / "items.parquet").to_pylist()


def alone(row: str, item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the row gives for an item alone."""
    tensors = [torch.from_numpy(array)[None] for array in item.values()]
    lengths = [torch.ones(1)] * (len(catalog.get(row).inputs) - len(tensors))
    outputs = catalog.get(row).module()(*tensors, *lengths)
    return {name: each[0].numpy() for name, each in zip(catalog.get(row).outputs, outputs, strict=True)}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("row", ["CTCAlign", "CTCPosterior"])
def test_arrays_are_those_of_the_item_alone(row: str, native: bool, tmp_path: Path) -> None:
    graph, items = exports.onnx(catalog.get(row).module()), items_of("ctc_loss", 20)
    found = scored(graph, items, tmp_path / "one", native=native)
    for item, kept in zip(items, found, strict=True):
        for name, wanted in alone(row, item).items():
            got = np.array(kept[name])
            assert got.shape == wanted.shape, name
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
            assert got.dtype.kind == wanted.dtype.kind


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("row", ["CTCAlign", "CTCPosterior"])
def test_batches_do_not_change_a_bit_of_them(row: str, native: bool, tmp_path: Path) -> None:
    graph, items = exports.onnx(catalog.get(row).module()), items_of("ctc_loss", 20)
    one, other = (
        scored(graph, items, tmp_path / str(size), native=native, batch_bytes=size) for size in (1, 1 << 20)
    )
    assert one == other
    backwards = scored(graph, items[::-1], tmp_path / "backwards", native=native)[::-1]
    assert [{**row, "id": ""} for row in backwards] == [{**row, "id": ""} for row in one]


def test_the_alignment_behind_a_model(tmp_path: Path) -> None:
    # S is its frames
    # S is its frames
    text = """<ir_version: 8, opset_import: ["": 18]>
        m (float[batch, S, 9] scores) => (float[batch, S, 9] y) { y = LogSoftmax <axis = -1> (scores) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    align, joint = exports.onnx(catalog.get("CTCAlign").module()), tmp_path / "joint.onnx"
    attach(tmp_path / "model.onnx", align, joint, inputs={"log_probs": "y"}, scores="log_probs")
    items = items_of("ctc_loss", 5)
    apart = scored(align, items, tmp_path / "apart")
    named = [{"scores": item["log_probs"], "targets": item["targets"]} for item in items]
    for one, other in zip(scored(joint, named, tmp_path / "joint"), apart, strict=True):
        assert {name: one[name] for name in ("tokens", "starts", "ends")} == {
            name: other[name] for name in ("tokens", "starts", "ends")
        }


def test_a_size_that_only_the_model_knows_is_whole(tmp_path: Path) -> None:
    # S is its frames
    text = """<ir_version: 8, opset_import: ["": 18]>
        m (float[batch, U, P, 5] x) => (float[batch, U, P, 5] y) { y = Identity(x) }"""  # U is its frames
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    posterior, joint = exports.onnx(catalog.get("TransducerPosterior").module()), tmp_path / "joint.onnx"
    attach(tmp_path / "model.onnx", posterior, joint, inputs={"logits": "y"})
    random = np.random.default_rng(0)
    items = [
        {
            "x": random.standard_normal((9, labels + 1, 5), np.float32),
            "targets": random.integers(1, 5, labels),
        }
        for labels in (3, 2)
    ]
    for item, kept in zip(items, scored(joint, items, tmp_path / "joint"), strict=True):
        wanted = alone("TransducerPosterior", item)["emissions"]
        np.testing.assert_allclose(np.array(kept["emissions"]), wanted, rtol=1e-5, atol=1e-6)


def test_an_item_that_is_set_aside_leaves_the_arrays_of_the_others(tmp_path: Path) -> None:
    graph, items = exports.onnx(catalog.get("CTCAlign").module()), items_of("ctc_loss", 3)
    pq.write_table(
        columns([*items, {**items[0], "targets": np.array([0])}, *items]), tmp_path / "dev.parquet"
    )
    score_corpus(Scorer(graph), [tmp_path / "dev.parquet"], tmp_path / "scores")
    starts = pq.read_table(tmp_path / "scores" / "items.parquet")["starts"].to_pylist()
    assert len(starts) == 6
    assert starts[:3] == starts[3:]


def test_sources_that_were_exchanged(tmp_path: Path) -> None:
    graph = exports.onnx(catalog.get("SDR").module())
    random = np.random.default_rng(0)
    sources = random.standard_normal((3, 200, 2), np.float32)
    items = [{"source": each, "estimate_source": each[:, ::-1].copy()} for each in sources]
    found = scored(graph, items, tmp_path / "sdr")
    assert [row["permutations"] for row in found] == [[1, 0]] * 3


def test_few_arrays_wait_in_memory(tmp_path: Path) -> None:
    """A group of rows is written before there are many: the arrays of an item may be large."""
    items = items_of("ctc_loss", 600)
    np.savez(tmp_path / "a.npz", **{f"{i}.{n}": x for i, item in enumerate(items) for n, x in item.items()})
    align = exports.onnx(catalog.get("CTCAlign").module())
    score_corpus(Scorer(align), [tmp_path / "a.npz"], tmp_path / "scores")
    groups = pq.ParquetFile(tmp_path / "scores" / "items.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [256, 256, 88]
