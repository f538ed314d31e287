"""The shards of a corpus: Parquet, Arrow, npz and tar, read window by window.

A window is some rows of a shard that follow one another. It is small enough to be held in memory, says
where it is and can be sent to another process. How a shard is cut depends on the shard alone.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import glob
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files import check_regular, leads_nowhere
from .damage import unreadable
from .formats import KINDS, filesystems, is_url, open_shard
from .names import unused_columns
from .rows import Rows, Shard

WINDOW_BYTES = 256 << 20
_WRITTEN = ("items.parquet", "set_aside.parquet")  # of a run, with a suffix that data have
_SAMPLES, _SAMPLE = 64, 64 << 10  # blocks, bytes: what a fingerprint looks at of a file


@dataclass(frozen=True)
class Window:
    """Some rows of a shard.

    Args:
        shard: which of the corpus it is, from 0.
        path: of the shard.
        name: what the shard is called in ids.
        index: which window of the shard it is, from 0.
        start: its first row.
        rows: how many it has.
        run: windows of one run are best read one after the other, by one reader.
        lost: why there is nothing to be read: then the window stands for what of the shard is lost.
        unused: with the first window of a shard, the columns that nothing reads, each with the name of a
            missing one that it is close to, if there is one.
    """

    shard: int
    path: str
    name: str
    index: int
    start: int
    rows: int
    run: int
    lost: str = ""
    unused: Mapping[str, str] = field(default_factory=dict, hash=False)


def shards(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The shards that `paths` name: files, folders, patterns, or URLs of them.

    Raises:
        FileNotFoundError: a path names nothing.
        ValueError: a file is of an unknown kind, or a pipe, a socket or a device.
    """
    found: list[str] = []
    for path in [os.fspath(path) for path in paths]:
        files = _listed(path)
        known = [file for file in files if file.endswith(tuple(KINDS))]
        if files == [path] and not known:
            raise ValueError(f"data: got {path}, expected a file that ends with {', '.join(KINDS)}")
        if not known:
            raise FileNotFoundError(f"data: got {path}, where there is no {', '.join(KINDS)} file")
        for file in known:
            if not is_url(file) and os.path.exists(file):
                check_regular("data", file)
        found += known
    return found


def _listed(path: str) -> list[str]:
    """The files behind a path, in alphabetical order."""
    if is_url(path):
        fs, inner = filesystems().core.url_to_fs(path)
        if fs.isdir(inner):
            return sorted(fs.unstrip_protocol(file) for file in fs.find(inner))
        return sorted(map(fs.unstrip_protocol, fs.glob(inner))) if "*" in inner else [path]
    if os.path.isdir(path):
        return sorted(os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files)
    return [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))


