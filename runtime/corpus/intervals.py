"""Confidence intervals of what a corpus adds up to, by a bootstrap that holds for few items too."""

from __future__ import annotations

import math

import numpy as np


def bootstrap(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The sums `[R, M]` of `table` `[N, M]` over R draws of N of its rows, with replacement.

    A draw at a time: its memory is that of N whole numbers, however many draws there are.
    """
    items, random = len(table), np.random.default_rng(seed)
    sums = np.empty((resamples, table.shape[1]))
    for i in range(resamples):
        times = np.bincount(random.integers(items, size=items), minlength=items)
        sums[i] = times @ table
    return sums


def influence(left_out: np.ndarray) -> np.ndarray:
    """How much of a number each item makes, by the jackknife; their mean is zero.

    Args:
        left_out: the number without each item, `[N]`.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return (len(left_out) - 1) * (left_out.mean() - left_out)


def interval(
    value: float,
    influences: np.ndarray,
    drawn: np.ndarray,
    means: np.ndarray,
    squares: np.ndarray,
    confidence: float,
) -> tuple[float, float]:
    """The confidence interval of a number that items make.

    The percentiles of a bootstrap hold the truth of five items 81 times in 100, where they should 95 times:
    they know nothing of how uncertain the spread itself is. So each draw is measured in standard errors of
    its own (the bootstrap-t of Efron 1982), and where Student's t is wider, that counts. One item tells
    nothing, nor do two or three: too many of their draws are of one alone.

    Args:
        value: the number.
        influences: of each item on it, `[N]`.
        drawn: what it came to in each draw, `[R]`.
        means: of the influences in each draw, `[R]`.
        squares: of their squares, `[R]`.
        confidence: that the truth is in the interval.
    """
    items = len(influences)
    if items == 1:
        return (value, value) if value == 0 else (-math.inf, math.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = math.sqrt(np.square(influences).mean() / (items - 1))
        if error == 0:
            return value, value
        errors = np.sqrt(np.maximum(squares - means**2, 0) / (items - 1))
        tiny = errors <= 1e-9 * error  # a draw of one item, again and again
        units = np.where(tiny, np.sign(drawn - value) * np.inf, (drawn - value) / errors)
    units = np.sort(np.where(np.isnan(units), 0, units))
    beyond = int(len(units) * (1 - confidence) / 2)
    least = student((1 + confidence) / 2, items - 1)
    low, high = min(units[beyond], -least), max(units[-1 - beyond], least)
    return float(value - high * error), float(value - low * error)


def student(share: float, freedom: int) -> float:
    """The number below which a `share` above one half of Student's t distribution lies.

    By bisection of its distribution, which is a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    freedom = min(freedom, 10_000)  # the same to four digits
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < 2 * share - 1 else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """How much of Student's t distribution lies within ``sqrt(freedom) * tan(angle)`` of zero."""
    odd, cos = freedom % 2, math.cos(angle)
    term = total = (cos if freedom > 1 else 0.0) if odd else 1.0
    for k in range(2 + odd, freedom, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
