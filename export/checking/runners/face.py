"""What a runner is: a runtime that is given files with their test data, and gives outputs back.

A runner loads its runtime when it runs: those of the others need not be here.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from exportable_losses.missing import install

from ...formats.errors import Absent

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


def installed(package: str, extra: str) -> str:
    """The version of a package.

    Raises:
        Absent: it is not here; the message says which extra brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise Absent(install(extra))
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # under another name: onnxruntime-gpu
        return str(getattr(importlib.import_module(package), "__version__", "unknown"))


def named(case: Case, arrays: Sequence[Any]) -> Outputs:
    """The outputs of a runtime that knows them by their order."""
    if len(arrays) != len(case.expected):
        return f"gave {len(arrays)} outputs, expected {', '.join(case.expected)}"
    return dict(zip(case.expected, arrays, strict=True))
