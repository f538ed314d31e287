"""ExecuTorch from Python, in the environment that has it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ...formats.errors import Absent, one_line
from ...formats.executorch_elsewhere import VARIABLE, call
from . import torch_alone
from .face import Case, Outputs, Runner


def _version() -> str:
    try:
        return call("version").strip()
    except RuntimeError as error:
        raise Absent(f"the Python of {VARIABLE} has none: {error}") from None


def _run(cases: Sequence[Case]) -> list[Outputs]:
    if not cases:
        return []
    with tempfile.TemporaryDirectory() as folder:
        jobs, results = Path(folder) / "jobs", Path(folder) / "results"
        given = [list(torch_alone.tensors(case).values()) for case in cases]  # a program knows no names
        torch.save([(str(case.path.resolve()), of) for case, of in zip(cases, given, strict=True)], jobs)
        try:
            call("run", str(jobs), str(results))
        except RuntimeError as error:
            return [one_line(error)] * len(cases)
        return torch_alone.outputs(cases, torch.load(results))


RUNNER = Runner("executorch", ".pte", "ExecuTorch, Python, portable kernels", _version, _run)
