"""What a graph gives for each label, frame or source of an item: arrays, cut to the item's own size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..session import LossSession

_SIZE = re.compile(r"(?:(\d+)\*)?(\w+)(?: ?\+ ?(\d+))?")  # 2*S + 1


class Arrays:
    """The outputs of a graph that are arrays of each item.

    An output is left out where its sizes cannot be told from the item's.

    Args:
        session: of the graph.
        outputs: its names.
        batch: what the graph calls the size of a batch; nothing is an array of an item without it.
        letters: of the dimensions of each input, by the graph's names.
    """

    def __init__(
        self, session: LossSession, outputs: Iterable[str], batch: Any, letters: Mapping[str, Sequence[str]]
    ) -> None:
        self._letters = {  # by what the graph calls them
            dim: letter
            for name, of in letters.items()
            for dim, letter in zip(session.dims[name], of, strict=True)
        }
        self._axes: dict[str, int] = {}
        self._sizes: dict[str, list[tuple[int, str, int]]] = {}
        for name in outputs:
            dims = session.dims[name]
            if batch is None or batch not in dims:
                continue
            axis = dims.index(batch)
            sizes = [self._size(dim) for at, dim in enumerate(dims) if at != axis]
            if None not in sizes:
                self._axes[name], self._sizes[name] = axis, [size for size in sizes if size is not None]
        self.kinds = {name: (_kept(session.dtype(name)), len(sizes)) for name, sizes in self._sizes.items()}

    def _size(self, dim: str | int | None) -> tuple[int, str, int] | None:
        """A dimension as so many times a letter and some more; nothing where it is none."""
        if isinstance(dim, int):
            return 0, "", dim
        found = _SIZE.fullmatch(dim or "")
        return found and (int(found[1] or 1), self._letters.get(found[2], ""), int(found[3] or 0))

    def shapes(self, items: int, sizes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The shape of each item's array, `[N, R]` by output; -1 for a size that only a model knows."""
        found = {}
        for name, axes in self._sizes.items():
            shape = np.full((items, len(axes)), -1)
            for column, (times, letter, more) in zip(shape.T, axes, strict=True):
                if not times or letter in sizes:
                    column[:] = times * sizes.get(letter, 0) + more
            found[name] = shape
        return found

    def cut(self, name: str, output: np.ndarray, shapes: np.ndarray) -> list[np.ndarray]:
        """The array of each item out of a batch's."""
        arrays = np.moveaxis(output, self._axes[name], 0).astype(self.kinds[name][0], copy=False)
        return [
            array[tuple(slice(None if size < 0 else size) for size in shape)].copy()
            for array, shape in zip(arrays, shapes.tolist(), strict=False)
        ]


def _kept(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Numbers of 16 bits are kept as float32, which every reader of Parquet knows."""
    return np.dtype(np.float32) if dtype.name in ("float16", "bfloat16") else dtype
