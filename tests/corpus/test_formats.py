"""What makes an item of a shard: members of archives, rows, ids; and what of a shard is not looked at."""

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import write, write_tar

from exportable_losses.runtime.corpus import archives, damage, formats
from exportable_losses.runtime.corpus import rows as shard_rows
from exportable_losses.runtime.corpus.reading import Reader, windows


def rows(path: Path, inputs: Sequence[str] = ("x", "y")) -> list[tuple[str, Any]]:
    """The id of each row, with its arrays as lists or with what is wrong with it."""
    found: list[tuple[str, Any]] = []
    reader = Reader(inputs)
    for window in windows([str(path)], inputs):
        for some in reader.read(window):
            arrays = {name: [array.tolist() for array in column] for name, column in some.columns.items()}
            found += [
                (id_, some.wrong.get(row) or {name: column[row] for name, column in arrays.items()})
                for row, id_ in enumerate(some.ids)
            ]
    reader.close()
    return found


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_the_folder_of_a_member_is_part_of_its_id(kind: str, tmp_path: Path) -> None:
    """The same names in several folders are several items; a dot of a folder begins no input."""
    ids = ["utt", "dev/utt", "test/utt", "test/more/utt", "v1.0/utt"]
    items = [{"x": np.full(i + 1, i), "y": np.array([i, -i])} for i in range(len(ids))]
    path = write(kind, tmp_path / "all", items, ids)
    assert rows(path) == [
        (id_, {name: array.tolist() for name, array in item.items()})
        for id_, item in zip(ids, items, strict=True)
    ]


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_a_path_is_one_id_however_it_is_spelled(kind: str, tmp_path: Path) -> None:
    """``tar -cf dev.tar .`` writes ``./utt``: the items pair with those of another tar."""
    spelled = ["./utt", "dev/utt", "./dev/more/utt", ".//test/utt", "v1/./utt", "v1/../v2/utt"]
    items = [{"x": np.array([i]), "y": np.array([-i])} for i in range(len(spelled))]
    path = write(kind, tmp_path / "all", items, spelled)
    assert [id_ for id_, _ in rows(path)] == [
        "utt",
        "dev/utt",
        "dev/more/utt",
        "test/utt",
        "v1/utt",
        "v2/utt",
    ]
    assert [found["x"] for _, found in rows(path)] == [[i] for i in range(len(spelled))]


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_members_that_are_no_arrays_are_no_items(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "all", [{"x": np.ones(2)}], ["dev/utt"])
    for name in ("README.md", "dev/notes.x.txt", "dev/.npy"):
        if kind == "tar":
            with tarfile.open(path, "a") as tar:
                tar.addfile(tarfile.TarInfo(name), BytesIO())
        else:
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(name, b"")
    assert rows(path) == [("dev/utt", {"x": [1.0, 1.0]})]


def test_an_input_that_comes_again_begins_another_item(tmp_path: Path) -> None:
    """Two items of one id are two, of which the run scores the first."""
    for part, value in (("first", 1), ("second", 2)):
        members = {f"{id_}.{name}": np.array([value]) for id_ in ("a", "b") for name in ("x", "y")}
        write_tar(tmp_path / f"{part}.tar", members)
    with tarfile.open(tmp_path / "first.tar", "a") as both, tarfile.open(tmp_path / "second.tar") as second:
        for member in second:
            both.addfile(member, second.extractfile(member))
    assert rows(tmp_path / "first.tar") == [
        (id_, {"x": [value], "y": [value]}) for value in (1, 2) for id_ in ("a", "b")
    ]


