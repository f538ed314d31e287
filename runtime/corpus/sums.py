"""Sums without rounding, so that no order of the terms gives another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LEAST = 1074  # the least number above zero is 2**-1074: every other is a multiple


class ExactSum:
    """The sum of float64 numbers, exact until it is read.

    Every finite float64 is a whole number of 2**-1074; whole numbers of any size add up without
    rounding. Reading it rounds once, to the nearest.

    Examples:
        >>> total = ExactSum()
        >>> total.add([1e100, 1.0, -1e100])
        >>> total.value
        1.0
    """

    def __init__(self) -> None:
        self._units = 0
        self._beyond = 0.0  # what infinities and NaNs among the terms come to

    def add(self, terms: Any) -> None:
        """Add numbers of any shape."""
        values = np.asarray(terms, np.float64).ravel()
        finite = np.isfinite(values)
        if not finite.all():
            with np.errstate(invalid="ignore"):
                self._beyond += float(values[~finite].sum())
            values = values[finite]
        mantissas, exponents = np.frexp(values)
        whole = (mantissas * 2.0**53).astype(np.int64)
        for exponent in np.unique(exponents):
            these = whole[exponents == exponent]
            # in two halves: int64 holds the sum of 2**31 of each
            of_exponent = (int((these >> 32).sum()) << 32) + int((these & 0xFFFFFFFF).sum())
            shift = int(exponent) - 53 + _LEAST  # below zero for subnormal numbers, whose last bits are zero
            self._units += of_exponent << shift if shift >= 0 else of_exponent >> -shift

    @property
    def value(self) -> float:
        """The sum, rounded to the nearest float64; infinite where that is too large."""
        if self._beyond or math.isnan(self._beyond):
            return self._beyond
        try:
            return self._units / (1 << _LEAST)  # Python rounds the quotient of whole numbers correctly
        except OverflowError:
            return math.inf if self._units > 0 else -math.inf
