"""What a corpus adds up to, item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from exportable_losses.contract import Total

from .sums import ExactSum

COMPOSED = ("ratio", "plus", "calibration")


def weight_of(column: str) -> str:
    """The name of the column with the weights of `column`."""
    return f"{column}_weight"


def columns_of(totals: Mapping[str, Total]) -> list[str]:
    """The columns of a table of items: each output that adds up, and what else the totals are made of."""
    parts = [part for total in totals.values() if total.kind in COMPOSED for part in total.by.split()]
    weighted = [weight_of(name) for name, total in totals.items() if total.kind.endswith("mean")]
    return list(dict.fromkeys([*totals, *parts, *weighted]))


def item_value(total: Total, output: np.ndarray, weight: float) -> float:
    """The value of one item.

    Args:
        total: how the output adds up.
        output: what the row gave for this item.
        weight: what the item weighs.
    """
    summed = math.fsum(np.ravel(output).tolist())
    return summed / (weight if total.each else output.size)


def terms(totals: Mapping[str, Total], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is summed over items, float64 `[N]` or `[N, K]`, by the name of the column it comes from."""
    found: dict[str, np.ndarray] = {}
    for name, total in totals.items():
        values = np.asarray(columns[name], np.float64)
        if total.kind in ("mean", "exp_mean"):
            weights = np.asarray(columns[weight_of(name)], np.float64)
            with np.errstate(divide="ignore"):
                values = np.log(values) if total.kind == "exp_mean" else values
            found[name], found[weight_of(name)] = values * weights, weights
        elif total.kind == "sum":
            found[name] = values
        elif total.kind == "calibration":
            found |= {part: np.asarray(columns[part], np.float64) for part in total.by.split()}
    return found


def composed(totals: Mapping[str, Total], sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The totals that many sums of `terms` come to, side by side.

    Args:
        totals: how each output adds up.
        sums: by name, `[R]` or `[R, K]`.

    Returns:
        Each output's `[R]`; NaN where there is nothing to divide by.
    """
    found: dict[str, np.ndarray] = {}
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for name, total in totals.items():
            if total.kind == "sum":
                found[name] = sums[name]
            elif total.kind in ("mean", "exp_mean"):
                mean = sums[name] / sums[weight_of(name)]
                found[name] = np.exp(mean) if total.kind == "exp_mean" else mean
            elif total.kind == "calibration":
                gaps, frames = total.by.split()
                found[name] = np.abs(sums[gaps]).sum(-1) / sums[frames]
        for name, total in totals.items():
            if total.kind in ("ratio", "plus"):
                one, other = (found[part] for part in total.by.split())
                found[name] = one + other if total.kind == "plus" else one / other
    return {name: found[name] for name in totals if name in found}


class Totals:
    """The running totals of a corpus. Neither the order of the items nor how they come changes a bit.

    Args:
        totals: how each output adds up.
    """

    def __init__(self, totals: Mapping[str, Total]) -> None:
        self._totals = totals
        self.columns = columns_of(totals)
        self._sums: dict[str, list[ExactSum]] = {}
        self.items = 0

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add items: the `columns`, one row an item."""
        self.items += len(next(iter(columns.values())))
        for name, values in terms(self._totals, columns).items():
            self._add(name, values)

    def _add(self, name: str, values: np.ndarray) -> None:
        """Add rows of numbers, each column of them to a sum of its own."""
        table = np.asarray(values, np.float64).reshape(len(values), -1)
        sums = self._sums.setdefault(name, [ExactSum() for _ in range(table.shape[1])])
        for total, column in zip(sums, table.T, strict=True):
            total.add(column)

    def result(self) -> dict[str, dict[str, Any]]:
        """Each output's `value` over the corpus, the `numerator` and `denominator` it is the quotient of, and
        how it adds up: `kind` and `by` of its `Total`.

        Raises:
            ValueError: a denominator is zero: no item has anything that counts.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, total in self._totals.items():
            if total.kind == "sum":
                found[name] = {"value": self._value(name)}
            elif total.kind in ("mean", "exp_mean"):
                found[name] = _quotient(name, self._value(name), self._value(weight_of(name)))
                if total.kind == "exp_mean":
                    found[name]["value"] = math.exp(found[name]["value"])
            elif total.kind == "calibration":
                gaps, frames = total.by.split()
                apart = math.fsum(abs(gap.value) for gap in self._sums.get(gaps, []))
                found[name] = _quotient(name, apart, self._value(frames))
        for name, total in self._totals.items():
            if total.kind in ("ratio", "plus"):
                one, other = (found[part]["value"] for part in total.by.split())
                found[name] = {"value": one + other} if total.kind == "plus" else _quotient(name, one, other)
        return {
            name: {"kind": total.kind, "by": total.by, **found[name]}
            for name, total in self._totals.items()
            if name in found
        }

    def _value(self, name: str) -> float:
        return self._sums[name][0].value if name in self._sums else 0.0


def _quotient(name: str, numerator: float, denominator: float) -> dict[str, Any]:
    if denominator == 0:
        raise ValueError(f"{name}: got nothing to divide by, expected at least one item that counts")
    return {"value": numerator / denominator, "numerator": numerator, "denominator": denominator}
