"""ExecuTorch, which may be in an environment of its own: the Python that has it, and a call of it."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import Absent, one_line

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "EXPORTABLE_LOSSES_EXECUTORCH"


def interpreter() -> str:
    """The Python that has ExecuTorch, if there is one.

    Raises:
        Absent: none is named, and this one has no ExecuTorch.
    """
    python = os.environ.get(VARIABLE) or sys.executable
    if python == sys.executable and importlib.util.find_spec("executorch") is None:
        raise Absent(f"pip install executorch, here or elsewhere; {VARIABLE} is the Python that has it")
    return python


def call(*words: str) -> str:
    """What `executorch_only` prints for `words`.

    Raises:
        Absent: there is no ExecuTorch.
        RuntimeError: it fails; the message says why.
    """
    code = Path(__file__).with_name("executorch_only.py").read_text()
    command = [interpreter(), "-W", "ignore", "-c", code, *words]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        except OSError as error:
            raise Absent(f"{VARIABLE} is no Python: {error}") from None
    if done.returncode != 0:
        raise RuntimeError(one_line(done.stderr) or f"it ended with {done.returncode}")
    return done.stdout


def run(
    jobs: "Sequence[tuple[Path, Mapping[str, Tensor]]]", lowered: tuple[Path, Path] | None = None
) -> "list[list[Tensor] | str]":
    """The outputs of each program for its inputs, or why there are none.

    Args:
        jobs: files and their inputs.
        lowered: an archive, and the program to make of it before.

    Raises:
        Absent: there is no ExecuTorch.
        RuntimeError: it does not take the archive, or its process ends.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder) / "jobs", Path(folder) / "results"
        in_order = [
            (str(path.resolve()), list(inputs.values())) for path, inputs in jobs
        ]  # it knows no names
        torch.save(in_order, given)
        made = [str(path.resolve()) for path in lowered or ()]
        call("lower" if made else "run", str(given), str(results), *made)
        found: list[list[Tensor] | str] = torch.load(results)
        return found
