"""A column that nothing reads is named, with what it may be meant as."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import items_of, write

from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.names import as_text, unused_columns
from exportable_losses.runtime.corpus.report import write_report
from exportable_losses.runtime.corpus.runs import read_run

IDS = [f"utt{i}" for i in range(12)]


def misspelled() -> list[dict[str, Any]]:
    more = {"input_len": np.int64(5), "speaker": np.int64(3)}
    return [{**item, **more} for item in items_of("ctc_loss")]


@pytest.mark.parametrize("kind", ["parquet", "file", "stream", "npz", "tar"])
def test_what_is_not_used_is_said(kind: str, graphs: Any, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "dev", misspelled(), IDS)
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out", window_bytes=2000)
    assert found["unused"] == {"input_len": "input_lens", "speaker": ""}
    assert json.loads((tmp_path / "out" / "totals.json").read_text())["unused"] == found["unused"]
    write_report(read_run(tmp_path / "out"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "columns not used" in page
    assert "input_len (close to input_lens), speaker" in page


def test_where_all_is_used_nothing_is_said(graphs: Any, tmp_path: Path) -> None:
    path = write("parquet", tmp_path / "dev", items_of("ctc_loss"), IDS)
    assert "unused" not in score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")


def test_a_column_that_one_shard_has_right_is_close_in_the_other(graphs: Any, tmp_path: Path) -> None:
    right = [{**item, "input_lens": np.int64(5), "input_len": np.int64(5)} for item in items_of("ctc_loss")]
    paths = [write("npz", tmp_path / f"{i}", items, IDS) for i, items in enumerate((misspelled(), right))]
    found = score_corpus(Scorer(graphs["ctc_loss"]), paths, tmp_path / "out")
    assert found["unused"]["input_len"] == "input_lens"


def test_where_nothing_could_be_scored_the_error_says_it(graphs: Any, tmp_path: Path) -> None:
    items = [{"log_prob": item["log_probs"], "targets": item["targets"]} for item in items_of("ctc_loss")]
    path = write("parquet", tmp_path / "dev", items, IDS)
    with pytest.raises(ValueError, match=r"columns not used: log_prob \(close to log_probs\)$"):
        score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")


def test_a_batch_is_no_corpus(graphs: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", log_probs=np.zeros((1, 3, 4)), targets=np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"<id>\.<input>\.npy; one batch is for --inputs$"):
        score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / "batch.npz"], tmp_path / "out")


@pytest.mark.parametrize("name", ["utt_id", "ID", "uttid_id", "key", "__key__", "utt-id"])
def test_what_may_be_the_id(name: str) -> None:
    assert unused_columns([name, "x"], ["x"]) == {name: "id"}
    assert unused_columns([name, "x", "id"], ["x"]) == {name: ""}


def test_what_is_not_of_the_users_making_is_not_named() -> None:
    assert unused_columns(["id", "x", "__index_level_0__"], ["x"]) == {}


def test_many_names_are_counted() -> None:
    assert as_text({f"c{i}": "" for i in range(10)}) == "c0, c1, c2, c3, c4, c5, c6, c7 and 2 more"
