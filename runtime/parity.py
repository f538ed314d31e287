"""How far two computations of the same outputs are apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exportable_losses.legal import is_floating


@dataclass(frozen=True)
class Difference:
    """The largest differences of one output.

    Args:
        output: its name.
        absolute: the largest absolute difference.
        relative: the largest difference relative to the expected value.
        ulp: the largest difference in units in the last place of `scale`. A small element among large ones
            was added up from such, so that its own last place says nothing.
        scale: the largest magnitude expected.
        shapes_agree: whether the shapes are equal; without that every difference is infinite.
        half: whether the expected numbers have 16 bits.
    """

    output: str
    absolute: float
    relative: float
    ulp: float
    scale: float
    shapes_agree: bool = True
    half: bool = False

    def within(self, rtol: float = 2e-5, atol: float = 2e-5) -> bool:
        """Whether it is no more than `atol`, or `rtol` of the largest magnitude, or one place of 16 bits."""
        close = self.absolute <= max(atol, rtol * self.scale) or (self.half and self.ulp <= 1)
        return self.shapes_agree and close


def compare(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[Difference]:
    """A parity report: the largest differences of each output.

    Equal infinities, and two NaNs, have a difference of zero; an infinity or NaN on one side only has an
    infinite one.

    Args:
        got: outputs by name, from a runtime.
        expected: outputs by name, from eager torch, for example.

    Raises:
        ValueError: the names differ.

    Examples:
        >>> import numpy as np
        >>> [d] = compare({"loss": np.float32(1.0)}, {"loss": np.float32(1.5)})
        >>> d.absolute, d.relative
        (0.5, 0.3333333333333333)
    """
    if set(got) != set(expected):
        raise ValueError(f"got: {', '.join(sorted(got))}, expected {', '.join(sorted(expected))}")
    return [_difference(name, np.asarray(got[name]), np.asarray(expected[name])) for name in expected]


def _difference(output: str, got: np.ndarray, expected: np.ndarray) -> Difference:
    if got.shape != expected.shape:
        return Difference(output, np.inf, np.inf, np.inf, 0.0, shapes_agree=False)
    a, b = got.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gap = np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.inf))
        relative = np.where(np.isinf(gap), np.inf, np.where(same, 0.0, gap / np.abs(b)))
    finite = np.abs(b[np.isfinite(b)])
    absolute, relative_most, scale = (float(x.max(initial=0.0)) for x in (gap, relative, finite))
    floating = expected.dtype if is_floating(expected.dtype) else np.dtype(np.float64)
    half = floating.itemsize == 2
    ulp = absolute / _last_place(np.asarray(scale).astype(floating))
    return Difference(output, absolute, relative_most, ulp, scale, half=half)


def _last_place(scale: np.ndarray) -> float:
    """From `scale` to the next number of its dtype; of the largest, which has none, to the one before."""
    with np.errstate(over="ignore"):
        place = float(np.spacing(scale))
    return place if np.isfinite(place) else float(scale) - float(np.nextafter(scale, np.zeros_like(scale)))
