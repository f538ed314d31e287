"""Which numbers are legal as what, and the check of them. No torch here: the runtime reads it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

FLOATING = {
    "real": "any number",
    "log_probability": "log-probabilities",
    "probability": "probabilities",
    "signal": "samples of a signal; integers are taken too",
    "cosine": "cosines in [-1, 1]",
    "binary": "0 or 1, or anything between",
    "one_hot": "one row of zeros and a single one per item",
    "mask": "0 or 1",
    "position": "non-negative positions",
    "state": "what the call before gave",
    "relative_length": "relative lengths in (0, 1], or integers for absolute ones",
    "relative_length_or_zero": "relative lengths in [0, 1], or integers for absolute ones",
}
INTEGER = {
    "index": "class indices",
    "count": "integer lengths",
    "token": "any integers",
    "range": "consecutive numbers of labels",
}
LEGAL = FLOATING | INTEGER

_FLOATS = ("float32", "float64")
_HALVES = ("float16", "bfloat16")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# Of what is not here, any number is taken, and where it says yes or no a bool too.
_TYPES = {
    **dict.fromkeys(INTEGER, ("integers", _INTEGERS)),
    **dict.fromkeys(("log_probability", "cosine", "state"), ("floating point", (*_FLOATS, *_HALVES))),
    **dict.fromkeys(("binary", "one_hot", "mask"), ("numbers", (*_FLOATS, *_HALVES, *_INTEGERS, "bool"))),
    # of a thousand frames 16 bits lose some
    **dict.fromkeys(
        ("relative_length", "relative_length_or_zero"),
        ("float32, float64 or integers", (*_FLOATS, *_INTEGERS)),
    ),
}
_INFINITE = {"float16": 0x7C00, "bfloat16": 0x7F80}  # plus infinity; the NaNs are above
_ANY = ("numbers", (*_FLOATS, *_HALVES, *_INTEGERS))


def check_type(name: str, legal: str, dtype: Any) -> None:
    """Refuse a dtype, of numpy or of torch, that an input does not take.

    Raises:
        TypeError: the message names the input, what it got and what it expected.
    """
    expected, types = _TYPES.get(legal, _ANY)
    got = getattr(dtype, "name", str(dtype).removeprefix("torch."))
    if got not in types:
        raise TypeError(f"{name}: got {got}, expected {expected}: {LEGAL[legal]}")


def refuse(name: str, array: np.ndarray, wrong: np.ndarray, expected: str) -> None:
    """Say where `array` is `wrong`, if it is anywhere."""
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name}: got {array[where]} at {list(where)}, expected {expected}")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether numbers are floating point; numpy does not count those of bfloat16."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def whole(lengths: np.ndarray, size: int) -> np.ndarray:
    """Lengths in frames or labels, as `lengths.absolute_length` has them: int64."""
    if lengths.dtype.kind != "f":
        return lengths.astype(np.int64)
    near = np.round(lengths * size).astype(np.int64)
    product = np.round(lengths * (1 << 30)).astype(np.int64) * size
    return np.where(near < 1 << 22, near, (product + (1 << 29)) >> 30)


def begun(lengths: np.ndarray, size: int) -> np.ndarray:
    """The same, where a frame that is covered in part counts, as `lengths.frame_mask` has it."""
    frames = whole(lengths, size)
    if lengths.dtype.kind != "f":
        return frames
    covered = lengths * size
    return np.maximum(frames, np.ceil(covered - (1e-6 + covered / (1 << 22))).astype(np.int64))


def blanks(settings: Mapping[str, Any]) -> range:
    """The classes that are no labels: the blank, and big blanks below it."""
    blank = int(settings["blank_index"])
    return range(blank - len(settings.get("big_blank_durations", ())), blank + 1)


def check_one_size(name: str, dtype: object, sizes: Sequence[int]) -> None:
    """Refuse absolute lengths of what has several sizes."""
    if len(sizes) > 1 and "int" in str(dtype):
        expected = f"sizes are {' and '.join(map(str, sizes))}, expected relative lengths"
        raise ValueError(f"{name}: got integers where the {expected}")


def check_lengths(name: str, legal: str, array: np.ndarray, sizes: Sequence[int]) -> None:
    """Refuse lengths that are out of range, where that is known."""
    least = int(legal == "relative_length")
    if array.dtype.kind == "f":
        wrong = ~(((array > 0) if least else (array >= 0)) & (array <= 1))
        refuse(name, array, wrong, LEGAL[legal])
        return
    if not sizes:
        refuse(name, array, array < least, f"integer lengths of at least {least}")
        return
    refuse(name, array, (array < least) | (array > sizes[0]), f"integer lengths in [{least}, {sizes[0]}]")


def illegal(
    legal: str,
    array: np.ndarray,
    classes: int | None,
    settings: Mapping[str, Any],
    refuse_nan: bool,
) -> Iterator[tuple[np.ndarray, str]]:
    """The values that an input must not have within its lengths, and what is expected of them."""
    if legal == "index":
        if classes is not None:
            classes += settings.get("wildcard", "none") != "none"  # which is the label behind the classes
            yield (array < 0) | (array >= classes), f"an index in [0, {classes - 1}]"
        if "blank_index" in settings:
            first, blank = blanks(settings)[0], blanks(settings)[-1]
            big = f" and the big blanks below it, from {first}" if first < blank else ""
            yield (array >= first) & (array <= blank), f"labels other than blank_index={blank}{big}"
    elif legal == "range":
        yield array < 0, "numbers of labels, of at least 0"
        skipped = np.zeros(array.shape, bool)
        skipped[..., 1:] = array[..., 1:] != array[..., :-1] + 1
        yield skipped, "one more than the number before"
    elif refuse_nan and array.size:
        infinite = _INFINITE.get(array.dtype.name)
        if infinite is not None:  # numpy is slow at numbers of 16 bits
            bits = array.view(np.uint16)
            yield ((bits & 0x7FFF) > infinite) | (bits == infinite), LEGAL[legal]
        # the largest of some numbers is a NaN if one is: quicker than to look at each
        elif array.dtype.kind == "f" and not array.max() < np.inf:
            yield np.isnan(array) | (array == np.inf), LEGAL[legal]
