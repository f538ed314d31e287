"""What a row takes and returns, and the check of it. No torch here: the runtime reads it too.

A `Contract` names the inputs and outputs of a row, their dimensions by letter and the values
that are legal. Eager modules check it before they compute, an exported file carries it as
metadata, and the runtime checks arrays against what the file says.

Dimensions are written as a string: ``"B T C"`` three dimensions, ``"B T? C"`` two or three
(every ``?`` of a row is there, or none), ``"B T *"`` two or more
(``X0``, ``X1`` are the letters of what ``*`` stands for), ``"B T U+1 V"`` one more
than ``U``, ``"B T? * 1?"`` a last dimension of size 1 where the tensor has one more than the
other ``*`` inputs. A letter stands for one size throughout a row.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .legal import FLOATING as FLOATING
from .legal import INTEGER, begun, blanks, check_lengths, check_one_size, check_type, illegal, refuse, whole
from .legal import LEGAL as LEGAL


@dataclass(frozen=True)
class Input:
    """One input of a row.

    Args:
        name: the argument's name in `forward`.
        dims: its dimensions by letter, see the module's text.
        legal: which values are legal, a key of `LEGAL`.
        optional: whether `forward` runs without it.
        below: the letter of the size that bounds an index or a count.
        lengths: the input with the lengths of this one.
        nonempty: whether there must be at least one element, within `lengths` where there are some.
        of: of a length, the letters of the sizes that it counts; a relative one is relative to them.
    """

    name: str
    dims: str
    legal: str = "real"
    optional: bool = False
    below: str = ""
    lengths: str = ""
    nonempty: bool = False
    of: str = ""

    @property
    def dtype(self) -> str:
        """The dtype of the example: ``"float32"`` or ``"int64"``."""
        return "int64" if self.legal in INTEGER else "float32"

    @property
    def is_length(self) -> bool:
        """Whether it holds lengths, relative ones as floating point and absolute ones as integers."""
        return self.legal.startswith("relative_length")

    @property
    def masks(self) -> bool:
        """Whether a frame that a relative length covers in part counts; else the length is rounded."""
        return self.optional

    @property
    def bounded(self) -> bool:
        """Whether some numbers are illegal here (a NaN aside)."""
        return self.legal in ("index", "count", "range") or self.is_length

    @property
    def fixed(self) -> int:
        """The number of dimensions that are always there."""
        return sum(term != "*" and not term.endswith("?") for term in self.dims.split())

    def letters(self, rank: int, spare: bool = False) -> list[str]:
        """The letters of the dimensions for a tensor of `rank`, ``*`` spelled out.

        `spare` says whether the last dimension, a ``1?`` behind ``*``, is there.
        """
        letters = self.dims.split()
        if "*" in letters and letters[-1] == "1?":
            letters = letters[:-1] + ["1"] * spare
        if "*" in letters:
            at = letters.index("*")
            letters[at : at + 1] = [f"X{i}" for i in range(rank - len(letters) + 1)]
        if rank < len(letters):
            letters = [letter for letter in letters if not letter.endswith("?")]
        if rank != len(letters):
            expected = ", ".join(self.dims.split())
            raise ValueError(f"{self.name}: got {rank} dimensions, expected the dimensions ({expected})")
        return [letter.rstrip("?") for letter in letters]


@dataclass(frozen=True)
class Total:
    """How the values of one output add up over a corpus.

    The total is what the row gives for all items as one batch, however they were batched. An item's
    value is what the row gives for it alone.

    Args:
        output: its name.
        kind: ``mean`` of the items' values, each with its weight; ``exp_mean`` of their logarithms, and
            back; ``sum``; or made of the totals of other outputs: ``ratio`` of two, ``plus`` of two,
            ``calibration`` of the gaps of bins and the number of frames. ``whole`` does not add up: the
            items' inputs are joined along their only dimension, and the row sees all at once.
        by: what an item weighs: the letters whose sizes, within its lengths, are multiplied (``*`` for
            those it stands for), or the input that is summed; without any an item weighs one. Of ``ratio``,
            ``plus`` and ``calibration`` the outputs that it is made of.
        each: whether the output has a number for each of what `by` counts, not their mean.
        only: settings, with their values, without which the output does not add up.
    """

    output: str
    kind: str = "mean"
    by: str = ""
    each: bool = False
    only: tuple[tuple[str, Any], ...] = ()

    def reduced(self, reduction: str | None) -> Total:
        """The same for a module with this `reduction`."""
        if self.kind != "mean":
            return self
        if not self.by:  # of costs per item
            return replace(self, kind="sum") if reduction == "sum" else self
        if reduction == "batchmean":
            return replace(self, by="")
        return replace(self, each=self.each or reduction in ("sum", "none"))  # both give the loss unreduced


@dataclass(frozen=True)
class Contract:
    """The inputs and outputs of a row.

    Args:
        inputs: in the order of `forward`.
        outputs: the names of what it returns.
        differentiable: the inputs that a gradient flows to.
        aligned: two letters whose sizes may differ by `allowed_len_diff`.
        any_rank: whether one ``*`` may stand for more dimensions than another.
        totals: how the outputs add up over a corpus; those that are not here do not.
        classes: the letter of the classes that the blank is one of, where the first input does not end in it.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] = ("loss",)
    differentiable: tuple[str, ...] = ()
    aligned: tuple[str, str] | tuple[()] = ()
    any_rank: bool = False
    totals: tuple[Total, ...] = ()
    classes: str = ""

    def to_json(self) -> dict[str, Any]:
        """The contract as what JSON can hold."""
        data = asdict(self)
        if not self.classes:
            del data["classes"]
        for entry in data["inputs"]:
            for younger in ("nonempty", "of"):  # who does not know them reads the file too
                if not entry[younger]:
                    del entry[younger]
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Contract:
        """The contract that `to_json` wrote."""
        return Contract(
            tuple(Input(**entry) for entry in data["inputs"]),
            tuple(data["outputs"]),
            tuple(data["differentiable"]),
            tuple(data["aligned"]),
            bool(data["any_rank"]),
            tuple(Total(**{**t, "only": tuple(map(tuple, t["only"]))}) for t in data.get("totals", ())),
            data.get("classes", ""),
        )

    def fitted(self, settings: Mapping[str, Any]) -> Contract:
        """The contract of a module with these settings, which say how many durations stand behind V
        tokens.
        """
        if "durations" not in settings:
            return self
        number = len(settings["durations"])
        wide = f"V+{number}" if number else "V"
        return replace(
            self, inputs=tuple(replace(e, dims=re.sub(r"\bV(\+\d+)?", wide, e.dims)) for e in self.inputs)
        )

    def totals_of(self, settings: Mapping[str, Any]) -> dict[str, Total]:
        """How each output of a module with these settings adds up over a corpus."""
        return {
            total.output: total.reduced(settings.get("reduction"))
            for total in self.totals
            if all(settings.get(name, value) == value for name, value in total.only)
        }

    def letters(self, ranks: Mapping[str, int]) -> dict[str, list[str]]:
        """The letters of each input's dimensions, for the inputs that `ranks` has.

        Raises:
            ValueError: a tensor has a wrong number of dimensions.
        """
        key = tuple(ranks.items())
        if key in self._letters:
            return self._letters[key]
        given = [entry for entry in self.inputs if entry.name in ranks]
        starred = [ranks[entry.name] for entry in given if "*" in entry.dims]
        spare = {
            entry.name: entry.dims.endswith("1?") and ranks[entry.name] == max(starred) == min(starred) + 1
            for entry in given
        }
        letters = {entry.name: entry.letters(ranks[entry.name], spare[entry.name]) for entry in given}
        if not self.any_rank:
            self._check_ranks({name: rank - spare[name] for name, rank in ranks.items()})
        self._letters[key] = letters
        return letters

    @functools.cached_property
    def _letters(self) -> dict[tuple[tuple[str, int], ...], dict[str, list[str]]]:
        """What `letters` found before: thousands of batches have the same ranks."""
        return {}

    def _check_ranks(self, ranks: Mapping[str, int]) -> None:
        """Every ``*`` of a row stands for as many dimensions; every other ``?`` is there, or none."""
        flexible = [e for e in self.inputs if e.name in ranks and len(e.dims.split()) > e.fixed]
        for entry in flexible:
            first = next(e for e in flexible if ("*" in e.dims) == ("*" in entry.dims))
            rank, expected = ranks[entry.name], ranks[first.name] - first.fixed + entry.fixed
            if rank != expected:
                reason = f"where {first.name} has {ranks[first.name]}"
                raise ValueError(f"{entry.name}: got {rank} dimensions, expected {expected} {reason}")

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The size behind each letter.

        Raises:
            ValueError: a shape has a wrong rank, or two shapes disagree.
        """
        sizes: dict[str, int] = {}
        origin: dict[str, str] = {}
        for name, letters in self.letters({name: len(shape) for name, shape in shapes.items()}).items():
            for axis, (letter, size) in enumerate(zip(letters, shapes[name], strict=True)):
                letter, _, extra = letter.partition("+")
                more = int(extra or 0)
                expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size - more) + more
                if size != expected:
                    raise ValueError(
                        f"{name}: got size {size} along dimension {axis} ({letter}), expected "
                        f"{expected}" + (f", the size in {origin[letter]}" if letter in origin else "")
                    )
                origin.setdefault(letter, name)
        return sizes

    def check_types(self, dtypes: Mapping[str, Any]) -> None:
        """Refuse a dtype, of numpy or of torch, that an input does not take.

        Raises:
            TypeError: the message names the input, what it got and what it expected.
        """
        for entry in self.inputs:
            if entry.name in dtypes:
                check_type(entry.name, entry.legal, dtypes[entry.name])

    def check(
        self,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        *,
        refuse_nan: bool = False,
        values: bool = True,
        known: Mapping[str, int] | None = None,
    ) -> None:
        """Raise a clear error where `arrays` are not what the row takes.

        Args:
            arrays: what came, by name; where one is missing, what it alone would show is not looked at.
                Anything with a `shape` where `values` is false.
            settings: the row's settings; those of blanks and `allowed_len_diff` are read.
            refuse_nan: whether a NaN is an error, or a score of plus infinity.
            values: whether to look at values; shapes and dtypes are always looked at.
            known: sizes by letter, beside those that the arrays show.

        Raises:
            TypeError: names the input, its dtype and what was expected.
            ValueError: the message names the input, what it got and what it expected.
        """
        self.check_types({name: array.dtype for name, array in arrays.items()})
        found = self.sizes({name: tuple(array.shape) for name, array in arrays.items()})
        sizes = {**(known or {}), **found}
        if self.aligned:
            self._check_aligned(sizes, int(settings.get("allowed_len_diff", 3)))
        if "blank_index" in settings:
            self._check_blanks(sizes, blanks(settings))
        for entry in self.inputs:
            if entry.nonempty and entry.name in arrays and 0 in arrays[entry.name].shape:
                raise ValueError(f"{entry.name}: got no elements, expected at least one")
        given = [entry for entry in self.inputs if entry.name in arrays]
        for entry in given:
            counted = [sizes["T"]] if entry.legal == "signal" and "T" in sizes else []
            if entry.legal == "relative_length":
                counted = self.measured(entry, arrays, settings, sizes)
            if 0 in counted:
                raise ValueError(f"{entry.name}: got no frames, expected at least one")
        if sizes.get("S") == 0 and not any(entry.lengths for entry in self.inputs):  # no labels: sources
            raise ValueError(f"{given[0].name}: got no sources, expected at least one")
        for entry in filter(_counts, given):
            check_one_size(
                entry.name, arrays[entry.name].dtype, self.measured(entry, arrays, settings, sizes)
            )
        if not values:
            return
        for entry in given:
            if _counts(entry):
                most = self.measured(entry, arrays, settings, sizes)
                check_lengths(entry.name, entry.legal, arrays[entry.name], most)
        for entry in given:
            array, classes = arrays[entry.name], sizes.get(entry.below)
            for wrong, expected in illegal(entry.legal, array, classes, settings, refuse_nan):
                if wrong.any():  # what lies behind an item's length is padding and may be anything
                    refuse(entry.name, array, wrong & self._within(entry, arrays, settings), expected)
            lengths = arrays.get(entry.lengths)
            if entry.nonempty and lengths is not None and not whole(lengths, array.shape[1]).any():
                expected = "expected at least one element within them"
                raise ValueError(f"{entry.lengths}: got zeros alone, {expected} in {entry.name}")

    def spans(
        self, length: Input, ranks: Mapping[str, int], settings: Mapping[str, Any]
    ) -> dict[str, tuple[int, int]]:
        """The inputs whose frames a length counts: along which dimension, and how many more there are."""
        others = {e.name for e in self.inputs if e.name in ranks and e.dims != "B"}
        if "len_dim" in settings:
            axis, kernel = settings["len_dim"], settings.get("kernel_size", 1)
            # of an image there are more rows and columns than of its Laplacian
            return {name: (axis, kernel - 1 if axis >= ranks[name] - 2 else 0) for name in others}
        counted = {*length.of.split()} if length.is_length else {length.below}
        if counted & {*self.aligned}:  # the longer of two is cut
            counted |= {*self.aligned}
        found = {}
        for name, letters in self.letters(ranks).items():
            for axis, letter in enumerate(letters):
                base, _, more = letter.partition("+")
                if base in counted and name in others:
                    found[name] = axis, int(more or 0)
        return found

    def measured(
        self,
        length: Input,
        arrays: Mapping[str, Any],
        settings: Mapping[str, Any],
        known: Mapping[str, int],
    ) -> list[int]:
        """The sizes that a length counts, as far as they are known: one as a rule."""
        spans = self.spans(length, {name: len(array.shape) for name, array in arrays.items()}, settings)
        found = {arrays[name].shape[axis] - more for name, (axis, more) in spans.items()}
        found = found or {known[letter] for letter in length.of.split() if letter in known}
        return [min(found)] if found and self.aligned else sorted(found)

    def converted(
        self,
        length: Input,
        wanted: np.dtype[Any],
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        known: Mapping[str, int],
    ) -> np.ndarray:
        """Lengths as relative ones where `wanted` is floating point, as absolute ones where it is not.

        Raises:
            TypeError: they are of the other kind, and what they count is not known.
            ValueError: one is out of range.
        """
        lengths = arrays[length.name]
        relative = wanted.kind == "f"
        if (lengths.dtype.kind == "f") == relative:
            return (
                lengths.astype(wanted) if relative else lengths
            )  # of float32 too the same fraction is meant
        sizes = self.measured(length, arrays, settings, known)
        check_one_size(length.name, lengths.dtype, sizes)
        check_lengths(length.name, length.legal, lengths, sizes)
        if len(sizes) != 1:
            expected = f"{wanted}, since the size that they count is not known before the graph runs"
            raise TypeError(f"{length.name}: got {lengths.dtype}, expected {expected}")
        if relative:
            return (lengths / max(sizes[0], 1)).astype(wanted)
        return (begun if length.masks else whole)(lengths, sizes[0])

    def _within(
        self, entry: Input, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> np.ndarray:
        """Which values of an input count: what lies behind an item's lengths may be anything."""
        shape = arrays[entry.name].shape
        ranks = {name: len(array.shape) for name, array in arrays.items()}
        within = np.ones(shape, bool)
        if settings.get("label_smoothing", 0) > 0 and not settings.get("mask_length", True):
            return within  # SpeechBrain's smoothed divergence reads all
        for length in filter(_counts, self.inputs):
            span = self.spans(length, ranks, settings).get(entry.name)
            if span is None or length.name not in arrays:
                continue
            axis, more = span
            batch = self.letters(ranks)[entry.name].index("B")
            size = self.measured(length, arrays, settings, {})[0] if self.aligned else shape[axis] - more
            counted = (begun if length.masks else whole)(arrays[length.name], size) + more
            behind = np.arange(shape[axis]) >= counted[:, None]
            np.moveaxis(within, (batch, axis), (0, 1))[behind] = False
        return within

    def _check_aligned(self, sizes: Mapping[str, int], allowed: int) -> None:
        one, other = (sizes.get(letter) for letter in self.aligned)
        if one is None or other is None or abs(one - other) <= allowed:
            return
        first, second = (
            next(e.name for e in self.inputs if letter in e.dims.replace("?", "").split())
            for letter in self.aligned
        )
        raise ValueError(
            f"{second}: got length {other} where {first} has {one}, expected a difference of at "
            f"most allowed_len_diff={allowed}"
        )

    def _check_blanks(self, sizes: Mapping[str, int], blanks: range) -> None:
        scores = self.inputs[0].dims.split()[-1].partition("+")[0]  # they come first, classes last
        classes = sizes.get(self.classes or scores)
        if classes is not None and not len(blanks) - 1 <= blanks[-1] < classes:
            got, least = blanks[-1], len(blanks) - 1
            raise ValueError(f"blank_index: got {got}, expected an index in [{least}, {classes - 1}]")


def _counts(entry: Input) -> bool:
    """Whether it holds lengths."""
    return entry.is_length or entry.legal == "count"
