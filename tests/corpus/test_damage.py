"""Data that is damaged, or made to do harm: what cannot be read is set aside, and the rest is scored."""

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import write, write_tar
from test_formats import rows

from exportable_losses.runtime import npy
from exportable_losses.runtime.corpus.footer import row_groups
from exportable_losses.runtime.corpus.reading import Reader, shards, windows

X = np.arange(3.0)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_an_id_that_is_no_utf8_is_set_aside(kind: str, tmp_path: Path) -> None:
    odd = pa.array([b"one", b"caf\xe9", b"two"]).view(pa.string())
    table = pa.table({"id": odd, "x": [1, 2, 3]})
    path = tmp_path / ("all.parquet" if kind == "parquet" else "all.arrow")
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    (_, first), (id_, why), (_, last) = rows(path, ["x"])
    assert (first, last) == ({"x": 1}, {"x": 3})
    assert (id_, why.partition(", expected")[0]) == ("caf\\xe9", "id: got caf\\xe9, whose bytes are no UTF-8")


def test_an_offset_that_leads_out_of_an_arrow_file_is_refused(tmp_path: Path) -> None:
    """Whoever follows it is killed by the system."""
    path = write("file", tmp_path / "dev", [{"x": np.arange(7.0)}] * 9, list("abcdefghi"), group=3)
    content = path.read_bytes()
    offsets = np.array([0, 7, 14, 21], np.int32).tobytes()
    assert content.count(offsets) == 3
    at = content.index(offsets, content.index(offsets) + 1)
    wrong = np.array([0, 7, 1 << 30, 1 << 30], np.int32).tobytes()
    path.write_bytes(content[:at] + wrong + content[at + 16 :])
    found = rows(path, ["x"])
    assert [id_ for id_, _ in found] == [*"abc", *(f"dev.arrow#{i}" for i in (3, 4, 5)), *"ghi"]
    assert all(why.startswith("unreadable: ") for _, why in found[3:6])


def test_a_stream_that_is_cut_between_its_batches_says_so(tmp_path: Path) -> None:
    path = write("stream", tmp_path / "dev", [{"x": X}] * 6, list("abcdef"), group=2)
    content = path.read_bytes()
    last = [at for at in range(len(content)) if content[at : at + 4] == b"\xff\xff\xff\xff"]
    path.write_bytes(content[: last[-2]])
    *found, (lost, why) = rows(path, ["x"])
    assert ([id_ for id_, _ in found], lost) == (list("abcd"), "dev.arrow")
    assert why.startswith("unreadable: cut off at byte")
    path.write_bytes(content[: last[1]])  # the schema alone
    ((lost, why),) = rows(path, ["x"])
    assert (lost, why) == ("dev.arrow", f"unreadable: cut off at byte {last[1]}")
    path.write_bytes(content + content)
    *found, (lost, why) = rows(path, ["x"])
    assert ([id_ for id_, _ in found], lost) == (list("abcdef"), "dev.arrow")
    assert why == f"unreadable: {len(content)} bytes behind its end, at byte {len(content)}"


def test_a_footer_that_has_lost_a_batch_of_an_arrow_file_is_noticed(tmp_path: Path) -> None:
    path = write("file", tmp_path / "dev", [{"x": X}] * 6, list("abcdef"), group=2)
    content = path.read_bytes()
    for at in range(
        len(content) - 10 - struct.unpack_from("<i", content, len(content) - 10)[0], len(content)
    ):
        fewer = content[:at] + b"\2" + content[at + 1 :]
        with contextlib.suppress(OSError, pa.ArrowInvalid):
            if content[at] == 3 and pa.ipc.open_file(pa.py_buffer(fewer)).num_record_batches == 2:
                path.write_bytes(fewer)
    *found, (lost, why) = rows(path, ["x"])
    assert ([id_ for id_, _ in found], lost) == (list("abcd"), "dev.arrow")
    assert why == "unreadable: 3 batches, of which its footer has 2"


