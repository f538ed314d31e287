"""The formats of a shard: what each is made of, and how some of its rows are read.

======================  =============================================================================
``.parquet``            one row an item, one column an input: numbers, nested lists or tensors of a
                        fixed shape; a column `id` if there is one. Checksums of pages are checked,
                        where there are some
``.arrow``              the same in Arrow's IPC format, a file or a stream
``.npz``, ``.tar``      members ``<id>.<input>.npy``, those of an item one after the other: what
                        ``np.savez(path, **{"utt1.log_probs": x, "utt1.targets": y})`` writes, and
                        WebDataset's convention: see `archives`. Other members are not looked at
======================  =============================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from exportable_losses.missing import install

from ..files import leads_nowhere
from .archives import tar_archive, zip_archive
from .columns import column_of
from .damage import unreadable
from .footer import row_groups
from .messages import check_file, check_stream
from .rows import GROUP_BYTES, ID, Rows, Shard

_MAGIC = b"ARROW1"
_LEAST, _MOST = 1 << 20, 8  # rows that a file may have at least; and for each byte, at most


def filesystems() -> Any:
    """The module fsspec, which opens URLs."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        message = f"data: got a URL, for which fsspec is needed: {install('corpus')}"
        raise ValueError(message) from error
    return fsspec


def open_shard(
    path: str, inputs: Sequence[str], stack: contextlib.ExitStack, only: Sequence[str] | None = None
) -> Shard:
    """The shard in `path`, until `stack` is closed.

    Args:
        path: of the file.
        inputs: the names of the arrays that are wanted.
        stack: closes the file.
        only: those of them that are read, by default all: the others say what is an item alone.
    """
    if not is_url(path) and (wrong := leads_nowhere(path)):
        raise ValueError(wrong)
    kind = next(kind for suffix, kind in KINDS.items() if path.endswith(suffix))
    if kind in (zip_archive, tar_archive):
        return kind(_file(path, stack), inputs, stack, only)
    shard = kind(path, inputs if only is None else only, stack)
    with contextlib.ExitStack() as own:
        size = _file(path, own).seek(0, 2)
    rows = sum(rows for rows, _ in shard.groups)
    if rows > max(_LEAST, _MOST * size):  # each would be set aside, one by one
        raise ValueError(f"{rows:,} rows in {size:,} bytes")
    return shard


def is_url(path: str) -> bool:
    """Whether a path is fsspec's to open."""
    return "://" in path or "::" in path


def _file(path: str, stack: contextlib.ExitStack) -> IO[bytes]:
    return stack.enter_context(filesystems().open(path, "rb") if is_url(path) else open(path, "rb"))


def _rows_of(batch: pa.RecordBatch, inputs: Sequence[str]) -> Rows:
    """The rows of a batch, once it is known that nothing in it leads out of its memory.

    Raises:
        ValueError: something does: no row of the batch can be trusted.
    """
    known = [name for name in inputs if name in batch.schema.names]
    named = ID in batch.schema.names and ID not in inputs
    batch.select(known).validate(full=True)
    found = {name: column_of(name, batch.column(name)) for name in known}
    wrong: dict[int, str] = {}
    ids: list[Any] = [None] * len(batch)
    if named:
        ids, wrong = _ids_of(batch.column(ID))
    for _, of_column in reversed(found.values()):  # the first says it
        wrong |= of_column
    return Rows(ids, {name: column for name, (column, _) in found.items()}, wrong)


def _ids_of(column: pa.Array) -> tuple[list[str | None], dict[int, str]]:
    """The id of each row, and what is wrong with some: names that are no UTF-8."""
    column.validate()
    if pa.types.is_string(column.type):  # else one name that is no UTF-8 would cost all of them
        column = column.view(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.view(pa.large_binary())
    column.validate(full=True)
    ids: list[str | None] = []
    wrong = {}
    for row, value in enumerate(column.to_pylist()):
        if isinstance(value, bytes):
            name, value = value, value.decode("utf-8", "backslashreplace")
            if value.encode() != name:
                wrong[row] = f"id: got {value}, whose bytes are no UTF-8, expected a name in UTF-8"
        ids.append(None if value is None else str(value))
    return ids, wrong


class _Sequence:
    """Batches that can be had from the first one on only."""

    divisible = False
    broken = ""
    groups: list[tuple[int, int]]
    names: Sequence[str] = ()
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
        file = _file(path, stack)
        self._file = pq.ParquetFile(
            file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )
        self.groups = row_groups(file)
        self._inputs = inputs
        self.names = self._file.schema_arrow.names
        self._columns = [name for name in self.names if name in (ID, *inputs)]

    def batches(self, group: int) -> Iterator[pa.RecordBatch]:
        rows, size = self.groups[group]
        some = max(1, rows * GROUP_BYTES // max(1, size))
        return self._file.iter_batches(some, [group], self._columns, use_threads=False)


class _ArrowStream(_Sequence):
    """One group of all batches."""

    def __init__(self, path: str, inputs: Sequence[str], stack: contextlib.ExitStack) -> None:
        self._path, self._inputs, self._stack = path, inputs, stack
        rows = row_bytes = 0
        with contextlib.ExitStack() as own:
            try:
                stream = pa.ipc.open_stream(_mapped(path, own))
                self.names = stream.schema.names
                first = next(iter(stream), None)
                row_bytes, options = _sizes(first)
                for batch in pa.ipc.open_stream(_mapped(path, own), options=options):
                    rows += len(batch)
                check_stream(_file(path, own))
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
            self.names = whole.schema.names
            row_bytes, options = _sizes(whole.get_batch(0) if whole.num_record_batches else None)
            reader = pa.ipc.open_file(_mapped(path, own), options=options)
            rows = [len(reader.get_batch(i)) for i in range(reader.num_record_batches)]
            try:
                check_file(_file(path, own), len(rows))
            except Exception as error:
                self.broken = unreadable(error)
        self.groups = [(each, each * row_bytes) for each in rows]
        self._reader: Any = None
        self._seen = 0

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        # What is mapped and was read counts as this process's memory: let go of it now and then.
        if self._reader is None or self._seen > 4 * GROUP_BYTES:
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
    # not `nbytes`, which follows offsets that nobody has held to anything yet
    least = int(np.argmin([column.get_total_buffer_size() for column in batch.columns]))
    options = pa.ipc.IpcReadOptions(included_fields=[least], use_threads=False)
    return -(-batch.get_total_buffer_size() // max(1, len(batch))), options


KINDS: dict[str, Callable[..., Shard]] = {
    ".parquet": _Parquet,
    ".arrow": _arrow,
    ".npz": zip_archive,
    ".tar": tar_archive,
}
