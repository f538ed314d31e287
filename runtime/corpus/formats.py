"""The formats of a shard: what each is made of, and how some of its rows are read.

======================  =============================================================================
``.parquet``            one row an item, one column an input: numbers, nested lists or tensors of a
                        fixed shape; a column `id` if there is one
``.arrow``              the same in Arrow's IPC format, a file or a stream
``.npz``, ``.tar``      members ``<id>.<input>.npy``, those of an item one after the other: what
                        ``np.savez(path, **{"utt1.log_probs": x, "utt1.targets": y})`` writes, and
                        WebDataset's convention. Other members are not looked at
======================  =============================================================================
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from .columns import Column, column_of

ID = "id"
_BATCH_BYTES = 8 << 20  # what is read at a time
_MAGIC = b"ARROW1"
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}  # of Parquet's numbers, in bytes


@dataclass(frozen=True)
class Rows:
    """Rows that follow one another.

    Args:
        ids: of each, where it has one.
        columns: the arrays of each input.
        wrong: what is wrong with some, by row.
    """

    ids: Sequence[str | None]
    columns: Mapping[str, Column]
    wrong: Mapping[int, str]


class Shard(Protocol):
    """A file that is open.

    Args:
        groups: rows and bytes of what it is made of: row groups, batches, items.
        divisible: whether a part of a group costs what the part does, and not what the group does.
        broken: why there may be more rows than `groups` has, if so.
    """

    groups: list[tuple[int, int]]
    divisible: bool
    broken: str

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        """Some rows of a group, some at a time."""


def unreadable(error: Exception) -> str:
    """What is wrong with the content of a shard. What is wrong with the system is raised on.

    A file that is not there, a broken connection or a full memory say nothing of the data: the run stops
    there and can be taken up again.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        raise error
    if not isinstance(error, (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError)):
        raise error
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"unreadable: {text}"


def filesystems() -> Any:
    """The module fsspec, which opens URLs."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        message = "data: got a URL, for which fsspec is needed: pip install 'exportable-losses[corpus]'"
        raise ValueError(message) from error
    return fsspec


def open_shard(path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> Shard:
    """The shard in `path`, until `stack` is closed."""
    kind = next(kind for suffix, kind in KINDS.items() if path.endswith(suffix))
    return kind(path, inputs, stack)


def is_url(path: str) -> bool:
    """Whether a path is fsspec's to open."""
    return "://" in path or "::" in path


def _file(path: str, stack: contextlib.ExitStack) -> IO[bytes]:
    return stack.enter_context(filesystems().open(path, "rb") if is_url(path) else open(path, "rb"))


def _rows_of(batch: pa.RecordBatch, inputs: Sequence[str]) -> Rows:
    """The rows of a batch."""
    known = [name for name in inputs if name in batch.schema.names]
    found = {name: column_of(name, batch.column(name)) for name in known}
    wrong: dict[int, str] = {}
    for _, of_column in reversed(found.values()):  # the first says it
        wrong |= of_column
    ids: list[Any] = [None] * len(batch)
    if ID in batch.schema.names and ID not in inputs:
        ids = [None if value is None else str(value) for value in batch.column(ID).to_pylist()]
    return Rows(ids, {name: column for name, (column, _) in found.items()}, wrong)


class _Sequence:
    """Batches that can be had from the first one on only."""

    divisible = False
    broken = ""
    groups: list[tuple[int, int]]
    _inputs: Sequence[str]
    _at: tuple[int, int] | None = None  # the group and the row where the next batch begins
    _coming: Iterator[pa.RecordBatch]
    _left: pa.RecordBatch | None

    def batches(self, group: int) -> Iterator[pa.RecordBatch]:
        """The batches of a group."""
        raise NotImplementedError

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        if self._at != (group, start):
            self._coming, self._left = self.batches(group), None
            for _ in self._take(start):
                pass
        self._at = None
        for batch in self._take(stop - start):
            yield _rows_of(batch, self._inputs)
        self._at = group, stop

    def _take(self, rows: int) -> Iterator[pa.RecordBatch]:
        while rows:
            batch = self._left or next(self._coming, None)
            if batch is None:
                raise ValueError(f"{rows} rows fewer than it says")
            self._left = batch.slice(rows) if len(batch) > rows else None
            batch = batch.slice(0, rows)
            rows -= len(batch)
            yield batch


