"""Items put into batches: padded to a size that is an item's own, whatever else is in the batch.

An item is a dict of arrays, one for each input of the graph, without the batch's dimension. What the
graph has lengths for is padded to the next size of a grid, so that items of about one size share a
batch while none of them ever meets another's size: its value is the same in every corpus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exportable_losses.contract import Total
from exportable_losses.legal import check_type, illegal, refuse

from ..metadata import Loss
from ..npy import MOST
from ..session import LossSession
from .arrays import Arrays
from .casts import Casts
from .columns import Column
from .lengths import as_taken, counted, numbers
from .totals import COMPOSED, columns_of, item_value, weight_of

_NONE = np.empty(0, np.uint8)
# Steps of the grid between a number and twice it, as a power of two: for the first size that is padded,
# the frames, which hold the most, and for the others, the labels.
_STEPS = (2, 1)
LONE = 4 << 20  # bytes: an item of more is always a batch of its own, however large batches may be
_UNITS = {"T": " frames", "S": " labels", "U": " labels"}  # of what a letter counts


def grid_size(size: ArrayLike, steps: int) -> np.ndarray:
    """The next number of a grid that has `2**steps` numbers from each power of two to the next.

    Examples:
        >>> grid_size([0, 5, 9, 11, 17, 400], 2).tolist()
        [1, 5, 10, 12, 20, 448]
    """
    size = np.maximum(size, 1)  # of nothing too: a length relative to one frame of padding is then zero
    bits = np.frexp(size - 1)[1].astype(np.int64)
    step = 1 << np.maximum(bits - 1 - steps, 0)
    return -(-size // step) * step


@dataclass(frozen=True)
class Items:
    """Items that can be batched, side by side.

    Args:
        rows: which of its window each item is, `[N]`.
        columns: their arrays by the graph's names.
        lengths: as the graph takes them, relative to the padded sizes or absolute, `[N]` by its names.
        padded: what each array is padded to, `[N, R]` by the graph's names.
        size: how much of the first size that is padded counts, frames as a rule; else the numbers of the
            first array, `[N]`.
        weights: what an item weighs in each total that is a mean, `[N]` by output.
        shapes: of the arrays that the graph gives for each item, `[N, R]` by output.
    """

    rows: np.ndarray
    columns: Mapping[str, Column]
    lengths: Mapping[str, np.ndarray]
    padded: Mapping[str, np.ndarray]
    size: np.ndarray
    weights: Mapping[str, np.ndarray]
    shapes: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, rows: slice | np.ndarray) -> Items:
        """Some of them."""
        lengths, padded, weights, shapes = (
            {name: values[rows] for name, values in each.items()}
            for each in (self.lengths, self.padded, self.weights, self.shapes)
        )
        columns = {name: column.part(rows) for name, column in self.columns.items()}
        return Items(self.rows[rows], columns, lengths, padded, self.size[rows], weights, shapes)

    @staticmethod
    def join(parts: Sequence[Items]) -> Items:
        """Items of one graph, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        lengths, padded, weights, shapes = (
            {name: np.concatenate([each[name] for each in some]) for name in some[0]}
            for some in zip(*((p.lengths, p.padded, p.weights, p.shapes) for p in parts), strict=True)
        )
        columns = {name: Column.join([part.columns[name] for part in parts]) for name in parts[0].columns}
        rows, size = (np.concatenate(each) for each in zip(*((p.rows, p.size) for p in parts), strict=True))
        return Items(rows, columns, lengths, padded, size, weights, shapes)

    def alike(self) -> Iterator[Items]:
        """Those that are padded to the same shapes, together."""
        keys = np.concatenate(list(self.padded.values()), axis=1)
        order = np.lexsort(keys.T)
        changes = (np.diff(keys[order], axis=0) != 0).any(1)
        return map(self.part, np.split(order, np.flatnonzero(changes) + 1))


