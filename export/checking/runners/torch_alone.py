"""Files of torch in a fresh process that has torch alone."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...formats.errors import one_line
from .face import Case, Outputs, installed, named

if TYPE_CHECKING:
    import torch

CODE = Path(__file__).with_name("torch_only.py").read_text()


def version() -> str:
    """That of torch.

    Raises:
        Absent: there is none.
    """
    return installed("torch", "torch")


def call(what: str, jobs: Sequence[Any]) -> list[Any]:
    """What `torch_only` makes of each job; the same message for all where its process ends."""
    if not jobs:
        return []
    import torch

    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder) / "jobs", Path(folder) / "results"
        torch.save(list(jobs), given)
        done = fresh_process(what, str(given), str(results))
        if done.returncode != 0:
            problem = f"the process with torch alone ended with {done.returncode}: {one_line(done.stderr)}"
            return [problem] * len(jobs)
        found: list[Any] = torch.load(results)
        return found


def fresh_process(what: str, jobs: str, results: str) -> subprocess.CompletedProcess[str]:
    """`torch_only` with these words, in the folder of the results."""
    command = [sys.executable, "-W", "ignore", "-c", CODE, what, jobs, results]
    return subprocess.run(command, cwd=Path(results).parent, capture_output=True, text=True)


def run(loader: str, cases: Sequence[Case]) -> list[Outputs]:
    """The outputs of each file, loaded as `torch_only` does by that name."""
    return outputs(cases, call(loader, [(str(case.path.resolve()), tensors(case)) for case in cases]))


def tensors(case: Case) -> "dict[str, torch.Tensor]":
    """The inputs, by name."""
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in case.inputs.items()}


def outputs(cases: Sequence[Case], found: "Sequence[list[torch.Tensor] | str]") -> list[Outputs]:
    """What a process gave for each case: tensors in order, or what went wrong."""
    return [
        one_line(result) if isinstance(result, str) else named(case, [tensor.numpy() for tensor in result])
        for case, result in zip(cases, found, strict=True)
    ]
