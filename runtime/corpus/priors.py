"""Label priors: how probable each class is in a corpus, by the model's scores of it.

They are the mean of exp(`log_probs`) over all frames. What is divided by them no longer prefers a blank that
is everywhere: Huang et al. 2024, https://arxiv.org/abs/2406.02560.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import check_regular
from ..npy import array_of
from .batches import Batches, Items

TOLERANCE = 1e-3  # by how much probabilities may miss one in sum


class Probabilities:
    """The probabilities of each class, added up over the frames of a window.

    An item is added up alone and in its own order, and the items of a window without rounding, so that no
    order of theirs and no batch changes a bit.

    Args:
        batches: of a graph that takes `log_probs` `[B, T, C]`.

    Raises:
        ValueError: it does not, or they are not known outside of it.
    """

    def __init__(self, batches: Batches) -> None:
        loss = batches.session.losses[0]
        taken = {entry.name: entry.dims for entry in loss.contract.inputs}
        if taken.get("log_probs") != "B T C" or "log_probs" in loss.computed:
            given = "a graph that makes them itself" if loss.computed else ", ".join(taken)
            raise ValueError(f"priors: got {given}, expected a graph that takes log_probs [B, T, C]")
        self._name = loss.names["log_probs"]
        self._forget()

    def _forget(self) -> None:
        self._sums: list[np.ndarray] = []
        self._frames = self._left_out = 0

    def add(self, items: Items, rows: np.ndarray) -> None:
        """Add items of a batch: those that are `rows` of the window."""
        items = items.part(np.isin(items.rows, rows))
        for array, frames in zip(items.columns[self._name], items.size.tolist(), strict=True):
            sums = np.exp(array[:frames].astype(np.float64)).sum(0)
            if abs(sums.sum() - frames) > TOLERANCE * frames:  # logits, which have no probabilities
                self._left_out += 1
            else:
                self._sums.append(sums)
                self._frames += frames

    def take(self) -> dict[str, Any]:
        """What has been added since the last time: frames, sums by class, and how many items are left out."""
        sizes = sorted({len(sums) for sums in self._sums})
        if len(sizes) > 1:
            raise ValueError(
                f"priors: got items of {sizes[0]} and of {sizes[-1]} classes, expected as many in all"
            )
        found = {"frames": self._frames, "sums": _exact(self._sums), "left_out": self._left_out}
        self._forget()
        return found


def estimated(windows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The priors of a corpus, of what `Probabilities.take` gave for each of its windows.

    A class that comes to less than one frame counts as one, so that its logarithm is finite; then all are
    divided by their sum.

    Returns:
        `log_priors`, natural logarithms; `frames`, how many there were; `left_out`, how many items were not
        counted, since exp of their scores does not add up to one.
    """
    some = list(windows)
    found = {name: sum(each[name] for each in some) for name in ("frames", "left_out")}
    counts = [max(count, 1.0) for count in _exact([each["sums"] for each in some if each["sums"]])]
    total = math.fsum(counts)
    return {**found, "log_priors": [math.log(count / total) for count in counts]}


def _exact(rows: list[Any]) -> list[float]:
    """The sum of each column, rounded once."""
    return [math.fsum(column) for column in zip(*rows, strict=True)]


def read_priors(path: str | os.PathLike[str]) -> np.ndarray:
    """The log-priors in a ``.npy`` file, as ``score --priors`` writes them.

    Raises:
        OSError: it is not there.
        ValueError: it is no vector of natural logarithms of probabilities that add up to one.
    """
    check_regular("priors", path)
    try:
        found = array_of(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(
            f"priors: got {os.fspath(path)}, which is no .npy file of numbers: {error}"
        ) from error
    if found.ndim != 1 or found.dtype.kind != "f" or not found.size:
        got = f"got {found.dtype} of shape {list(found.shape)}"
        raise ValueError(f"priors: {got}, expected a floating-point vector, a number for each class")
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.exp(found.astype(np.float64)).sum())
    if not np.isfinite(found).all() or not abs(total - 1) <= TOLERANCE:
        got = f"got numbers from {found.min():.4g} to {found.max():.4g} whose exp adds up to"
        raise ValueError(f"priors: {got} {total:.4g}, expected natural logarithms of probabilities")
    return found