class Batches:
    """The way from items to batches of one graph, and from its outputs back to items.

    `size` says what the size of an item counts.

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
        first = next(iter(self._padded), None)
        self.size = "numbers" if first is None else "frames" if first == "T" else "tokens"
        self._lengths = {name: entry for name, entry in self._entries.items() if entry.is_length}
        self._named = {entry.name: name for name, entry in self._entries.items()}
        self._batch = next(filter(None, (self._symbol(name) for name in self._letters)), None)
        shared = [name for name in self._letters if self._batch is not None and self._symbol(name) is None]
        if shared:
            raise ValueError(
                f"graph: got {' and '.join(shared)} as inputs, which all items share, expected them inside: "
                "attach the loss with them as constants"
            )
        self._axes = {name: self._axis(name) for name in session.inputs}
        self._dtypes = {name: session.dtype(name) for name in session.inputs}
        self._terms = {name: self._item_terms(name) for name in self._axes}
        others = [] if self.whole else [name for name in loss.outputs.values() if name not in self.columns]
        self._arrays = Arrays(session, others, self._batch, self._letters)
        self.casts = Casts()
        parts = [name for name in self.columns if name in session.dims]
        # Signals and images without lengths seldom share a size, and onnxruntime's matrix products and
        # convolutions of several differ from those of one in the last bit; so does its exponential with the
        # place in a vector. Such items, and those of a model, go one by one.
        sized = any({"T", "H"} & set(letters) for letters in self._letters.values())
        self.together = (
            ("T" in self._padded or not sized)
            and all(self._batch in session.dims[name] for name in parts)
            and all(total.kind != "exp_mean" for total in self.totals.values())
            and not loss.computed
        )
        if loss.computed:
            self._check_weights()

    def _check_weights(self) -> None:
        """What an item weighs must be in the item, and not in what the model inside the graph makes of it."""
        known = {base for name in self._axes for base, _ in self._item_terms(name)}
        for name, total in self.totals.items():
            letters = total.by.split() if total.kind.endswith("mean") else []
            if set(letters) - known and total.by not in self._named:
                raise ValueError(
                    f"graph: got {name}, whose items weigh what {total.by} is inside the graph, expected "
                    "the model and the loss apart"
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
        known = {letter for letters in self._letters.values() for letter in letters}
        for entry in self._entries.values():
            if len(entry.of) == 1 and entry.of in known:
                found[entry.of] = _STEPS[min(len(found), 1)]
        if found and self._contract.aligned:
            found[self._contract.aligned[1]] = found[self._contract.aligned[0]]
        return found

    def ready(self, rows: np.ndarray, columns: Mapping[str, Column]) -> Items:
        """Items that can be batched. A length that is not there is the whole; integers are absolute.

        Args:
            rows: which of its window each is.
            columns: their arrays.

        Raises:
            TypeError: an input is unknown or missing, or its dtype does not fit.
            ValueError: a shape or a length does not fit.
        """
        unknown = sorted(set(columns) - set(self._axes))
        missing = [name for name in self._axes if name not in columns and name not in self._lengths]
        if unknown or missing:
            raise TypeError(f"inputs: {self._misfit(columns, unknown, missing)}")
        given = {
            name: numbers(entry, name, columns[name]) if name in columns else np.ones(len(rows))
            for name, entry in self._lengths.items()
        }
        arrays = {name: self._cast(name, columns[name]) for name in self._axes if name not in given}
        if self.whole:
            self._refuse_nan(arrays)
        shapes = {name: column.shapes for name, column in arrays.items()}
        sizes = self._sizes(shapes)
        first = next(iter(shapes.values())).prod(1)
        grid = {letter: grid_size(sizes[letter], steps) for letter, steps in self._padded.items()}
        if self._contract.aligned:
            one, other = self._contract.aligned
            sizes[one] = sizes[other] = np.minimum(sizes[one], sizes[other])
            if one in grid:
                grid[one] = grid[other] = np.maximum(grid[one], grid[other])
        lengths = {}
        for name, length in given.items():
            letters = [each for each in self._lengths[name].of.split() if each in sizes]
            whole = [sizes[each] for each in letters]  # what no letter stands for only a model knows
            sizes |= {each: counted(name, length, sizes[each], _UNITS.get(each, "")) for each in letters}
            if len(letters) == 1 and letters[0] in grid:
                whole = [grid[letters[0]]]
                length = sizes[letters[0]]
            lengths[name] = as_taken(name, length, whole, self._dtypes[name])
        padded = {name: self._to_grid(name, shape, grid) for name, shape in shapes.items()}
        for name, each in padded.items():
            self._refuse_huge(name, shapes[name], each)
        size = sizes[next(iter(self._padded))] if self._padded else first
        weights, of_arrays = self._weights(len(rows), sizes, arrays), self._arrays.shapes(len(rows), sizes)
        return Items(rows, arrays, lengths, padded, size, weights, of_arrays)

    def _misfit(self, given: Iterable[str], unknown: Sequence[str], missing: Sequence[str]) -> str:
        """Which columns came, and which are expected."""
        found = f"found {', '.join(given) or 'none'}"
        got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing, {found}"
        needed = ", ".join(name for name in self._axes if name not in self._lengths)
        optional = f"; optional: {', '.join(self._lengths)}" if self._lengths else ""
        return f"{got}, expected {needed}{optional}"

    def _cast(self, name: str, column: Column) -> Column:
        """Arrays in the dtype that the graph takes."""
        dtype, wanted = column.values[0].dtype, self._dtypes[name]
        if dtype == wanted:
            return column
        if dtype.kind in "OSU":
            raise TypeError(f"{name}: got text, expected numbers")
        found = Column.of([self.casts(name, array, wanted) for array in column])
        if name in self._entries:
            # a list of Python's has integers where no number is anything else
            taken = wanted if dtype.kind in "iu" and wanted.kind == "f" else dtype
            check_type(name, self._entries[name].legal, taken)
        return found

    def _refuse_nan(self, columns: Mapping[str, Column]) -> None:
        """The check of values, where the graph sees all items at once."""
        for name, column in columns.items():
            for array in column.flat():
                for wrong, expected in illegal(self._entries[name].legal, array, None, {}, refuse_nan=True):
                    refuse(name, array, wrong, expected)

    def _sizes(self, shapes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The size behind each letter, of each item."""
        sizes: dict[str, np.ndarray] = {}
        agree = np.ones(len(next(iter(shapes.values()))), bool)
        for name, shape in shapes.items():
            terms = self._terms[name]
            agree &= shape.shape[1] == len(terms) or name not in self._entries
            for size, (base, more) in zip(shape.T, terms, strict=False):
                agree &= size - more == (int(base) if base.isdigit() else sizes.setdefault(base, size - more))
        for row in np.flatnonzero(~agree):
            self._refuse_shapes({name: tuple(shape[row].tolist()) for name, shape in shapes.items()})
        return sizes

    def _refuse_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Say what is wrong with the shapes of an item."""
        known = {name: entry for name, entry in self._entries.items() if name in shapes}
        self._contract.sizes({e.name: self._with_batch(name, shapes[name]) for name, e in known.items()})
        for name in known:
            if len(shapes[name]) != len(self._terms[name]):
                expected = f"expected {len(self._terms[name])} dimensions"
                raise ValueError(f"{name}: got shape {list(shapes[name])}, {expected}")

    def _to_grid(self, name: str, shape: np.ndarray, grid: Mapping[str, np.ndarray]) -> np.ndarray:
        """What each array of an input is padded to."""
        padded = shape.copy()
        for size, (base, more) in zip(padded.T, self._terms[name], strict=False):
            if base in grid:
                size[:] = grid[base] + more
        return padded

    def _refuse_huge(self, name: str, shapes: np.ndarray, padded: np.ndarray) -> None:
        """The check of sizes: without a frame an array takes nothing, however large its frames are."""
        for row in np.flatnonzero(padded.prod(1, dtype=np.float64) * self._dtypes[name].itemsize > MOST):
            expected = f"expected one that takes at most {MOST:,} bytes"
            raise ValueError(f"{name}: got shape {shapes[row].tolist()}, {expected}")

    def _weights(
        self, items: int, sizes: Mapping[str, np.ndarray], columns: Mapping[str, Column]
    ) -> dict[str, np.ndarray]:
        """What each item weighs in each total that is a mean."""
        stars = [letter for letter in sizes if letter.startswith("X")]
        weights = {}
        for name, total in self.totals.items():
            if total.kind.endswith("mean") and total.by in self._named:
                arrays = columns[self._named[total.by]].flat()
                weights[name] = np.array([math.fsum(array.tolist()) for array in arrays])
            elif total.kind.endswith("mean"):
                letters = total.by.split()
                counted = [*letters, *(stars if "*" in letters else ())]
                weights[name] = np.ones(items)
                for letter in counted:
                    weights[name] *= sizes.get(letter, 1)
        return weights

    def bytes(self, items: Items) -> int:
        """What an item that is padded as the first one is takes in a batch."""
        shapes = {name: padded[0].tolist() for name, padded in items.padded.items()}
        return sum(math.prod(shape) * self._dtypes[name].itemsize for name, shape in shapes.items())

    def lone(self, items: Items) -> bool:
        """Whether items that are padded as the first one is are computed one by one."""
        return self.bytes(items) > LONE

    def _item_terms(self, name: str) -> list[tuple[str, int]]:
        """The letters of an item's dimensions, each with how much more than its size there is."""
        terms = [letter.partition("+") for letter in self._letters.get(name, ()) if letter != "B"]
        return [(base, int(more or 0)) for base, _, more in terms]

    def _with_batch(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an item's array in a batch of one."""
        axis = self._axes[name]
        return shape if axis is None else (*shape[:axis], 1, *shape[axis:])

    def collate(self, items: Items, memory: np.ndarray = _NONE) -> dict[str, np.ndarray]:
        """One batch of items that are padded to the same shapes, zeros where they are padded.

        An item alone is there twice where a batch might have had several: onnxruntime adds the numbers of a
        batch of one in another order. A long one always is alone, and is there once.

        Args:
            items: of the batch.
            memory: bytes for the batch to lie in, as far as there are enough: the first touch of memory that
                was not used before takes longer than a copy.
        """
        feed = {}
        if self.together and len(items) == 1 and not self.lone(items):
            items = items.part(np.zeros(2, int))
        for name, axis in self._axes.items():
            if name in items.lengths:
                feed[name] = items.lengths[name] if axis is not None else items.lengths[name][0]
            elif axis is None:
                (feed[name],) = items.columns[name]
            else:
                shape = (len(items), *items.padded[name][0].tolist())
                batch, memory = _place(shape, items.columns[name].values[0].dtype, memory)
                _fill(batch, items.columns[name])
                feed[name] = np.moveaxis(batch, 0, axis) if axis else batch
        return feed

    @property
    def kinds(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """The dtype of each column of `values`, or of `kept`, and how many dimensions a row of it has."""
        if self.whole:
            return {name: (self.session.dtype(name), 1) for name in self._axes}
        parts = {name for name in self.columns if name in self.session.dims and name not in self.totals}
        ranks = {name: len(self.session.dims[name]) - self.together for name in parts}
        found = {name: (np.dtype(np.float64), ranks.get(name, 0)) for name in self.columns}
        return {**found, **self._arrays.kinds}

    def kept(self, items: Items) -> dict[str, list[np.ndarray]]:
        """What is kept of each item where the graph sees all at once, in the end: its arrays."""
        return {name: list(items.columns[name]) for name in self._axes}

    def values(self, items: Items, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What each item gave: the columns of `columns`, and its arrays, a row an item."""
        found: dict[str, Any] = {
            name: self._arrays.cut(name, outputs[name], shapes) for name, shapes in items.shapes.items()
        }
        for name in self.columns:
            if name not in outputs:
                continue
            output = outputs[name]
            if self.together:
                output = np.moveaxis(output, self.session.dims[name].index(self._batch), 0)[: len(items)]
            else:
                output = output[None]
            total = self.totals.get(name)
            if total is None:  # a part of another total
                found[name] = output
                continue
            weights = items.weights.get(name, np.ones(len(items)))
            if output.ndim == 1 and not total.each:
                found[name] = output.astype(np.float64)
            else:
                pairs = zip(output, weights.tolist(), strict=True)
                found[name] = np.array([item_value(total, each, weight) for each, weight in pairs])
            if total.kind == "ratio":  # nothing wrong of nothing
                found[name] = np.where(np.isnan(found[name]), 0.0, found[name])
            if name in items.weights:
                found[weight_of(name)] = weights
        return found


def _by_graph(loss: Loss) -> dict[str, Total]:
    """How the graph's outputs add up, under its own names for them."""
    found = {}
    for name, total in loss.contract.totals_of(loss.settings).items():
        parts = (
            " ".join(loss.outputs[part] for part in total.by.split()) if total.kind in COMPOSED else total.by
        )
        found[loss.outputs[name]] = replace(total, output=loss.outputs[name], by=parts)
    return found


def _place(shape: tuple[int, ...], dtype: np.dtype[Any], memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An array with any content, in `memory` where it has room; and what is left of that."""
    size = math.prod(shape) * dtype.itemsize
    if size > memory.nbytes:
        return np.empty(shape, dtype), memory
    return memory[:size].view(dtype).reshape(shape), memory[-(-size // 64) * 64 :]


def _fill(batch: np.ndarray, column: Column) -> None:
    """Put each array into the first corner of its place, zeros into the rest."""
    if (column.shapes[:, 1:] == batch.shape[2:]).all():  # then its numbers follow one another there too
        batch = batch.reshape(len(batch), -1)
        batch[:, column.shapes.prod(1).min() :] = 0
        for place, numbers in zip(batch, column.flat(), strict=True):
            place[: len(numbers)] = numbers
    else:
        batch[...] = 0
        for place, array in zip(batch, column, strict=True):
            place[tuple(map(slice, array.shape))] = array
