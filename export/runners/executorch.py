"""ExecuTorch from Python, in the environment that has it."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from . import torch_alone
from .face import Absent, Case, Outputs, Runner, one_line

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
