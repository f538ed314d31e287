"""The shards of a corpus: Parquet, Arrow, npz and tar, read window by window.

A window is some rows of a shard that follow one another. It is small enough to be held in memory, says
where it is and can be sent to another process. How a shard is cut depends on the shard alone.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .formats import KINDS, Rows, filesystems, is_url, open_shard, unreadable

WINDOW_BYTES = 256 << 20


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
    """

    shard: int
    path: str
    name: str
    index: int
    start: int
    rows: int
    run: int
    lost: str = ""


def shards(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The shards that `paths` name: files, folders, patterns, or URLs of them.

    Raises:
        FileNotFoundError: a path names nothing.
        ValueError: a file is of an unknown kind.
    """
    found: list[str] = []
    for path in [os.fspath(path) for path in paths]:
        files = _listed(path)
        known = [file for file in files if file.endswith(tuple(KINDS))]
        if files == [path] and not known:
            raise ValueError(f"data: got {path}, expected a file that ends with {', '.join(KINDS)}")
        if not known:
            raise FileNotFoundError(f"data: got {path}, where there is no {', '.join(KINDS)} file")
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


def names(paths: Sequence[str]) -> list[str]:
    """What the shards are called in ids: the file's name, or the path where two share a name."""
    short = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def fingerprint(path: str) -> str:
    """Changes when the file does.

    Raises:
        OSError: there is none.
    """
    if is_url(path):
        fs, inner = filesystems().core.url_to_fs(path)
        return str(fs.ukey(inner))
    stat = os.stat(path)
    return f"{stat.st_size} bytes of {stat.st_mtime_ns}"


def windows(paths: Sequence[str], window_bytes: int = WINDOW_BYTES) -> Iterator[Window]:
    """The windows of all shards, in order. A shard is opened when it is its turn.

    Raises:
        OSError: a shard is not there, or the system does not let us read it.
    """
    for number, (path, name) in enumerate(zip(paths, names(paths), strict=True)):
        start = index = 0
        broken = ""
        with contextlib.ExitStack() as stack:
            try:
                shard = open_shard(path, (), stack)
            except Exception as error:
                broken = unreadable(error)
            else:
                broken = shard.broken
                for rows, run in cut(shard.groups, window_bytes, shard.divisible):
                    yield Window(number, path, name, index, start, rows, run)
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
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = inputs
        self._path = ""
        self._stack = contextlib.ExitStack()

    def read(self, window: Window) -> Iterator[Rows]:
        """The rows of `window`, all with an id.

        Raises:
            OSError: the shard is not there, or the system does not let us read it.
        """
        if window.lost:
            yield Rows([window.name], {}, {0: window.lost})
            return
        if self._path != window.path:
            self._open(window.path)
        row, end = window.start, window.start + window.rows
        while row < end:
            group = bisect.bisect_right(self._firsts, row) - 1
            first, last = self._firsts[group], min(self._firsts[group + 1], end)
            try:
                for some in self._shard.read(group, row - first, last - first):
                    yield replace(some, ids=_ids(some.ids, window.name, row))
                    row += len(some.ids)
            except Exception as error:
                reason = unreadable(error)
                self._open(window.path)  # what went wrong may have left it anywhere
                lost = last - row
                yield Rows(_ids([None] * lost, window.name, row), {}, dict.fromkeys(range(lost), reason))
            row = last

    def _open(self, path: str) -> None:
        self.close()
        self._shard = open_shard(path, self._inputs, self._stack)
        self._firsts = [0, *itertools.accumulate(rows for rows, _ in self._shard.groups)]
        self._path = path

    def close(self) -> None:
        """Close what is open."""
        self._path = ""
        self._stack.close()


def _ids(ids: Sequence[str | None], shard: str, first: int) -> list[str]:
    """The id of each row: where it has none, which of its shard it is."""
    return [id_ or f"{shard}#{row}" for row, id_ in enumerate(ids, first)]


class Places:
    """Where the items of a corpus are; the shards are looked through once, when the first is asked for.

    Args:
        paths: the shards.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
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
        reader = Reader(())  # the ids alone
        for window in windows(self._paths):
            ids = itertools.chain.from_iterable(some.ids for some in reader.read(window))
            for row, id_ in enumerate(ids, window.start):
                found.setdefault(str(id_), (window.shard, row))
        reader.close()
        return found
