"""The folder of a run: whole files or none, the same bytes from any windows, ids that repeat."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exportable_losses.runtime.corpus import lock, results
from exportable_losses.runtime.corpus.reading import Window
from exportable_losses.runtime.corpus.results import Results
from exportable_losses.runtime.files import whole_file

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


@pytest.mark.parametrize("out", ["file", "file/in/it", "link", "link/in/it"])
def test_a_folder_that_cannot_be_is_refused(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone/with/what/it/was")
    with pytest.raises(ValueError, match=rf"^out: got {tmp_path / out}, where there can be no folder \("):
        Results(tmp_path / out, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_what_is_not_of_the_run_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "notes.txt").write_text("of the user")
    merged(tmp_path, [("a", 1.0, None)])
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["notes.txt"]


def test_a_file_that_is_a_link_is_written_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "page.html"
    link.symlink_to(tmp_path / "real" / "page.html")
    with whole_file(link) as file:
        file.write(b"page")
    assert link.is_symlink()
    assert (tmp_path / "real" / "page.html").read_bytes() == b"page"


def test_what_is_no_file_is_written_to_as_it_is() -> None:
    with whole_file(Path("/dev/null")) as file:
        file.write(b"page")
    assert Path("/dev/null").is_char_device()


HELD = """
import sys, time
from exportable_losses.runtime.corpus.results import Results
results = Results(sys.argv[1], {})
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["kill", "release"])
def test_one_run_at_a_time_has_a_folder(end: str, tmp_path: Path) -> None:
    """One that was killed has it no longer."""
    out = tmp_path / "out"
    if end == "release":
        with Results(out, {}), pytest.raises(BlockingIOError, match=f"process {os.getpid()} of "):
            Results(out, {})
    else:
        run = subprocess.Popen([sys.executable, "-c", HELD, str(out)], stdout=subprocess.PIPE)
        with run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"held\n"
            message = rf"^out: got .*out, to which process {run.pid} of \S+ writes now, expected another"
            with pytest.raises(BlockingIOError, match=message):
                Results(out, {})
            run.kill()
    with Results(out, {}) as results:
        results.finish({})
    assert [path.name for path in out.iterdir()] == ["totals.json"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finishes removes it: a lock on what no folder has any more keeps nobody out."""
    path, real, calls = tmp_path / "lock", lock._lock, []

    def after_whoever_finishes(file: int) -> None:
        real(file)
        calls.append(file)
        if len(calls) == 1:
            path.unlink()

    monkeypatch.setattr(lock, "_lock", after_whoever_finishes)
    held = lock.Lock(path, "out: got it")
    with pytest.raises(BlockingIOError):
        lock.Lock(path, "out: got it")
    held.release()


def test_a_lock_that_is_left_in_a_finished_folder_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").touch()
    (tmp_path / "totals.json").touch()
    with pytest.raises(ValueError, match="which holds a finished run"):
        Results(tmp_path, {})
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_part_that_is_damaged_is_not_there(damage: str, tmp_path: Path) -> None:
    window = Window(0, "dev.parquet", "dev.parquet", 0, 0, 1, 0)
    with Results(tmp_path, {}) as run:
        run.write(window, pa.table([["a"], [1.0], [None]], schema=SCHEMA))
        assert run.has(window)
    (part,) = (tmp_path / "state").glob("part-*")
    content = bytearray(part.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    part.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage, len(content))])
    with Results(tmp_path, {}) as run:
        assert list(run.parts()) == []
        assert not run.has(window)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff", "[" * 100_000])
def test_a_state_that_does_not_say_what_it_is_of_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^out: got .*, whose state/run.json is damaged, expected another"):
        Results(tmp_path, {})


def test_json_has_no_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    content = {"loss": {"value": math.inf, "all": [-math.inf, math.nan, 1.5]}, "settings": {"x": None}}
    found = json.loads(results.as_json(content), parse_constant=lambda word: pytest.fail(word))
    assert found == {"loss": {"value": "inf", "all": ["-inf", "nan", 1.5]}, "settings": {"x": None}}
