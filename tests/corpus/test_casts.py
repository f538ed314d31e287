"""Numbers that come wider than the graph takes them, as a Parquet file of Python's lists has them."""

import json
from pathlib import Path
from typing import Any

import exports
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpora import items_of

from exportable_losses import catalog
from exportable_losses.export import to_onnx
from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.report import write_report
from exportable_losses.runtime.corpus.runs import read_run


@pytest.fixture
def lists() -> list[dict[str, Any]]:
    """Items as Python has them: lists of floats and of ints."""
    items = items_of("ctc_loss", 6)
    return [{name: array.tolist() for name, array in item.items()} for item in items]


def write(lists: list[dict[str, Any]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(lists), path)
    return path


def run(graph: Path, data: Path, **settings: Any) -> dict[str, Any]:
    return score_corpus(Scorer(graph, **settings), [data], data.parent / "scores")


def test_lists_of_python_are_scored_and_what_was_rounded_is_noted(
    lists: Any, graphs: dict[str, Path], tmp_path: Path
) -> None:
    found = run(graphs["ctc_loss"], write(lists, tmp_path / "dev.parquet"))
    assert (found["items"], found["set_aside"]) == (6, 0)
    written = json.loads((tmp_path / "scores" / "totals.json").read_text())
    assert found["rounded"] == written["rounded"] == {"log_probs": ["float64", "float32"]}
    narrow = [{**each, "log_probs": np.array(each["log_probs"], np.float32).tolist()} for each in lists]
    kinds = pa.schema([("log_probs", pa.list_(pa.list_(pa.float32()))), ("targets", pa.list_(pa.int32()))])
    pq.write_table(pa.Table.from_pylist(narrow, kinds), tmp_path / "narrow.parquet")
    score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / "narrow.parquet"], tmp_path / "of_narrow")
    wide, other = read_run(tmp_path / "scores"), read_run(tmp_path / "of_narrow")
    np.testing.assert_array_equal(wide.columns["loss"], other.columns["loss"])
    assert "rounded" not in other.about
    for of, notes in ((wide, 1), (other, 0)):
        write_report(of, tmp_path / "page.html")
        assert (tmp_path / "page.html").read_text().count("from float64 to float32") == notes


@pytest.mark.parametrize("workers", [1, 2])
def test_the_note_stays_however_the_run_went(
    workers: int, lists: Any, graphs: dict[str, Path], tmp_path: Path
) -> None:
    data, scorer = write(lists, tmp_path / "dev.parquet"), Scorer(graphs["ctc_loss"])
    with pytest.raises(KeyboardInterrupt):  # after a window
        score_corpus(scorer, [data], tmp_path / "scores", window_bytes=1000, progress=_interrupt)
    again = Scorer(graphs["ctc_loss"])
    found = score_corpus(again, [data], tmp_path / "scores", window_bytes=1000, workers=workers)
    assert list(found["rounded"]) == ["log_probs"]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_number_that_is_too_large_costs_its_item_alone(
    lists: Any, graphs: dict[str, Path], tmp_path: Path
) -> None:
    lists[2]["log_probs"][3][4] = -1e39
    lists[4]["targets"][0] = 2**40
    found = run(graphs["ctc_loss"], write(lists, tmp_path / "dev.parquet"))
    assert (found["items"], found["set_aside"]) == (4, 2)
    reasons = [each.reason for each in read_run(tmp_path / "scores").set_aside]
    assert reasons == [
        "log_probs: got -1e+39 at [3, 4], expected a number that float32 holds",
        f"targets: got {2**40} at [0, 0], expected an index in [0, 8]",
    ]


def test_an_infinity_stays_one(lists: Any, graphs: dict[str, Path], tmp_path: Path) -> None:
    lists[0]["log_probs"][0][8] = -np.inf
    found = run(graphs["ctc_loss"], write(lists, tmp_path / "dev.parquet"))
    assert found["set_aside"] == 0


def test_integers_are_floating_point_where_nothing_is_lost(graphs: dict[str, Path], tmp_path: Path) -> None:
    item = {"log_probs": [[0, -50, -50]] * 2, "targets": [1]}
    found = run(graphs["ctc_loss"], write([item], tmp_path / "dev.parquet"))
    assert found["totals"]["loss"]["value"] == pytest.approx(50 - np.log(2))
    assert "rounded" not in found
    lossy = {**item, "log_probs": [[0, -(2**24) - 1, -50]] * 2}
    found = run(graphs["ctc_loss"], write([item, lossy], tmp_path / "lossy" / "dev.parquet"))
    (aside,) = read_run(tmp_path / "lossy" / "scores").set_aside
    assert aside.reason.startswith("log_probs: got int64, expected float32 (or what casts to it without loss")


def test_what_a_model_takes_is_rounded_too(lists: Any, graphs: dict[str, Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        m (float[B, T, 9] scores) => (float[B, T, 9] log_probs) { log_probs = LogSoftmax(scores) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    named = [{"scores": each["log_probs"], "targets": each["targets"]} for each in lists]
    data = write(named, tmp_path / "dev.parquet")
    found = run(graphs["ctc_loss"], data, model=tmp_path / "model.onnx")
    assert (found["set_aside"], list(found["rounded"])) == (0, ["scores"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_graph_of_16_bits(dtype: Any, lists: Any, tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    to_onnx(catalog.get("ctc_loss").module(reduction="none"), graph, dtype=dtype)
    lists[1]["log_probs"][0][0] = -1e39 if dtype == "bfloat16" else -70000.0
    found = run(graph, write(lists, tmp_path / "dev.parquet"))
    assert (found["items"], found["set_aside"]) == (5, 1)
    assert [*found["rounded"]["log_probs"]] == ["float64", dtype]


def test_a_graph_of_64_bits_rounds_nothing(lists: Any, tmp_path: Path) -> None:
    inputs = catalog.get("ctc_loss").example_inputs()
    inputs["log_probs"] = inputs["log_probs"].to(torch.float64)
    graph = exports.onnx(catalog.get("ctc_loss").module(reduction="none"), inputs)
    assert "rounded" not in run(graph, write(lists, tmp_path / "dev.parquet"))


def test_a_scorer_that_is_used_again_notes_the_run_alone(
    lists: Any, graphs: dict[str, Path], tmp_path: Path
) -> None:
    scorer = Scorer(graphs["ctc_loss"])
    first = score_corpus(scorer, [write(lists, tmp_path / "wide" / "items.parquet")], tmp_path / "one")
    assert first["rounded"]
    wide = pa.Table.from_pylist(lists)
    narrow = pa.schema(
        pa.field(f.name, pa.list_(pa.list_(pa.float32()))) if f.name == "log_probs" else f
        for f in wide.schema
    )
    path = tmp_path / "narrow" / "items.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(lists, schema=narrow), path)
    second = score_corpus(scorer, [path], tmp_path / "two")
    assert "log_probs" not in second.get("rounded", {})