class Program:
    """What makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_no_program_in_an_archive_is_run(kind: str, tmp_path: Path) -> None:
    odd = np.array([Program(tmp_path / "made")], object)
    path = write(kind, tmp_path / "all", [{"x": np.ones(1)}, {"x": odd}, {"x": np.ones(1)}], ["a", "b", "c"])
    (first, (id_, why), last) = rows(path)
    assert (first, last) == (("a", {"x": [1.0]}), ("c", {"x": [1.0]}))
    assert (id_, why.partition(":")[0]) == ("b", "x")
    assert "allow_pickle=False" in why
    assert not (tmp_path / "made").exists()


def test_an_id_may_be_a_number_or_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7, None, 9], "x": [1, 2, 3]}), tmp_path / "dev.parquet")
    assert [id_ for id_, _ in rows(tmp_path / "dev.parquet")] == ["7", "dev.parquet#1", "9"]


BYTES = {
    "binary": pa.binary(),
    "large": pa.large_binary(),
    "fixed": pa.binary(4),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_an_id_may_be_bytes(kind: str, suffix: str, tmp_path: Path) -> None:
    """What other writers call text; what is no UTF-8 is no name."""
    ids = pa.array([b"utt0", "café"[1:].encode(), None, b"caf\xe9"]).cast(BYTES[kind])
    path = tmp_path / f"dev.{suffix}"
    table = pa.table({"id": ids, "x": [1, 2, 3, 4]})
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    *found, (id_, why) = rows(path, ["x"])
    assert found == [("utt0", {"x": 1}), ("afé", {"x": 2}), (f"dev.{suffix}#2", {"x": 3})]
    assert (id_, why) == ("caf\\xe9", "id: got caf\\xe9, whose bytes are no UTF-8, expected a name in UTF-8")


def test_an_input_called_id_names_no_item(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7, 9]}), tmp_path / "dev.parquet")
    assert rows(tmp_path / "dev.parquet", ["id"]) == [
        ("dev.parquet#0", {"id": 7}),
        ("dev.parquet#1", {"id": 9}),
    ]


def test_a_window_of_parquet_is_measured_as_it_is_in_memory(tmp_path: Path) -> None:
    """Numbers that repeat take next to nothing in the file."""
    column = pa.array([[0.0] * 1000] * 100, pa.list_(pa.float32()))
    pq.write_table(pa.table({"x": column}), tmp_path / "dev.parquet", row_group_size=10)
    assert (tmp_path / "dev.parquet").stat().st_size < 40_000
    found = [window.rows for window in windows([str(tmp_path / "dev.parquet")], ["x"], 100_000)]
    assert found == [20] * 5  # of 40 kB a row group


def test_items_of_an_archive_are_read_some_at_a_time() -> None:
    most = shard_rows.GROUP_BYTES
    sizes = [most // 2, most // 2, 1, most + 1, 1, 1]
    assert archives._together(sizes) == [(2, most), (1, 1), (1, most + 1), (2, 2)]


def test_a_stream_that_has_become_shorter_says_so(tmp_path: Path) -> None:
    items = [{"x": np.array([i])} for i in range(6)]
    path = write("stream", tmp_path / "dev", items, list("abcdef"), group=2)
    with contextlib.ExitStack() as stack:
        shard = formats.open_shard(str(path), ["x"], stack)
        write("stream", tmp_path / "dev", items[:4], list("abcd"), group=2)
        reading = shard.read(0, 0, 6)
        assert [next(reading).ids, next(reading).ids] == [["a", "b"], ["c", "d"]]
        with pytest.raises(ValueError, match=r"^2 rows fewer than it says"):
            next(reading)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), TypeError("a mistake")])
def test_what_is_wrong_with_the_system_is_not_said_of_the_data(error: Exception) -> None:
    with pytest.raises(type(error)):
        damage.unreadable(error)


def test_what_is_wrong_with_the_data_is_one_line() -> None:
    assert damage.unreadable(ValueError("\nno magic\nat all")) == "unreadable: no magic"
    assert damage.unreadable(OSError("no magic")) == "unreadable: no magic"  # Arrow's, without a number
    assert damage.unreadable(EOFError()) == "unreadable: EOFError"
