"""Archives of arrays: members ``<id>.<input>.npy`` of npz and tar files.

The input is what a member's name ends with. WebDataset's key ends at the first dot, and where an input's
name follows that, it does here; else the id may have dots: ``sp0.9-utt1.targets.npy`` is `targets` of
``sp0.9-utt1``. Where two inputs' names fit, as ``1`` and ``input.1`` may, the item is set aside. An id has
its folders before it, and is one however a path is spelled: ``./dev/utt1`` is ``dev/utt1``.
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from ..npy import array_of, check_size, member
from .columns import Column
from .damage import unreadable
from .rows import GROUP_BYTES, ID, Rows

_SUFFIX = ".npy"
_LINKS = 40  # that lead from one to the next, as Linux has it
_TAR = b"ustar"  # in the header of each member of a tar
_END = b"PK\5\6"  # where the directory of a zip file ends


@dataclass
class _Item:
    """An item of an archive.

    Args:
        id: its key.
        members: where each of its inputs is.
        bytes: of them.
        wrong: why it cannot be read.
    """

    id: str
    members: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    wrong: str = ""


class Archive:
    """Items that follow one another, some a group.

    Args:
        members: path, size, and where it is, of each; a text instead says why there is nothing.
        data: the bytes of a member that is there.
        inputs: the names that are wanted.
        only: those of them that are read; by default all.
        broken: why there may be more members, if so.
    """

    divisible = True

    def __init__(
        self,
        members: Iterable[tuple[str, int, Any]],
        data: Callable[[Any], bytes],
        inputs: Sequence[str],
        only: Sequence[str] | None,
        broken: str,
    ) -> None:
        self._data, self._inputs, self.broken = data, inputs if only is None else only, broken
        self._items, self.names = _items(members, inputs)
        if broken:
            _set_aside_parts(self._items)
        self.groups = _together(item.bytes for item in self._items)
        self._firsts = [0, *itertools.accumulate(rows for rows, _ in self.groups)]

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        first = self._firsts[group]
        items = [(item.id, *self._load(item)) for item in self._items[first + start : first + stop]]
        for _, alike in itertools.groupby(items, _kinds):
            ids, arrays, wrong = zip(*alike, strict=True)
            columns = {name: Column.of([each[name] for each in arrays]) for name in arrays[0]}
            yield Rows(ids, columns, {row: reason for row, reason in enumerate(wrong) if reason})

    def _load(self, item: _Item) -> tuple[dict[str, np.ndarray], str]:
        """The arrays of an item, or what is wrong with one."""
        arrays: dict[str, np.ndarray] = {}
        if item.wrong:
            return {}, item.wrong
        for name in self._inputs:
            if name in item.members:
                where = item.members[name]
                if isinstance(where, str):
                    return {}, f"{name}: {where}"
                content = b""
                try:
                    content = self._data(where)
                    arrays[name] = array_of(content)
                except Exception as error:
                    hidden = ", and other members are within it" * (_TAR in content)
                    return {}, f"{name}: {unreadable(error)}{hidden}"
        return arrays, ""


def _items(
    members: Iterable[tuple[str, int, Any]], inputs: Sequence[str]
) -> tuple[list[_Item], Sequence[str]]:
    """The items that members make, and what these are named after an id.

    An item without any input is one too: it is set aside, not lost.
    """
    items: list[_Item] = []
    latest: dict[str, _Item] = {}
    others: list[tuple[str, str]] = []
    unread: dict[str, None] = {}
    for path, size, where in members:
        folder, slash, base = posixpath.normpath(path).rpartition("/")
        stem = base.removesuffix(_SUFFIX)
        if stem == base or "." not in stem:
            continue
        names = _names(stem, inputs)
        if not names:
            others.append((folder + slash, stem))
            continue
        name = max(names, key=len)
        key = folder + slash + stem[: -len(name) - 1]
        item = latest.get(key)
        if item is None or name in item.members:  # an item begins
            item = latest[key] = _Item(*_readable(key))
            items.append(item)
        if len(names) > 1:
            item.wrong = f"{name}: got a member {base}, whose input may be {' or '.join(names)}"
        item.members[name] = where
        item.bytes += size
    for folder, stem in others:
        dots = [at for at, letter in enumerate(stem) if letter == "."]
        known = [at for at in dots if folder + stem[:at] in latest]
        at = (known or dots)[-1]
        unread[stem[at + 1 :]] = None
        if not known:
            key = folder + stem[:at]
            latest[key] = _Item(*_readable(key))
            items.append(latest[key])
    return items, [ID, *set().union(*(item.members for item in items)), *unread]


def _names(stem: str, inputs: Sequence[str]) -> list[str]:
    """The inputs whose name an id and a dot may stand before: one, if there is one behind the first dot."""
    first = stem.partition(".")[2]
    return [first] if first in inputs else [name for name in inputs if stem.endswith(f".{name}")]


def _readable(key: str) -> tuple[str, dict[str, Any], int, str]:
    """What an item of this key begins with. Bytes that are no UTF-8 are surrogates in `key`."""
    try:
        key.encode()
    except UnicodeEncodeError:
        shown = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return shown, {}, 0, f"id: got {shown}, whose bytes are no UTF-8, expected a name in UTF-8"
    return key, {}, 0, ""


def _set_aside_parts(items: Sequence[_Item]) -> None:
    """Of a broken archive, what lacks an input that others have may have lost it: an optional one too."""
    known = set().union(*(item.members for item in items))
    for item in items:
        lost = sorted(known - set(item.members))
        if lost and not item.wrong:
            item.wrong = f"{lost[0]}: not there, and the archive is damaged, expected it as others have it"


def _together(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """How many items, and bytes, make a group."""
    groups: list[tuple[int, int]] = []
    for size in sizes:
        rows, bytes_ = groups.pop() if groups else (0, 0)
        if rows and bytes_ + size > GROUP_BYTES:
            groups.append((rows, bytes_))
            rows, bytes_ = 0, 0
        groups.append((rows + 1, bytes_ + size))
    return groups


def _kinds(item: tuple[str, Mapping[str, np.ndarray], str]) -> list[tuple[Any, ...]]:
    """What items have in common whose arrays make columns."""
    return [(name, array.dtype, array.ndim) for name, array in item[1].items()]


def zip_archive(
    file: IO[bytes], inputs: Sequence[str], stack: contextlib.ExitStack, only: Sequence[str] | None
) -> Archive:
    """What an ``.npz`` file has."""
    archive = stack.enter_context(zipfile.ZipFile(file))
    members = archive.infolist()
    return Archive(
        ((each.filename, each.file_size, each) for each in members if not each.is_dir()),
        lambda each: member(archive, each),
        inputs,
        only,
        _directory_damage(archive, file, inputs),
    )


def _directory_damage(archive: zipfile.ZipFile, file: IO[bytes], inputs: Sequence[str]) -> str:
    """What shows that the directory of a zip file does not have all that it had.

    A member's name stands in the directory and before its bytes, and zipfile holds one to the other when
    it reads it; so what would not be read is held to it here.
    """
    members = archive.infolist()
    try:
        size = file.seek(0, 2)
        file.seek(max(0, size - 0xFFFF - 22))
        end = file.read()
        for number in struct.unpack_from("<HH", end, end.rindex(_END) + 8):  # on this disk, and on all
            if number not in (0xFFFF, len(members)):
                return f"unreadable: {len(members)} members, where its directory says {number}"
        if not members and len(end) < size:
            return f"unreadable: no members in {size} bytes"
        for each in members:
            stem = each.filename.removesuffix(_SUFFIX)
            if stem != each.filename and _names(stem.rpartition("/")[2], inputs):
                continue
            file.seek(each.header_offset)
            head = file.read(30)
            name = file.read(*struct.unpack_from("<H", head, 26))
            if name.decode("utf-8" if each.flag_bits & 0x800 else "cp437") != each.orig_filename:
                return f"unreadable: got a member {name!r}, which its directory calls {each.orig_filename!r}"
    except Exception as error:
        return unreadable(error)
    return ""


@dataclass(frozen=True)
class _Link:
    """A member that is another one's bytes.

    Args:
        target: the other's path in the archive.
        hard: whether it stands before; a symbolic link may lead to what comes later.
    """

    target: str
    hard: bool


def tar_archive(
    file: IO[bytes], inputs: Sequence[str], stack: contextlib.ExitStack, only: Sequence[str] | None
) -> Archive:
    """What a ``.tar`` file has, up to where it is damaged. Links are followed, holes are zeros."""
    archive: tarfile.TarFile | None = None
    members: list[tuple[str, int, Any]] = []
    broken = ""
    try:
        archive = tarfile.TarFile(fileobj=file)
        while (each := archive.next()) is not None:
            if archive.offset <= each.offset:
                raise ValueError(f"got a member of {each.size} bytes, expected some or none")
            members.append((each.name, each.size, _place(each)))
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
        _check_end(file, archive.offset)
    except Exception as error:
        broken = unreadable(error)

    def data(place: tarfile.TarInfo | tuple[int, int]) -> bytes:
        if isinstance(place, tarfile.TarInfo):
            check_size(place.size)
            return archive.extractfile(place).read()  # type: ignore[union-attr]
        check_size(place[1])
        file.seek(place[0])
        return file.read(place[1])

    return Archive(_followed(members), data, inputs, only, broken)


def _place(each: tarfile.TarInfo) -> Any:
    """Where a member's bytes are; a text where there can be none."""
    if each.issparse():
        return each
    if each.isreg():
        return each.offset_data, each.size
    if each.islnk():
        return _Link(posixpath.normpath(each.linkname), hard=True)
    if each.issym():
        return _Link(
            posixpath.normpath(posixpath.join(posixpath.dirname(each.name), each.linkname)), hard=False
        )
    kind = "a folder" if each.isdir() else "a pipe" if each.isfifo() else "a device"
    return f"got {kind}, expected a file"


