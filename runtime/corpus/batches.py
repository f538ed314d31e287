"""Items put into batches: padded to a size that is an item's own, whatever else is in the batch.

An item is a dict of arrays, one for each input of the graph, without the batch's dimension. What the
graph has lengths for is padded to the next size of a grid, so that items of about one size share a
batch while none of them ever meets another's size: its value is the same in every corpus.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exportable_losses.contract import LEGAL, Total

from ..session import Loss, LossSession
from .totals import COMPOSED, columns_of, item_value, weight_of

# Steps of the grid between a number and twice it, as a power of two: for the first size that is padded,
# the frames, which hold the most, and for the others, the labels.
_STEPS = (2, 1)
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
class Fit:
    """What the shapes and lengths of an item say.

    Args:
        shapes: what each array is padded to.
        bytes: what they take then.
        size: how much of the first size that is padded counts, frames as a rule; else the numbers of the
            first array.
        sizes: by letter, how much of each size counts.
        lengths: the lengths relative to the padded sizes, by the graph's names.
        weights: what the item weighs, by output; without those that are told by values.
    """

    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    size: int
    sizes: Mapping[str, int]
    lengths: Mapping[str, np.ndarray]
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Ready:
    """An item that can be batched: its arrays by the graph's names, and how they fit."""

    arrays: Mapping[str, np.ndarray]
    fit: Fit

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What each array is padded to: items of the same shapes share a batch."""
        return self.fit.shapes

    @property
    def bytes(self) -> int:
        """What it takes in a batch."""
        return self.fit.bytes


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
        self._lengths = {name: entry for name, entry in self._entries.items() if entry.of}
        self._whole = dict.fromkeys(self._lengths, np.asarray(1, np.float32))
        self._named = {entry.name: name for name, entry in self._entries.items()}
        self._fit = functools.lru_cache(1 << 14)(self._fit_anew)
        self._batch = next(filter(None, (self._symbol(name) for name in self._letters)), None)
        self._axes = {name: self._axis(name) for name in session.inputs}
        self._dtypes = {name: session.dtype(name) for name in session.inputs}
        self._terms = {name: self._item_terms(name) for name in self._axes}
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

    def ready(self, item: Mapping[str, Any]) -> Ready:
        """`item`, looked at alone. A length that it does not have is 1.

        Raises:
            TypeError: an array is unknown or missing.
            ValueError: a shape or a length does not fit.
        """
        if len(item) < len(self._axes):
            item = {**self._whole, **item}
        if item.keys() != self._axes.keys():
            unknown = sorted(set(item) - set(self._axes))
            missing = [name for name in self._axes if name not in item]
            got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
            raise TypeError(f"inputs: {got}, expected {', '.join(self._axes)}")
        arrays = {}
        for name, dtype in self._dtypes.items():
            array = np.asarray(item[name])
            # float64 holds a relative length better than the graph does, and is no error
            fits = array.dtype == dtype or name in self._lengths
            arrays[name] = array if fits else self.session.cast(name, array)
        lengths = tuple([_number(name, arrays[name]) for name in self._lengths])
        if self.whole:
            self._refuse_nan(arrays)
        fit = self._fit(tuple([array.shape for array in arrays.values()]), lengths)
        return Ready({**arrays, **fit.lengths}, fit)

    def _refuse_nan(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The check of values, where the graph sees all items at once."""
        for name, array in arrays.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ValueError(f"{name}: got nan, expected {LEGAL[self._entries[name].legal]}")

    def _fit_anew(self, shapes: Sequence[tuple[int, ...]], given: Sequence[float]) -> Fit:
        """How an item whose arrays have these shapes fits, with these relative lengths."""
        sizes = self._sizes(shapes)
        padded = {letter: grid_size(sizes[letter], steps) for letter, steps in self._padded.items()}
        if self._contract.aligned:
            both = [letter for letter in self._contract.aligned if letter in sizes]
            sizes |= dict.fromkeys(both, min(sizes[letter] for letter in both))
            padded |= dict.fromkeys(set(both) & set(padded), max(padded.get(letter, 0) for letter in both))
        lengths = {}
        for (name, entry), length in zip(self._lengths.items(), given, strict=True):
            of = [letter for letter in entry.of.split() if letter in sizes]  # the others only a model knows
            counted = {letter: _counted(name, length, sizes[letter]) for letter in of}
            sizes |= counted
            relative_to = padded.get(entry.of)
            as_given = np.asarray(length, np.float32)
            lengths[name] = relative(counted[entry.of], relative_to) if relative_to else as_given
        to = tuple(
            tuple(
                padded[base] + more if base in padded else size
                for size, (base, more) in zip(shape, terms, strict=True)
            )
            if terms
            else shape
            for shape, terms in zip(shapes, self._terms.values(), strict=True)
        )
        dtypes = self._dtypes.values()
        bytes_ = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(to, dtypes, strict=True))
        first = next(iter(self._padded), None)
        size = math.prod(shapes[0]) if first is None else sizes[first]
        return Fit(to, bytes_, size, sizes, lengths, self._weights(sizes))

    def _weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """What an item weighs in each total, where sizes say it."""
        stars = [letter for letter in sizes if letter.startswith("X")]
        weights = {}
        for name, total in self.totals.items():
            if total.kind.endswith("mean") and total.by not in self._named:
                letters = total.by.split()
                counted = [*letters, *(stars if "*" in letters else ())]
                weights[name] = float(math.prod(sizes.get(letter, 1) for letter in counted))
        return weights

    def _sizes(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """The size behind each letter of an item."""
        sizes: dict[str, int] = {}
        agree = True
        for shape, terms in zip(shapes, self._terms.values(), strict=True):
            agree &= len(shape) == len(terms) or not terms
            for size, (base, more) in zip(shape, terms, strict=False):
                agree &= sizes.setdefault(base, size - more) == size - more and not base.isdigit()
        if agree:
            return sizes
        given = dict(zip(self._axes, shapes, strict=True))
        return self._contract.sizes(
            {entry.name: self._with_batch(name, given[name]) for name, entry in self._entries.items()}
        )

    def _item_terms(self, name: str) -> list[tuple[str, int]]:
        """The letters of an item's dimensions, each with how much more than its size there is."""
        terms = [letter.partition("+") for letter in self._letters.get(name, ()) if letter != "B"]
        return [(base, int(more or 0)) for base, _, more in terms]

    def _with_batch(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an item's array in a batch of one."""
        axis = self._axes[name]
        return shape if axis is None else (*shape[:axis], 1, *shape[axis:])

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
            for place, array in zip(batch, arrays, strict=True) if shape else ():
                place[tuple(map(slice, array.shape))] = array
            if not shape:
                batch[:] = arrays
            feed[name] = np.moveaxis(batch, 0, axis) if axis else batch
        return feed

    @property
    def kinds(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """The dtype of each column of `values`, or of `kept`, and how many dimensions a row of it has."""
        if self.whole:
            return {name: (self.session.dtype(name), 1) for name in self._axes}
        parts = {name for name in self.columns if name in self.session.dims and name not in self.totals}
        ranks = {name: len(self.session.dims[name]) - self.together for name in parts}
        return {name: (np.dtype(np.float64), ranks.get(name, 0)) for name in self.columns}

    def kept(self, items: Sequence[Ready]) -> dict[str, list[np.ndarray]]:
        """What is kept of each item where the graph sees all at once, in the end: its arrays."""
        return {name: [item.arrays[name] for item in items] for name in self._axes}

    def values(self, items: Sequence[Ready], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What each item gave: the columns of `columns`, a row an item."""
        found = {}
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
            weights = np.array([self._weight(total, item) for item in items])
            if output.ndim == 1 and not total.each:
                found[name] = output.astype(np.float64)
            else:
                pairs = zip(output, weights.tolist(), strict=True)
                found[name] = np.array([item_value(total, each, weight) for each, weight in pairs])
            if total.kind.endswith("mean"):
                found[weight_of(name)] = weights
        return found

    def _weight(self, total: Total, item: Ready) -> float:
        """What an item weighs in `total`."""
        if total.by in self._named and total.kind.endswith("mean"):
            return math.fsum(np.ravel(item.arrays[self._named[total.by]]).tolist())
        return item.fit.weights.get(total.output, 1.0)


def _by_graph(loss: Loss) -> dict[str, Total]:
    """How the graph's outputs add up, under its own names for them."""
    found = {}
    for name, total in loss.contract.totals_of(loss.settings).items():
        parts = (
            " ".join(loss.outputs[part] for part in total.by.split()) if total.kind in COMPOSED else total.by
        )
        found[loss.outputs[name]] = replace(total, output=loss.outputs[name], by=parts)
    return found


def _number(name: str, array: np.ndarray) -> float:
    """A relative length as a number."""
    if array.shape or array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: got {array.dtype} of shape {list(array.shape)}, expected a number")
    return float(array)


def _counted(name: str, length: float, size: int) -> int:
    """How much of `size` a relative length is."""
    counted = round(length * size) if math.isfinite(length) else -1
    if not 0 <= counted <= size or abs(length * size - counted) > _WHOLE:
        raise ValueError(f"{name}: got {length:g} of {size}, expected a whole number of at most {size}")
    return counted
