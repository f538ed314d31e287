"""What a runner is: a runtime that is given files with their test data, and gives outputs back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Outputs = Arrays | str  # by name, or why there are none


@dataclass(frozen=True)
class Case:
    """A file and one set of its test data.

    Args:
        row: the file, without its suffix.
        path: the file.
        data: the folder of the test data.
        inputs: by name, in the order of the file.
        expected: the outputs, the same.
    """

    row: str
    path: Path
    data: Path
    inputs: Arrays
    expected: Arrays


@dataclass(frozen=True)
class Runner:
    """A runtime.

    Args:
        name: as ``--on`` takes it.
        suffix: of the files that it reads.
        about: what it is, in a few words.
        version: says which one is here, or raises `Absent`.
        run: the outputs of each case, in order; whatever a file makes the runtime say is an output too.
    """

    name: str
    suffix: str
    about: str
    version: Callable[[], str]
    run: Callable[[Sequence[Case]], Iterable[Outputs]]


def named(case: Case, arrays: Sequence[Any]) -> Outputs:
    """The outputs of a runtime that knows them by their order."""
    if len(arrays) != len(case.expected):
        return f"gave {len(arrays)} outputs, expected {', '.join(case.expected)}"
    return dict(zip(case.expected, arrays, strict=True))