class _Parquet(_Sequence):
    """A row group may be large: it is read bit by bit."""

    def __init__(self, path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> None:
        # the buffer: of a column, too, no more is read than is needed next
        self._file = pq.ParquetFile(_file(path, stack), buffer_size=1 << 20, pre_buffer=False)
        about = self._file.metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        self.groups = [(group.num_rows, _bytes(group)) for group in groups]
        self._inputs = inputs
        self._columns = [name for name in self._file.schema_arrow.names if name in (ID, *inputs)]

    def batches(self, group: int) -> Iterator[pa.RecordBatch]:
        rows, size = self.groups[group]
        some = max(1, rows * _BATCH_BYTES // max(1, size))
        return self._file.iter_batches(some, [group], self._columns, use_threads=False)


def _bytes(group: Any) -> int:
    """What a row group takes in memory: numbers that repeat take next to nothing in the file."""
    columns = [group.column(i) for i in range(group.num_columns)]
    return sum(
        column.num_values * _WIDTHS[column.physical_type]
        if column.physical_type in _WIDTHS
        else column.total_uncompressed_size
        for column in columns
    )


class _ArrowStream(_Sequence):
    """One group of all batches."""

    def __init__(self, path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> None:
        self._path, self._inputs, self._stack = path, inputs, stack
        rows = row_bytes = 0
        with contextlib.ExitStack() as own:
            try:
                first = next(iter(pa.ipc.open_stream(_mapped(path, own))), None)
                row_bytes, options = _sizes(first)
                for batch in pa.ipc.open_stream(_mapped(path, own), options=options):
                    rows += len(batch)
            except Exception as error:  # cut off, say: what came before is good
                self.broken = unreadable(error)
        self.groups = [(rows, rows * row_bytes)] if rows else []

    def batches(self, group: int) -> Iterator[pa.RecordBatch]:
        return iter(pa.ipc.open_stream(_file(self._path, self._stack)))


class _ArrowFile:
    """Its batches are views of the file, mapped into memory, where it is not compressed."""

    divisible = True
    broken = ""

    def __init__(self, path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> None:
        self._path, self._inputs = path, inputs
        self._stack = stack.enter_context(contextlib.ExitStack())
        with contextlib.ExitStack() as own:
            whole = pa.ipc.open_file(_mapped(path, own))
            row_bytes, options = _sizes(whole.get_batch(0) if whole.num_record_batches else None)
            reader = pa.ipc.open_file(_mapped(path, own), options=options)
            rows = [len(reader.get_batch(i)) for i in range(reader.num_record_batches)]
        self.groups = [(each, each * row_bytes) for each in rows]
        self._reader: Any = None
        self._seen = 0

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        # What is mapped and was read counts as this process's memory: let go of it now and then.
        if self._reader is None or self._seen > 4 * _BATCH_BYTES:
            self._stack.close()
            self._reader, self._seen = pa.ipc.open_file(_mapped(self._path, self._stack)), 0
        rows, size = self.groups[group]
        self._seen += size * (stop - start) // rows
        yield _rows_of(self._reader.get_batch(group).slice(start, stop - start), self._inputs)


def _arrow(path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> Shard:
    """A file or a stream, as its first bytes say."""
    with contextlib.ExitStack() as own:
        is_file = _file(path, own).read(len(_MAGIC)) == _MAGIC
    return (_ArrowFile if is_file else _ArrowStream)(path, inputs, stack)


def _mapped(path: str, stack: contextlib.ExitStack) -> Any:
    """A file that is mapped into memory, where it can be."""
    return _file(path, stack) if is_url(path) else pa.memory_map(path)


def _sizes(batch: pa.RecordBatch | None) -> tuple[int, pa.ipc.IpcReadOptions]:
    """What a row takes in memory, about, and how to count rows: by the column that is read soonest."""
    if batch is None or not batch.num_columns:
        return 0, pa.ipc.IpcReadOptions()
    least = int(np.argmin([column.nbytes for column in batch.columns]))
    options = pa.ipc.IpcReadOptions(included_fields=[least], use_threads=False)
    return -(-batch.nbytes // max(1, len(batch))), options


class _Archive:
    """Members ``folder/id.input.npy``, some items a group.

    Args:
        members: path, size, and where it is, of each.
        data: the bytes of a member that is there.
        inputs: the names that are wanted.
        broken: why there may be more members, if so.
    """

    divisible = True

    def __init__(
        self,
        members: Iterable[tuple[str, int, Any]],
        data: Callable[[Any], bytes],
        inputs: Sequence[str],
        broken: str = "",
    ) -> None:
        self._data, self._inputs, self.broken = data, inputs, broken
        self._items: list[tuple[str, dict[str, Any]]] = []
        sizes: list[int] = []
        latest: dict[str, int] = {}
        for path, size, where in members:
            folder, slash, base = path.rpartition("/")
            key, _, rest = base.partition(".")
            name = rest.removesuffix(".npy")
            if name == rest:
                continue
            key = folder + slash + key
            if name in self._items[latest[key]][1] if key in latest else True:  # an item begins
                latest[key] = len(self._items)
                self._items.append((key, {}))
                sizes.append(0)
            self._items[latest[key]][1][name] = where
            sizes[latest[key]] += size
        self.groups = _together(sizes)
        self._firsts = [0, *itertools.accumulate(rows for rows, _ in self.groups)]

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        first = self._firsts[group]
        items = [(key, *self._load(members)) for key, members in self._items[first + start : first + stop]]
        for _, alike in itertools.groupby(items, _kinds):
            ids, arrays, wrong = zip(*alike, strict=True)
            columns = {name: Column.of([each[name] for each in arrays]) for name in arrays[0]}
            yield Rows(ids, columns, {row: reason for row, reason in enumerate(wrong) if reason})

    def _load(self, members: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], str]:
        """The arrays of an item, or what is wrong with one."""
        arrays: dict[str, np.ndarray] = {}
        for name in self._inputs:
            if name in members:
                try:
                    arrays[name] = np.load(io.BytesIO(self._data(members[name])), allow_pickle=False)
                except Exception as error:
                    return {}, f"{name}: {unreadable(error)}"
        return arrays, ""


def _together(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """How many items, and bytes, make a group."""
    groups: list[tuple[int, int]] = []
    for size in sizes:
        rows, bytes_ = groups.pop() if groups else (0, 0)
        if rows and bytes_ + size > _BATCH_BYTES:
            groups.append((rows, bytes_))
            rows, bytes_ = 0, 0
        groups.append((rows + 1, bytes_ + size))
    return groups


def _kinds(item: tuple[str, Mapping[str, np.ndarray], str]) -> list[tuple[Any, ...]]:
    """What items have in common whose arrays make columns."""
    return [(name, array.dtype, array.ndim) for name, array in item[1].items()]


def _zip(path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> Shard:
    archive = stack.enter_context(zipfile.ZipFile(_file(path, stack)))
    return _Archive(
        ((each.filename, each.file_size, each) for each in archive.infolist()), archive.read, inputs
    )


def _tar(path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> Shard:
    file = _file(path, stack)
    members, broken = [], ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for each in archive:
                if each.isfile():
                    members.append((each.name, each.size, (each.offset_data, each.size)))
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
    except tarfile.TarError as error:
        broken = unreadable(error)

    def data(where: tuple[int, int]) -> bytes:
        file.seek(where[0])
        return file.read(where[1])

    return _Archive(members, data, inputs, broken)


KINDS: dict[str, Callable[[str, Sequence[str], contextlib.ExitStack], Shard]] = {
    ".parquet": _Parquet,
    ".arrow": _arrow,
    ".npz": _zip,
    ".tar": _tar,
}