def _check_end(file: IO[bytes], at: int) -> None:
    """Hold what is behind the last member that was read to be the end: zeros, two blocks at least."""
    file.seek(at)
    block = file.read(2 * tarfile.BLOCKSIZE)
    if len(block) < 2 * tarfile.BLOCKSIZE and block.count(0) == len(block):
        raise ValueError(f"cut off at byte {at + len(block)}")
    while block:
        if block.count(0) < len(block):
            raise ValueError(f"no header of a member behind byte {at}")
        at, block = at + len(block), file.read(1 << 20)


def _followed(members: Sequence[tuple[str, int, Any]]) -> Iterator[tuple[str, int, Any]]:
    """Members with what links lead to in the links' places."""
    if not any(isinstance(place, _Link) for _, _, place in members):
        yield from members
        return
    before: dict[str, tuple[int, Any]] = {}
    whole = {posixpath.normpath(path): (size, place) for path, size, place in members}
    for path, size, place in members:
        steps = 0
        while isinstance(place, _Link):
            steps += 1
            known = before if place.hard else whole
            missing = size, f"got a link to {place.target}, expected one to a file of the archive"
            size, place = known.get(place.target, missing) if steps <= _LINKS else missing
        before[posixpath.normpath(path)] = size, place
        yield path, size, place
