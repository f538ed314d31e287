"""Pages of Parquet with checksums: a damaged one costs the rows behind it, and no number is another."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import columns, items_of
from run_folders import mean_run
from test_formats import rows

from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.reading import Places
from exportable_losses.runtime.corpus.runs import read_run

X = [np.arange(4.0) + i for i in range(6)]
IDS = list("abcdef")


def checked(path: Path, *, checksums: bool = True, **options: Any) -> Path:
    """Six items in three row groups."""
    table = pa.table({"id": IDS, "x": pa.array(X)})
    options = {"compression": "none", "row_group_size": 2, **options}
    pq.write_table(table, path, write_page_checksum=checksums, **options)
    return path


def flipped(path: Path, group: int, column: int) -> None:
    """Flip the last bit of the first page of a column: of its dictionary, where it has one."""
    of = pq.ParquetFile(path).metadata.row_group(group).column(column)
    end = of.dictionary_page_offset and of.data_page_offset
    end = end or of.data_page_offset + of.total_compressed_size
    content = bytearray(path.read_bytes())
    content[end - 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("column", [0, 1], ids=["id", "x"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_page_that_is_damaged_costs_its_row_group(
    column: int, version: str, dictionary: bool, compression: str, tmp_path: Path
) -> None:
    path = checked(
        tmp_path / "dev.parquet",
        use_dictionary=dictionary,
        compression=compression,
        data_page_version=version,
    )
    whole = rows(path, ["x"])
    assert whole == [(id_, {"x": x.tolist()}) for id_, x in zip(IDS, X, strict=True)]
    flipped(path, 1, column)
    found = rows(path, ["x"])
    assert (found[:2], found[4:]) == (whole[:2], whole[4:])
    assert [id_ for id_, _ in found[2:4]] == ["dev.parquet#2", "dev.parquet#3"]
    assert all(why.startswith("unreadable: could not verify page integrity") for _, why in found[2:4])


def test_an_id_of_a_page_that_is_damaged_is_nobody_s(tmp_path: Path) -> None:
    path = checked(tmp_path / "dev.parquet", use_dictionary=False)
    flipped(path, 1, 0)
    places = Places([str(path)], ["x"])
    assert [id_ for id_ in IDS if places.find(id_)] == ["a", "b", "e", "f"]
    assert places.find("g") is None  # what the last one's bit made of it


def test_pages_without_checksums_are_read(tmp_path: Path) -> None:
    path = checked(tmp_path / "dev.parquet", checksums=False)
    assert [found for _, found in rows(path, ["x"])] == [{"x": x.tolist()} for x in X]


def test_a_corpus_is_scored_without_what_is_damaged(graphs: Any, tmp_path: Path) -> None:
    items, path = items_of("ctc_loss", 6), tmp_path / "dev.parquet"
    options = {"use_dictionary": False, "compression": "none", "row_group_size": 2}
    pq.write_table(columns(items, IDS), path, write_page_checksum=True, **options)
    whole = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "whole")
    flipped(path, 1, 1)
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")
    assert (whole["items"], found["items"], found["set_aside"]) == (6, 4, 2)
    before, after = (pq.read_table(tmp_path / name / "items.parquet") for name in ("whole", "out"))
    assert after == before.take([0, 1, 4, 5])


def test_a_finished_run_that_a_disk_has_damaged_is_refused(graphs: Any, tmp_path: Path) -> None:
    """The tables of a run have checksums; those of one that was written without are read."""
    path = checked(tmp_path / "dev.parquet")
    pq.write_table(columns(items_of("ctc_loss", 6), IDS), path)
    score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")
    assert len(read_run(tmp_path / "out").ids) == 6
    flipped(tmp_path / "out" / "items.parquet", 0, 2)
    with pytest.raises(ValueError, match="not a run that this version reads: could not verify page integ"):
        read_run(tmp_path / "out")
    assert read_run(mean_run(tmp_path / "older", [1.0, 2.0])).columns["loss"].tolist() == [1.0, 2.0]
