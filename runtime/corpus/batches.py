"""Items put into batches: padded to a size that is an item's own, whatever else is in the batch.

An item is a dict of arrays, one for each input of the graph, without the batch's dimension. What the
graph has lengths for is padded to the next size of a grid, so that items of about one size share a
batch while none of them ever meets another's size: its value is the same in every corpus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exportable_losses.contract import Total

from ..session import Loss, LossSession
from .totals import COMPOSED, columns_of, item_value, weight_of

# Steps of the grid between a number and twice it, as a power of two: for the first size that is padded,
# the frames, which hold the most, and for the others, the labels.
_STEPS = (3, 2)
_WHOLE = 1e-3  # how far from a whole number of frames a length may be: float32 does not hold 1/3


def grid_size(size: int, steps: int) -> int:
    """The next number of a grid that has `2**steps` numbers from each power of two to the next.

    Example:
        >>> [grid_size(size, 2) for size in (0, 5, 9, 11, 17, 400)]
        [1, 5, 10, 12, 20, 448]
    """
    if size <= 1:
        return 1  # of nothing too: a length relative to one frame of padding is then zero
    step = 1 << max(0, (size - 1).bit_length() - 1 - steps)
    return -(-size // step) * step


def relative(counted: int, size: int) -> np.ndarray:
    """A relative length whose product with `size`, in float32, is `counted` and never above it."""
    length = np.float32(counted / size)
    above = length * np.float32(size) > counted
    return np.asarray(np.nextafter(length, np.float32(0)) if above else length)


@dataclass(frozen=True)
class Ready:
    """An item that can be batched.

    Args:
        arrays: by the graph's names.
        shapes: what each array is padded to.
        sizes: by letter, how much of each size counts.
    """

    arrays: Mapping[str, np.ndarray]
    shapes: tuple[tuple[int, ...], ...]
    sizes: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """What it takes in a batch."""
        arrays = zip(self.shapes, self.arrays.values(), strict=True)
        return sum(math.prod(shape) * array.itemsize for shape, array in arrays)


class Batches:
    """The way from items to batches of one graph, and from its outputs back to items.

    Args:
        session: of the graph.

    Raises:
        ValueError: the file does not say what it takes, or nothing of it adds up over a corpus.
    """

    def __init__(self, session: LossSession) -> None:
        if not session.losses:
            raise ValueError("graph: got a file that does not say what it takes, expected an exported loss")
        self.session = session
        loss = session.losses[0]
        self._entries = {loss.names[e.name]: e for e in loss.contract.inputs if e.name in loss.names}
        ranks = {entry.name: len(session.dims[name]) for name, entry in self._entries.items()}
        letters = loss.contract.letters(ranks)
        self._letters = {name: letters[entry.name] for name, entry in self._entries.items()}
        self._contract = loss.contract
        self.totals = _by_graph(loss)
        if not self.totals:
            raise ValueError(
                f"graph: got {', '.join(loss.outputs.values())}, which do not add up over a corpus"
            )
        self.columns = columns_of(self.totals)
        self.whole = any(total.kind == "whole" for total in self.totals.values())
        self._padded = self._paddable()
        self._batch = next(filter(None, (self._symbol(name) for name in self._letters)), None)
        self._axes = {name: self._axis(name) for name in session.inputs}
        parts = [name for name in self.columns if name in session.dims]
        # Signals without lengths seldom share a size, and onnxruntime's matrix products of several differ
        # from those of one in the last bit: such items go one by one.
        timed = any("T" in letters for letters in self._letters.values())
        self.together = ("T" in self._padded or not timed) and all(
            self._batch in session.dims[name] for name in parts
        )

    def _symbol(self, name: str) -> Any:
        """What the graph calls the size of a batch, where this input has one."""
        letters = self._letters[name]
        return self.session.dims[name][letters.index("B")] if "B" in letters else None

    def _axis(self, name: str) -> int | None:
        """Where the items are in an input; None where the row knows no batches."""
        if self._batch is None:
            return None
        dims = self.session.dims[name]
        return dims.index(self._batch) if self._batch in dims else 0  # a model that names it otherwise

    def _paddable(self) -> dict[str, int]:
        """The letters that are padded, with the steps of their grid: those that one length is relative to."""
        found: dict[str, int] = {}
        for entry in self._entries.values():
            if len(entry.of) == 1:
                found[entry.of] = _STEPS[min(len(found), 1)]
        if found and self._contract.aligned:
            found[self._contract.aligned[1]] = found[self._contract.aligned[0]]
        return found

    def ready(self, item: Mapping[str, Any]) -> Ready:
        """`item`, looked at alone. A length that it does not have is 1.

        Raises:
            TypeError: an array is unknown or missing.
            ValueError: a shape or a length does not fit.
        """
        lengths = {name: entry for name, entry in self._entries.items() if entry.of}
        given = {**dict.fromkeys(lengths, np.float32(1)), **item}
        unknown = sorted(set(given) - set(self._axes))
        missing = [name for name in self._axes if name not in given]
        if unknown or missing:
            got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
            raise TypeError(f"inputs: {got}, expected {', '.join(self._axes)}")
        arrays = {name: np.asarray(given[name]) for name in self._axes}
        shapes = {name: self._with_batch(name, array.shape, 1) for name, array in arrays.items()}
        sizes = self._contract.sizes({entry.name: shapes[name] for name, entry in self._entries.items()})
        padded = {letter: grid_size(sizes[letter], steps) for letter, steps in self._padded.items()}
        if self._contract.aligned:
            both = [letter for letter in self._contract.aligned if letter in sizes]
            sizes |= dict.fromkeys(both, min(sizes[letter] for letter in both))
            padded |= dict.fromkeys(set(both) & set(padded), max(padded.get(letter, 0) for letter in both))
        for name, entry in lengths.items():
            length = float(arrays[name])
            counted = {letter: _counted(name, length, sizes[letter]) for letter in entry.of.split()}
            sizes |= counted
            if entry.of in padded:
                arrays[name] = relative(counted[entry.of], padded[entry.of])
        to = tuple(self._padded_shape(name, array.shape, padded) for name, array in arrays.items())
        return Ready(arrays, to, sizes)

    def _with_batch(self, name: str, shape: Sequence[int], items: int) -> tuple[int, ...]:
        axis = self._axes[name]
        return tuple(shape) if axis is None else (*shape[:axis], items, *shape[axis:])

    def _padded_shape(self, name: str, shape: tuple[int, ...], padded: Mapping[str, int]) -> tuple[int, ...]:
        letters = [letter for letter in self._letters.get(name, ()) if letter != "B"]
        if not letters:
            return shape
        bases = [letter.partition("+") for letter in letters]
        return tuple(
            padded[base] + int(more or 0) if base in padded else size
            for size, (base, _, more) in zip(shape, bases, strict=True)
        )

    def collate(self, items: Sequence[Ready]) -> dict[str, np.ndarray]:
        """One batch of items whose `shapes` are equal, zeros where they are padded.

        An item alone is there twice where a batch can have several: onnxruntime adds the numbers of a
        batch of one in another order.
        """
        feed = {}
        if self.together and len(items) == 1:
            items = [*items, *items]
        for (name, axis), shape in zip(self._axes.items(), items[0].shapes, strict=True):
            arrays = [item.arrays[name] for item in items]
            if axis is None:
                (feed[name],) = arrays
                continue
            batch = np.zeros((len(items), *shape), arrays[0].dtype)
            for i, array in enumerate(arrays):
                place: tuple[Any, ...] = (i, *(slice(size) for size in array.shape))
                batch[place] = array
            feed[name] = np.moveaxis(batch, 0, axis)
        return feed

    def rows(self, items: Sequence[Ready], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """What each item gave, under the names of `columns`."""
        split = {}
        for name in self.columns:
            if name in outputs and self.together:
                split[name] = np.moveaxis(outputs[name], self.session.dims[name].index(self._batch), 0)
            elif name in outputs:
                split[name] = outputs[name][None]
        return [
            self._row(item, {name: array[i] for name, array in split.items()}) for i, item in enumerate(items)
        ]

    def _row(self, item: Ready, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, output in outputs.items():
            total = self.totals.get(name)
            if total is None:  # a part of another total
                row[name] = output.tolist()
                continue
            weight = self._weight(total, item)
            row[name] = item_value(total, output, weight)
            if total.kind.endswith("mean"):
                row[weight_of(name)] = weight
        return row

    def _weight(self, total: Total, item: Ready) -> float:
        """What an item weighs in `total`."""
        if not total.kind.endswith("mean"):
            return 1.0
        named = {entry.name: name for name, entry in self._entries.items()}
        if total.by in named:
            return math.fsum(np.ravel(item.arrays[named[total.by]]).tolist())
        letters = total.by.split()
        stars = [letter for letter in item.sizes if letter.startswith("X")] if "*" in letters else []
        return float(math.prod(item.sizes.get(letter, 1) for letter in (*letters, *stars)))


def _by_graph(loss: Loss) -> dict[str, Total]:
    """How the graph's outputs add up, under its own names for them."""
    found = {}
    for name, total in loss.contract.totals_of(loss.settings).items():
        parts = (
            " ".join(loss.outputs[part] for part in total.by.split()) if total.kind in COMPOSED else total.by
        )
        found[loss.outputs[name]] = replace(total, output=loss.outputs[name], by=parts)
    return found


def _counted(name: str, length: float, size: int) -> int:
    """How much of `size` a relative length is."""
    counted = round(length * size) if math.isfinite(length) else -1
    if not 0 <= counted <= size or abs(length * size - counted) > _WHOLE:
        raise ValueError(f"{name}: got {length:g} of {size}, expected a whole number of at most {size}")
    return counted