def refuse_among(data: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Refuse a folder for results that is read: the tables in it would be taken for data.

    Args:
        data: what names the shards, as of `shards`.
        out: the folder for the results.

    Raises:
        ValueError: `out` is in a folder of `data`, or a pattern or a file of `data` is in `out`.
    """
    folder = Path(os.path.realpath(out))
    for path in [os.fspath(path) for path in data]:
        if is_url(path):
            continue
        if os.path.isdir(path):
            among = folder.is_relative_to(os.path.realpath(path))
        elif os.path.exists(path):
            among = any(Path(os.path.realpath(path)) == folder / name for name in _WRITTEN)
        else:
            among = any(Path(os.path.realpath(file)).parent == folder for file in _listed(path))
        if among:
            raise ValueError(f"out: got {os.fspath(out)}, where the data {path} are, expected another folder")


def names(paths: Sequence[str]) -> list[str]:
    """What the shards are called in ids: the file's name, or the path where two share a name."""
    short = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def fingerprint(path: str) -> str:
    """Changes when the file does: its size, its time, or its content, of which a large file is sampled.

    Raises:
        OSError: there is none.
    """
    if is_url(path):
        fs, inner = filesystems().core.url_to_fs(path)
        return str(fs.ukey(inner))
    if wrong := leads_nowhere(path):
        return wrong
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        blocks = min(_SAMPLES, -(-stat.st_size // _SAMPLE))
        for i in range(blocks):  # from the first to the last byte; all of them where they are few
            file.seek(i * (stat.st_size - _SAMPLE) // (blocks - 1) if blocks > 1 else 0)
            digest.update(file.read(_SAMPLE))
    return f"{stat.st_size} bytes of {stat.st_mtime_ns}, {digest.hexdigest()[:32]}"


def windows(
    paths: Sequence[str], columns: Sequence[str], window_bytes: int = WINDOW_BYTES
) -> Iterator[Window]:
    """The windows of all shards, in order. A shard is opened when it is its turn.

    Args:
        paths: the shards, as `shards` gives them.
        columns: the names of the arrays that a `Reader` of the windows wants: archives tell ids by them.
        window_bytes: how much data a window has, about.

    Raises:
        OSError: a shard is not there, or the system does not let us read it.
    """
    for number, (path, name) in enumerate(zip(paths, names(paths), strict=True)):
        start = index = 0
        broken = ""
        with contextlib.ExitStack() as stack:
            try:
                shard = open_shard(path, columns, stack)
            except Exception as error:
                broken = unreadable(error)
            else:
                broken = shard.broken
                unused = unused_columns(shard.names, columns)
                for rows, run in cut(shard.groups, window_bytes, shard.divisible):
                    yield Window(number, path, name, index, start, rows, run, unused={} if index else unused)
                    start, index = start + rows, index + 1
        if broken:
            yield Window(number, path, name, index, start, 1, -1, broken)


def by_run(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """The windows of each run, in the order of `windows`."""
    for _, run in itertools.groupby(windows, key=lambda each: (each.shard, each.run)):
        yield list(run)


def cut(groups: Iterable[tuple[int, int]], most: int, divisible: bool) -> Iterator[tuple[int, int]]:
    """Rows of each window, and its run: small groups together, large ones in pieces of one size.

    Args:
        groups: rows and bytes of each.
        most: the bytes of a window, if a row has no more.
        divisible: whether the pieces of a group may be read apart; else they are of one run.
    """
    run = rows = bytes_ = 0
    for more, size in groups:
        if rows and bytes_ + size > most:
            yield rows, run
            run, rows, bytes_ = run + 1, 0, 0
        pieces = -(-size // most)
        if pieces > 1:
            piece = max(1, -(-more // pieces))
            for done in range(0, more, piece):
                yield min(piece, more - done), run
                run += divisible
            run += 1
        else:
            rows, bytes_ = rows + more, bytes_ + size
    if rows:
        yield rows, run


class Reader:
    """Reads windows; quickest in the order in which `windows` gives them.

    Args:
        inputs: the names of the arrays that are wanted.
        only: those of them that are read; by default all.
    """

    def __init__(self, inputs: Sequence[str], only: Sequence[str] | None = None) -> None:
        self._inputs, self._only = inputs, only
        self._of: tuple[str, Any] | None = None  # the file that is open, as it was
        self._stack = contextlib.ExitStack()

    def read(self, window: Window) -> Iterator[Rows]:
        """The rows of `window`, all with an id.

        Raises:
            OSError: the shard is not there, or the system does not let us read it.
        """
        if window.lost:
            yield Rows([window.name], {}, {0: window.lost})
            return
        row, end = window.start, window.start + window.rows
        while row < end:
            last = end
            try:
                shard, firsts = self._opened(window.path)
                group = bisect.bisect_right(firsts, row) - 1
                if group < len(shard.groups):
                    first, last = firsts[group], min(firsts[group + 1], end)
                    for some in shard.read(group, row - first, last - first):
                        yield replace(some, ids=_ids(some.ids, window.name, row))
                        row += len(some.ids)
                if row < last:
                    raise ValueError(f"{last - row} rows fewer than it had")
            except Exception as error:
                reason = unreadable(error)
                self.close()  # what went wrong may have left it anywhere
                lost = last - row
                yield Rows(_ids([None] * lost, window.name, row), {}, dict.fromkeys(range(lost), reason))
            row = last

    def _opened(self, path: str) -> tuple[Shard, list[int]]:
        """The shard in `path` with the first row of each group, opened anew where the file is another now."""
        state = None
        if not is_url(path):
            stat = os.stat(path)
            state = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if self._of != (path, state):
            self.close()
            self._shard = open_shard(path, self._inputs, self._stack, self._only)
            self._firsts = [0, *itertools.accumulate(rows for rows, _ in self._shard.groups)]
            self._of = path, state
        return self._shard, self._firsts

    def close(self) -> None:
        """Close what is open."""
        self._of = None
        self._stack.close()


def _ids(ids: Sequence[str | None], shard: str, first: int) -> list[str]:
    """The id of each row: where it has none, which of its shard it is."""
    return [id_ or f"{shard}#{row}" for row, id_ in enumerate(ids, first)]


class Places:
    """Where the items of a corpus are; the shards are looked through once, when the first is asked for.

    Args:
        paths: the shards.
        columns: as of `windows`.
    """

    def __init__(self, paths: Sequence[str], columns: Sequence[str]) -> None:
        self._paths, self._columns = paths, columns
        self._shards = names(paths)

    def find(self, id_: str) -> Window | None:
        """The item alone, the first of that id; nothing where there is none.

        Raises:
            OSError: a shard is not there, or the system does not let us read it.
        """
        if id_ not in self._rows:
            return None
        shard, row = self._rows[id_]
        return Window(shard, self._paths[shard], self._shards[shard], 0, row, 1, 0)

    @functools.cached_property
    def _rows(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        reader = Reader(self._columns, only=())
        for window in windows(self._paths, self._columns):
            ids = itertools.chain.from_iterable(some.ids for some in reader.read(window))
            for row, id_ in enumerate(ids, window.start):
                found.setdefault(str(id_), (window.shard, row))
        reader.close()
        return found