@pytest.mark.parametrize("which", ["file", "group"])
def test_a_footer_of_parquet_that_has_lost_rows_is_noticed(which: str, tmp_path: Path) -> None:
    path = write("parquet", tmp_path / "dev", [{"x": X}] * 6, list("abcdef"), group=3)
    content = path.read_bytes()
    whole = pq.ParquetFile(path).metadata
    counts = {whole.num_rows: "file", whole.row_group(0).num_rows: "group"}
    start = len(content) - 8 - struct.unpack_from("<i", content, len(content) - 8)[0]
    for at in range(start, len(content)):
        if counts.get(content[at] // 2) == which:  # whole numbers are doubled in Thrift
            fewer = content[:at] + bytes([content[at] - 2]) + content[at + 1 :]
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                about = pq.ParquetFile(pa.BufferReader(fewer)).metadata
                groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
                if (about.num_rows, sum(groups)) == ((5, 6) if which == "file" else (6, 5)):
                    path.write_bytes(fewer)
    assert path.read_bytes() != content
    assert rows(path, ["x"])[0][1].startswith("unreadable: ")
    assert len(rows(path, ["x"])) == 1


def test_what_parquet_takes_in_memory_is_what_its_metadata_say(tmp_path: Path) -> None:
    """Held to Arrow's own view of the footer, in each type of numbers."""
    kinds = (np.float32, np.float64, np.int32, np.int64, np.bool_, np.float16, np.int8)
    columns = {kind.__name__: pa.array([np.array([1, 0], kind)] * 1000) for kind in kinds}
    columns["id"] = pa.array(map(str, range(1000)))
    path = tmp_path / "dev.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=300)
    about = pq.ParquetFile(path).metadata
    widths = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}
    expected = []
    for group in map(about.row_group, range(about.num_row_groups)):
        of = [group.column(i) for i in range(group.num_columns)]
        sizes = [
            each.num_values * widths[each.physical_type]
            if each.physical_type in widths
            else each.total_uncompressed_size
            for each in of
        ]
        expected.append((group.num_rows, sum(sizes)))
    with path.open("rb") as file:
        assert row_groups(file) == expected
    assert [count for count, _ in expected] == [300, 300, 300, 100]


@pytest.mark.parametrize("kind", ["parquet", "file", "stream", "npz", "tar"])
def test_a_shard_that_shrinks_while_it_is_read_says_which_rows_are_gone(kind: str, tmp_path: Path) -> None:
    items, ids = [{"x": np.full(1000, i)} for i in range(6)], list("abcdef")
    path = write(kind, tmp_path / "dev", items, ids, group=1)
    planned = list(windows([str(path)], ["x"], 8000))
    assert len(planned) >= 5
    reader, found = Reader(["x"]), []
    for number, window in enumerate(planned):
        if number == 1:
            write(kind, tmp_path / "dev", items[:3], ids[:3], group=1)
        for some in reader.read(window):
            found += [(id_, some.wrong.get(row)) for row, id_ in enumerate(some.ids)]
    assert found[:3] == [(id_, None) for id_ in "abc"]
    assert found[3:] == [(f"{path.name}#{i}", "unreadable: 1 rows fewer than it had") for i in (3, 4, 5)]


@pytest.mark.skipif(os.name == "nt", reason="no pipes with names on Windows")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    """To open a pipe waits for whoever writes to it, for ever."""
    path = tmp_path / "dev.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    else:
        path.symlink_to("/dev/zero")
    for given in (path, tmp_path, f"{tmp_path}/*.npz"):
        with pytest.raises(ValueError, match=rf"^data: got .*dev\.npz, which is a {kind}, expected a file"):
            shards([given])
    with pytest.raises(ValueError, match=f"which is a {kind}, expected a file"):
        npy.arrays_in(path)


def test_an_item_without_numbers_may_not_be_padded_beyond_the_memory(graphs: Any, tmp_path: Path) -> None:
    from exportable_losses.runtime import Scorer, score_corpus

    huge = np.zeros((0, 5_000_000_000), np.float32)
    good_ = np.log(np.full((4, 9), 1 / 9, np.float32))
    labels = np.array([1])
    write_tar(
        tmp_path / "dev.tar",
        {"a.log_probs": huge, "a.targets": labels, "b.log_probs": good_, "b.targets": labels},
    )
    found = score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / "dev.tar"], tmp_path / "out")
    assert (found["items"], found["set_aside"]) == (1, 1)
    ((why,),) = [pq.read_table(tmp_path / "out" / "set_aside.parquet")["reason"].to_pylist()]
    assert why == "log_probs: got shape [0, 5000000000], expected one that takes at most 4,294,967,296 bytes"
