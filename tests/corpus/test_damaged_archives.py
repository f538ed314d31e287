"""Archives that are damaged, or made to do harm; and which of their members make an item."""

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_formats import rows

from exportable_losses.runtime import npy

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
    elif how == "a block of zeros":  # as one that is damaged may be; the end has two
        content[header : header + 512] = bytes(512)
        del content[header + 512 :]
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
        ("a block of zeros", 2, 0),
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


def test_a_member_that_has_swallowed_others_says_so(tmp_path: Path) -> None:
    """A size that is wrong, under a checksum that is right, makes the next members bytes of one."""
    path = archive("tar", tmp_path / "all", good("one", "two"))
    content = bytearray(path.read_bytes())
    at = content.index(b"one.y.npy")
    size = content.index(b"two.y.npy") - at - 512
    content[at + 124 : at + 136] = b"%011o\0" % size
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    path.write_bytes(content)
    (one, why), (two, _) = rows(path)
    assert (one, two) == ("one", "two")
    assert why.startswith("y: unreadable: got ")
    assert why.endswith(", and other members are within it")


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
