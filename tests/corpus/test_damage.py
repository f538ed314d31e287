"""Data that is damaged, or made to do harm: what cannot be read is set aside, and the rest is scored."""

import contextlib
import io
import os
import socket
import struct
import tarfile
import zipfile
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


def npy_of(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_that_says(shape: tuple[int, ...], content: bytes) -> bytes:
    """An array of float64 that may have another size than it says."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def archive(kind: str, path: Path, members: dict[str, bytes]) -> Path:
    path = path.with_suffix(f".{kind}")
    if kind == "npz":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return path


def good(*ids: str) -> dict[str, bytes]:
    return {f"{id_}.{name}.npy": npy_of(X) for id_ in ids for name in "xy"}


SCORED = {"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 2.0]}


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_an_id_may_have_dots(kind: str, tmp_path: Path) -> None:
    """Speed perturbation names them so. Where an input follows the first dot, the rest is WebDataset's."""
    ids = ["sp0.9-utt1", "sp0.9-utt2", "sp1.1-utt1", "utt1", "a.b/c.d", "1.x"]
    path = archive(kind, tmp_path / "all", good(*ids))
    assert rows(path) == [(id_, SCORED) for id_ in ids]


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_an_input_s_name_may_have_dots(kind: str, tmp_path: Path) -> None:
    """As those of a model that torch has exported: input.1"""
    members = {f"{id_}.{name}.npy": npy_of(X) for id_ in ("a", "b.c") for name in ("input.1", "y")}
    found = rows(archive(kind, tmp_path / "all", members), ["input.1", "y"])
    assert [(id_, sorted(arrays)) for id_, arrays in found] == [
        ("a", ["input.1", "y"]),
        ("b.c", ["input.1", "y"]),
    ]


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_a_member_that_may_be_of_two_inputs_is_set_aside(kind: str, tmp_path: Path) -> None:
    members = {"a.input.1.npy": npy_of(X), "b.c.input.1.npy": npy_of(X)}
    first, (id_, why) = rows(archive(kind, tmp_path / "all", members), ["1", "input.1"])
    assert first == ("a", {"input.1": X.tolist()})
    assert (id_, why) == ("b.c", "input.1: got a member b.c.input.1.npy, whose input may be 1 or input.1")


@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_other_members_are_not_looked_at_whatever_their_names(kind: str, tmp_path: Path) -> None:
    members = good("sp0.9-utt1") | {
        "sp0.9-utt1.notes.npy": b"",
        "sp0.9-utt1.json": b"",
        "only.notes.npy": b"",
    }
    assert rows(archive(kind, tmp_path / "all", members)) == [("sp0.9-utt1", SCORED), ("only", {})]


def test_a_name_that_is_no_utf8_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, content in good("one", "café", "two").items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    first, (id_, why), last = rows(path)
    assert (first, last) == (("one", SCORED), ("two", SCORED))
    assert (id_, why) == ("caf\\xe9", "id: got caf\\xe9, whose bytes are no UTF-8, expected a name in UTF-8")


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


BROKEN = {
    "promises": (npy_that_says((1 << 40,), b"12345678"), "got 8 bytes for shape [1099511627776] of float64"),
    "below zero": (npy_that_says((-1,), b""), "got 0 bytes for shape [-1]"),
    "more than it says": (
        npy_that_says((1,), bytes(16)),
        "got 16 bytes for shape [1] of float64, expected 8",
    ),
    "archive": (b"PK\3\4" + bytes(60), "magic"),
    "empty": (b"", "EOF"),
    "header": (b"\x93NUMPY\1\0\x08\0[[[[[[[[", "EOF in multi-line statement"),
    "version": (b"\x93NUMPY\3\0" + bytes(20), "got version 3.0 of .npy, expected 1.0 or 2.0"),
}


@pytest.mark.parametrize("kind", ["npz", "tar"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_member_that_is_broken_costs_its_item(kind: str, broken: str, tmp_path: Path) -> None:
    content, reason = BROKEN[broken]
    path = archive(kind, tmp_path / "all", good("one", "two", "three") | {"two.y.npy": content})
    first, (id_, why), last = rows(path)
    assert (first, last, id_) == (("one", SCORED), ("three", SCORED), "two")
    assert why.startswith("y: unreadable: ")
    assert reason in why


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize("how", ["bytes", "encrypted", "2^62 bytes", "20 GB", "method"])
def test_a_damaged_member_of_a_zip_costs_its_item(method: int, how: str, tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    with zipfile.ZipFile(path, "w", method) as file:
        for name, each in good("one", "two", "three").items():
            file.writestr(name, each)
        about = file.getinfo("two.y.npy")
        if how.endswith(("bytes", "GB")) and how != "bytes":
            about.file_size = 1 << 62 if how == "2^62 bytes" else 20_000_000_000
        if how == "encrypted":
            about.flag_bits |= 1
        if how == "method":
            about.compress_type = 77
    content = bytearray(path.read_bytes())
    if how == "bytes":
        start = about.header_offset + 30 + len(about.filename)
        content[start : start + about.compress_size] = os.urandom(about.compress_size)
    path.write_bytes(content)
    first, (id_, why), last = rows(path)
    assert (first, last, id_) == (("one", SCORED), ("three", SCORED), "two")
    assert why.startswith("y: unreadable: ")


def test_a_batch_of_an_npz_promises_no_more_than_it_has(tmp_path: Path) -> None:
    path = archive("npz", tmp_path / "batch", {"x.npy": npy_that_says((2_500_000_000,), b"")})
    with pytest.raises(ValueError, match="got 0 bytes for shape"):
        npy.arrays_in(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", npy_of(X))
        file.getinfo("x.npy").file_size = 20_000_000_000
    with pytest.raises(ValueError, match=r"got 20,000,000,000 bytes, expected at most 4,294,967,296"):
        npy.arrays_in(path)


def test_a_member_that_the_directory_does_not_name_is_missed(tmp_path: Path) -> None:
    """An optional length would be taken for 1 otherwise."""
    path = archive("npz", tmp_path / "all", good("one", "two"))
    content = path.read_bytes()
    at = content.rindex(b"two.y.npy")
    path.write_bytes(content[:at] + b"two.q.npy" + content[at + 9 :])
    one, (two, why), (lost, reason) = rows(path)
    assert (one, two, lost) == (("one", SCORED), "two", "all.npz")
    assert why == "y: not there, and the archive is damaged, expected it as others have it"
    assert reason == "unreadable: got a member b'two.y.npy', which its directory calls 'two.q.npy'"


def test_a_directory_that_has_lost_a_member_is_noticed(tmp_path: Path) -> None:
    path = archive("npz", tmp_path / "all", good("one", "two"))
    content = path.read_bytes()
    at = content.rindex(b"PK\5\6")
    number, start = struct.unpack_from("<H", content, at + 10)[0], content.rindex(b"PK\1\2")
    assert number == 4
    size = struct.unpack_from("<I", content, at + 12)[0] - (at - start)
    end = bytearray(content[at:])
    struct.pack_into("<I", end, 12, size)
    path.write_bytes(content[:start] + bytes(end))
    *_, (lost, reason) = rows(path)
    assert (lost, reason) == ("all.npz", "unreadable: 3 members, where its directory says 4")


def cut_tar(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    header = content.index(b"three.x.npy")
    if how == "header":
        content[header + 120] ^= 1
    elif how == "in a header":
        del content[header + 100 :]
    elif how == "in an array":
        del content[header + 512 + 100 :]
    elif how == "before a header":
        del content[header:]
    elif how == "behind a member":
        del content[content.index(b"three.y.npy") :]
    elif how == "joined":
        content *= 2
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "kept", "aside"),
    [
        ("header", 2, 0),
        ("in a header", 2, 0),
        ("in an array", 2, 1),
        ("before a header", 2, 0),
        ("behind a member", 2, 1),
        ("joined", 4, 0),
    ],
)
def test_a_tar_that_is_damaged_gives_what_is_before_and_says_so(
    how: str, kept: int, aside: int, tmp_path: Path
) -> None:
    path = archive("tar", tmp_path / "all", good("one", "two", "three", "four"))
    cut_tar(path, how)
    found = rows(path)
    assert found[:kept] == [(id_, SCORED) for id_ in ("one", "two", "three", "four")[:kept]]
    assert [id_ for id_, _ in found[kept:]] == ["three"] * aside + ["all.tar"]
    assert found[-1][1].startswith("unreadable: ")


def test_a_tar_whose_end_is_whole_in_any_format_is_whole(tmp_path: Path) -> None:
    for format_ in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path, long = tmp_path / "all.tar", "d" * 90 + "/" + "n" * 60
        with tarfile.open(path, "w", format=format_) as tar:
            for name, content in good(long, "two").items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
        assert rows(path) == [(long, SCORED), ("two", SCORED)]


def test_links_of_a_tar_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    content = npy_of(np.array([0.5]))
    with tarfile.open(path, "w") as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> None:
            about = tarfile.TarInfo(name)
            about.type, about.linkname, about.size = kind, link, len(data)
            tar.addfile(about, io.BytesIO(data))

        add("dev/later.y.npy", tarfile.SYMTYPE, "../shared.npy")
        add("dev/a.y.npy", data=content)
        add("dev/b.y.npy", tarfile.LNKTYPE, "dev/a.y.npy")
        add("dev/c.y.npy", tarfile.SYMTYPE, "b.y.npy")
        add("shared.npy", data=content)
        add("dev/gone.y.npy", tarfile.SYMTYPE, "/etc/passwd")
        add("dev/round.y.npy", tarfile.SYMTYPE, "round.y.npy")
        add("dev/pipe.y.npy", tarfile.FIFOTYPE)
        add("dev/folder.y.npy", tarfile.DIRTYPE)
    found = dict(rows(path))
    assert [found[f"dev/{id_}"] for id_ in ("later", "a", "b", "c")] == [{"y": [0.5]}] * 4
    missing = "y: got a link to {}, expected one to a file of the archive"
    assert found["dev/gone"] == missing.format("/etc/passwd")
    assert found["dev/round"] == missing.format("dev/round.y.npy")
    assert found["dev/pipe"] == "y: got a pipe, expected a file"
    assert found["dev/folder"] == "y: got a folder, expected a file"


def test_the_holes_of_a_sparse_member_are_zeros(tmp_path: Path) -> None:
    content = npy_of(np.zeros(2000))
    head, path = content[:512].ljust(512, b"\0"), tmp_path / "all.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        about = tarfile.TarInfo("a.x.npy")
        about.type, about.size = tarfile.GNUTYPE_SPARSE, 512
        header = bytearray(about.tobuf(tarfile.GNU_FORMAT))
        header[386 : 386 + 24] = b"%011o\0%011o\0" % (0, 512)
        header[483:495] = b"%011o\0" % len(content)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        tar.fileobj.write(bytes(header) + head)  # type: ignore[union-attr]
        tar.offset += 1024
    assert rows(path, ["x"]) == [("a", {"x": [0.0] * 2000})]


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
