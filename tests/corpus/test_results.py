"""The folder of a run: whole files or none, the same bytes from any windows, ids that repeat."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exportable_losses.runtime.corpus import results
from exportable_losses.runtime.corpus.reading import Window
from exportable_losses.runtime.corpus.results import Results, whole_file

SCHEMA = pa.schema([("id", pa.string()), ("loss", pa.float64()), ("reason", pa.string())])
Row = tuple[str, float | None, str | None]


def merged(folder: Path, *parts: list[Row]) -> tuple[list[str], list[tuple[str, str]]]:
    """The ids that a run with these windows has scored, and those that it has set aside, with the reasons."""
    run, planned, start = Results(folder, {}), [], 0
    for index, rows in enumerate(parts):
        window = Window(0, "dev.parquet", "dev.parquet", index, start, len(rows), 0)
        columns = [list(column) for column in zip(*rows, strict=True)]
        run.write(window, pa.table(columns, schema=SCHEMA))
        planned.append(window)
        start += len(rows)
    given = pa.concat_tables(run.merge(planned, SCHEMA))
    run.finish({})
    items = pq.read_table(folder / "items.parquet")
    assert items.equals(given)
    aside = pq.read_table(folder / "set_aside.parquet").to_pylist()
    return items["id"].to_pylist(), [(row["id"], row["reason"]) for row in aside]


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def write_half(error: type[BaseException]) -> None:
        with whole_file(tmp_path / "totals.json") as file:
            file.write(b"half")
            raise error

    (tmp_path / "totals.json").write_bytes(b"before")
    for error in (KeyboardInterrupt, OSError):
        with pytest.raises(error):
            write_half(error)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_the_windows_do_not_show_in_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows come at a time, the row groups are of one size."""
    monkeypatch.setattr(results, "_GROUP", 5)
    rows: list[Row] = [(f"{i}", float(i), "bad" if i % 7 == 3 else None) for i in range(27)]
    cuts = ([rows], [rows[:3], rows[3:4], rows[4:]], [rows[i : i + 6] for i in range(0, 27, 6)])
    for name, parts in enumerate(cuts):
        merged(tmp_path / f"{name}", *parts)
    for file, sizes in (("items.parquet", [5] * 4 + [3]), ("set_aside.parquet", [4])):
        written = [(tmp_path / f"{name}" / file).read_bytes() for name in range(len(cuts))]
        assert written[0] == written[1] == written[2]
        about = pq.ParquetFile(tmp_path / "0" / file).metadata
        assert [about.row_group(i).num_rows for i in range(about.num_row_groups)] == sizes


def test_an_id_is_scored_once_the_first_time_that_it_can_be(tmp_path: Path) -> None:
    first: list[Row] = [("a", None, "a NaN"), ("b", 1.0, None)]
    second: list[Row] = [("a", 2.0, None), ("b", 3.0, None), ("a", None, "torn"), ("a", 4.0, None)]
    scored, aside = merged(tmp_path / "out", first, second)
    assert scored == ["b", "a"]
    twice = "id: got it a second time, expected one item of each"
    assert aside == [("a", "a NaN"), ("b", twice), ("a", "torn"), ("a", twice)]
    losses = pq.read_table(tmp_path / "out" / "items.parquet")["loss"]
    np.testing.assert_array_equal(losses, [1.0, 2.0])


def test_what_is_not_of_the_run_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "notes.txt").write_text("of the user")
    merged(tmp_path, [("a", 1.0, None)])
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["notes.txt"]
