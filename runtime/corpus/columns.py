"""Arrays side by side, an array a row: of a column of Arrow no number is copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


@dataclass(frozen=True)
class Column:
    """Arrays of one dtype and as many dimensions.

    Args:
        values: some flat arrays, in which the numbers are.
        places: in which of them each array is, `[N]`.
        starts: where in that it begins, `[N]`.
        shapes: of each array, `[N, R]`.
    """

    values: Sequence[np.ndarray]
    places: np.ndarray
    starts: np.ndarray
    shapes: np.ndarray

    @staticmethod
    def of(arrays: Sequence[np.ndarray]) -> Column:
        """The column of `arrays`."""
        shapes = np.array([array.shape for array in arrays], np.int64)
        rows = np.arange(len(arrays))
        return Column([np.ravel(array) for array in arrays], rows, np.zeros_like(rows), shapes)

    @staticmethod
    def join(columns: Sequence[Column]) -> Column:
        """Columns of one dtype and as many dimensions, one behind the other."""
        before = np.cumsum([0, *(len(column.values) for column in columns)])
        return Column(
            [values for column in columns for values in column.values],
            np.concatenate([each.places + more for each, more in zip(columns, before, strict=False)]),
            np.concatenate([each.starts for each in columns]),
            np.concatenate([each.shapes for each in columns]),
        )

    def part(self, rows: slice | np.ndarray) -> Column:
        """Some of the arrays."""
        return Column(self.values, self.places[rows], self.starts[rows], self.shapes[rows])

    def flat(self) -> Iterator[np.ndarray]:
        """The numbers of each array."""
        ends = self.starts + self.shapes.prod(1)
        for place, start, end in zip(self.places.tolist(), self.starts.tolist(), ends.tolist(), strict=True):
            yield self.values[place][start:end]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(np.reshape, self.flat(), self.shapes.tolist())

    def __len__(self) -> int:
        return len(self.places)


def column_of(name: str, column: pa.Array) -> tuple[Column, dict[int, str]]:
    """The array of each row, and what is wrong with some, by row.

    Args:
        name: of the column, for messages.
        column: numbers, lists of any depth of them (with or without a fixed size), or tensors of one
            shape. Lists side by side in a row must be of one size. Of text each row is an array of one.
    """
    if _is_text(column.type):
        return _of_text(name, column)
    tensor = column.type if isinstance(column.type, pa.FixedShapeTensorType) else None
    level = column.storage if isinstance(column, pa.ExtensionArray) else column
    rows = len(column)
    start, end = np.arange(rows), np.arange(1, rows + 1)  # what of a level belongs to each row
    sizes: list[np.ndarray] = []
    nulls, uneven = np.zeros(rows, bool), np.zeros(rows, bool)
    while True:
        if level.null_count:
            nulls |= _any(level.is_null().to_numpy(zero_copy_only=False), start, end)
        if pa.types.is_fixed_size_list(level.type):
            size = level.type.list_size
            sizes.append(np.full(rows, size))
            start, end = (start + level.offset) * size, (end + level.offset) * size
        elif pa.types.is_list(level.type) or pa.types.is_large_list(level.type):
            edges = np.append(level.offsets.to_numpy(), 0)  # the zero: behind the last row begins nothing
            each = np.diff(edges)
            sizes.append(np.where(end > start, each[start], 0))
            changes = np.diff(each, prepend=each[:1]) != 0
            uneven |= _any(changes, np.minimum(start + 1, end), end)
            start, end = edges[start], edges[end]
        else:
            break
        level = level.values
    kind = level.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        wrong = f"{name}: got {column.type}, expected numbers or lists of them"
        return Column.of([np.zeros(0)] * rows), dict.fromkeys(range(rows), wrong)
    shapes = np.stack(sizes, 1) if sizes else np.zeros((rows, 0), np.int64)
    found = Column([_values(level)], np.zeros_like(start), start, shapes)
    if tensor is not None:
        found = _of_tensors(found, tensor)
    wrongs = {}
    for row in np.flatnonzero(nulls | uneven).tolist():
        got = "a null" if nulls[row] else "lists of several sizes side by side"
        wrongs[row] = f"{name}: got {got}, expected an array of numbers"
    return found, wrongs


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_kind(kind) for is_kind in _TEXTS)


def _of_text(name: str, column: pa.Array) -> tuple[Column, dict[int, str]]:
    texts = column.to_pylist()
    rows = np.arange(len(texts))
    wrong = {row: f"{name}: got a null, expected text" for row, text in enumerate(texts) if text is None}
    shapes = np.zeros((len(texts), 0), np.int64)
    return Column([np.array(texts, np.object_)], np.zeros_like(rows), rows, shapes), wrong


def _of_tensors(column: Column, kind: pa.FixedShapeTensorType) -> Column:
    """Rows in the shape of a tensor; copied where its dimensions are stored in another order."""
    if kind.permutation and list(kind.permutation) != sorted(kind.permutation):
        tensors = [numbers.reshape(kind.shape) for numbers in column.flat()]
        return Column.of([tensor.transpose(kind.permutation) for tensor in tensors])
    shapes = np.tile(np.array(kind.shape, np.int64), (len(column), 1))
    return Column(column.values, column.places, column.starts, shapes)


def _any(mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether any of `mask[start:end]` is true, for each pair."""
    before = np.concatenate([[0], np.cumsum(mask)])
    return before[end] > before[start]


def _values(numbers: pa.Array) -> np.ndarray:
    """The numbers, anything where one is null."""
    if pa.types.is_boolean(numbers.type):
        return numbers.fill_null(False).to_numpy(zero_copy_only=False)
    dtype = np.dtype(numbers.type.to_pandas_dtype())
    buffer = numbers.buffers()[1]
    if buffer is None:
        return np.zeros(len(numbers), dtype)
    return np.frombuffer(buffer, dtype, len(numbers), numbers.offset * dtype.itemsize)
