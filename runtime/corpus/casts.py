"""Numbers in the dtype that a graph takes: a list of Python's comes as float64 out of a Parquet file."""

from __future__ import annotations

from typing import Any

import numpy as np

from exportable_losses.legal import is_floating, refuse

from ..session import cast


class Casts:
    """Casts arrays, and remembers which inputs were rounded.

    `rounded` has, by input, what came and what the graph takes.
    """

    def __init__(self) -> None:
        self.rounded: dict[str, tuple[str, str]] = {}

    def __call__(self, name: str, array: np.ndarray, wanted: np.dtype[Any]) -> np.ndarray:
        """`array` in the dtype `wanted`: float64 is rounded, and no other number may change.

        Raises:
            TypeError: one of another dtype would.
            ValueError: a number is too large.
        """
        if array.dtype != np.float64 or wanted == np.float64 or not is_floating(wanted):
            return cast(name, array, wanted)
        with np.errstate(over="ignore"):
            found = array.astype(wanted)
        refuse(name, array, np.isinf(found) & np.isfinite(array), f"a number that {wanted} holds")
        self.rounded[name] = (array.dtype.name, wanted.name)
        return found
