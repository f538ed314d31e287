"""Lengths of items: relative as floating point, absolute as integers, whichever the graph takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exportable_losses.contract import Input
from exportable_losses.legal import check_type

from .columns import Column

# How far from a whole number of frames a relative length may be, and how much of the frames: the float32
# beside a fraction is off by up to 2**-23 of it.
_WHOLE = (1e-3, 2.0**-23)


def relative(counted: ArrayLike, size: ArrayLike) -> np.ndarray:
    """A relative length whose product with `size`, in float32, is `counted` and never above it."""
    length = np.divide(counted, size).astype(np.float32)
    above = length * np.asarray(size, np.float32) > np.asarray(counted)
    return np.where(above, np.nextafter(length, np.float32(0)), length)


def as_taken(name: str, length: np.ndarray, sizes: Sequence[np.ndarray], wanted: np.dtype[Any]) -> np.ndarray:
    """Lengths of the dtype that a graph wants: relative to `sizes`, which agree, or absolute."""
    absolute = length.dtype.kind != "f"
    if absolute == (wanted.kind != "f"):
        return length.astype(wanted)
    if not sizes or any((size != sizes[0]).any() for size in sizes):
        got, expected = ("absolute", "relative") if absolute else ("relative", "absolute")
        raise ValueError(f"{name}: got {got} lengths, expected {expected} ones: they count no one size")
    return relative(length, sizes[0]) if absolute else counted(name, length, sizes[0])


def numbers(entry: Input, name: str, column: Column) -> np.ndarray:
    """Lengths as numbers: absolute ones as int64, relative ones as float64, which holds more than float32."""
    dtype, rank = column.values[0].dtype, column.shapes.shape[1]
    if rank:
        shape = column.shapes[0].tolist()
        raise ValueError(f"{name}: got {dtype} of shape {shape}, expected a number")
    check_type(name, entry.legal, dtype)
    return np.concatenate(list(column.flat())).astype(np.float64 if dtype.kind == "f" else np.int64)


def counted(name: str, length: np.ndarray, size: np.ndarray, unit: str = "") -> np.ndarray:
    """How much of `size` a length is; `unit` is what it counts, for messages.

    An eager call rounds a relative length. Here each item has a size of its own, and what is no whole number
    of it is relative to another: to the longest of a batch, say.

    Raises:
        ValueError: one is more than there is, or no whole number.
    """
    exact = length if length.dtype.kind != "f" else length * size
    frames, (some, share) = np.rint(exact), _WHOLE
    with np.errstate(invalid="ignore"):  # infinite ones
        fits = (frames >= 0) & (frames <= size) & (np.abs(exact - frames) <= some + share * size)
    for row in np.flatnonzero(~fits):
        got = f"{length[row]:g} of {size[row]}{unit}"
        if length.dtype.kind == "f" and 0 <= exact[row] < np.inf:
            got += f", which is {exact[row]:g}"
        raise ValueError(f"{name}: got {got}, expected a whole number from 0 to {size[row]}")
    return frames.astype(np.int64)
