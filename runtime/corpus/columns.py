"""Columns of Arrow as one array a row: views of the column's memory, no number is copied."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def arrays_of(name: str, column: pa.Array) -> list[np.ndarray | str]:
    """The array of each row, or what is wrong with it.

    Args:
        name: of the column, for messages.
        column: numbers, lists of any depth of them (with or without a fixed size), or tensors of one
            shape. Lists side by side in a row must be of one size.
    """
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
        return [f"{name}: got {column.type}, expected numbers or lists of them"] * rows
    values = _values(level)
    shapes = np.stack(sizes, axis=1).tolist() if sizes else [[]] * rows
    arrays: list[np.ndarray | str] = []
    for row, wrong in enumerate((nulls | uneven).tolist()):
        if wrong:
            got = "a null" if nulls[row] else "lists of several sizes side by side"
            arrays.append(f"{name}: got {got}, expected an array of numbers")
            continue
        array = values[start[row] : end[row]].reshape(shapes[row])
        if tensor is not None:
            array = array.reshape(tensor.shape).transpose(tensor.permutation or range(len(tensor.shape)))
        arrays.append(array)
    return arrays


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
