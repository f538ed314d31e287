"""ExecuTorch from Python, in the environment that has it."""

from collections.abc import Sequence

from ...formats.errors import Absent, one_line
from ...formats.executorch_elsewhere import VARIABLE, call, run
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
    try:
        return torch_alone.outputs(cases, run([(case.path, torch_alone.tensors(case)) for case in cases]))
    except RuntimeError as error:
        return [one_line(error)] * len(cases)


RUNNER = Runner("executorch", ".pte", "ExecuTorch, Python, portable kernels", _version, _run)
