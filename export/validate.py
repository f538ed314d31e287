"""Hold exported files to the test data beside them. Reads the files and nothing else."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from exportable_losses.runtime import LossSession, compare
from exportable_losses.runtime.parity import Difference

from .testdata import read_test_data

FORMATS = {".onnx": "onnx", ".pt": "torchscript"}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """One output of one file against what the test data say, or what kept it from being compared.

    Args:
        row: the file, without its suffix.
        format: ``onnx`` or ``torchscript``.
        output: its name; empty where the file did not run.
        difference: how far it is off, where it could be compared.
        problem: what is wrong; empty where all is well.
    """

    row: str
    format: str
    output: str = ""
    difference: Difference | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem


@dataclass(frozen=True)
class _Run:
    """A file and one set of its test data."""

    path: Path
    row: str
    inputs: Arrays
    expected: Arrays

    @property
    def format(self) -> str:
        return FORMATS[self.path.suffix]


def validate(folder: Path, *, rtol: float = 2e-5, atol: float = 2e-5) -> list[Check]:
    """Run every ``.onnx`` and ``.pt`` file under `folder` on its test data.

    ONNX files run in ONNX Runtime, TorchScript files in one fresh process that has torch alone.

    Args:
        folder: is searched with all its folders; test data stand beside a file, in
            ``test_data_set_*``.
        rtol: how far an output may be off, in units of its largest magnitude.
        atol: how far an output may be off at least.

    Returns:
        One check for each output, one with a problem for each file that could not be run; none
        where there are no files.
    """
    checks: list[Check] = []
    runs: list[_Run] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in FORMATS and p.is_file()):
        row = _row(path.relative_to(folder).with_suffix(""))
        data = sorted(path.parent.glob("test_data_set_*"))
        if not data:
            checks.append(Check(row, FORMATS[path.suffix], problem="no test_data_set_0 beside it"))
        for each in data:
            try:
                inputs, expected = read_test_data(each)
                if path.suffix == ".pt":  # a graph alone has its gradients as outputs
                    expected = {n: array for n, array in expected.items() if not n.startswith("grad_")}
                runs.append(_Run(path, row, inputs, expected))
            except Exception as error:
                checks.append(Check(row, FORMATS[path.suffix], problem=f"{each.name}: {_line(error)}"))
    graphs = [run for run in runs if run.format == "onnx"]
    scripts = [run for run in runs if run.format == "torchscript"]
    results = zip(graphs + scripts, [_run_onnx(run) for run in graphs] + _run_torch(scripts), strict=True)
    for run, got in results:
        checks += _compare(run, got, rtol, atol)
    return sorted(checks, key=lambda check: (check.row.lower(), check.format))


def write_junit(checks: Sequence[Check], path: Path) -> None:
    """Write `checks` as the JUnit XML that build servers read."""
    failed = [check for check in checks if not check.ok]
    counts = {"tests": str(len(checks)), "failures": str(len(failed))}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "exportable-losses validate", **counts})
    for check in checks:
        name = f"{check.row} {check.output}".strip()
        case = ElementTree.SubElement(suite, "testcase", {"classname": check.format, "name": name})
        if not check.ok:
            ElementTree.SubElement(case, "failure", {"message": check.problem})
    ElementTree.indent(suites)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def _row(path: Path) -> str:
    """``ctc_loss/ctc_loss`` is ``ctc_loss``."""
    return (path.parent if path.parent.name == path.name else path).as_posix()


def _run_onnx(run: _Run) -> Arrays | str:
    """The outputs, or why there are none."""
    try:
        return LossSession(run.path)(**run.inputs)
    except Exception as error:  # whatever a broken file makes a runtime say
        return _line(error)


def _run_torch(runs: Sequence[_Run]) -> list[Arrays | str]:
    """The same for TorchScript files, in one process of its own."""
    if not runs:
        return []
    with tempfile.TemporaryDirectory() as folder:
        jobs, results = Path(folder) / "jobs", Path(folder) / "results"
        torch.save([(str(run.path.resolve()), _tensors(run.inputs)) for run in runs], jobs)
        code = Path(__file__).with_name("torch_only.py").read_text()
        command = [sys.executable, "-W", "ignore", "-c", code, str(jobs), str(results)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            return [f"the process with torch alone ended with {done.returncode}: {_line(done.stderr)}"] * len(
                runs
            )
        found: list[list[torch.Tensor] | str] = torch.load(results)
    return [_named(run, result) for run, result in zip(runs, found, strict=True)]


def _named(run: _Run, result: list[torch.Tensor] | str) -> Arrays | str:
    if isinstance(result, str):
        return _line(result)
    if len(result) != len(run.expected):
        return f"gave {len(result)} outputs, expected {', '.join(run.expected)}"
    return {name: tensor.numpy() for name, tensor in zip(run.expected, result, strict=True)}


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _compare(run: _Run, got: Arrays | str, rtol: float, atol: float) -> list[Check]:
    if isinstance(got, str):
        return [Check(run.row, run.format, problem=got)]
    if set(got) != set(run.expected):
        problem = f"gave {', '.join(got)}, expected {', '.join(run.expected) or 'none'}"
        return [Check(run.row, run.format, problem=problem)]
    checks = []
    for difference in compare(got, run.expected):
        name = difference.output
        problem = _problem(got[name], run.expected[name], difference, rtol, atol)
        checks.append(Check(run.row, run.format, name, difference, problem))
    return checks


def _problem(got: np.ndarray, expected: np.ndarray, difference: Difference, rtol: float, atol: float) -> str:
    if got.dtype != expected.dtype:
        return f"is {got.dtype}, expected {expected.dtype}"
    if got.shape != expected.shape:
        return f"has the shape {list(got.shape)}, expected {list(expected.shape)}"
    if not difference.within(rtol, atol):
        return f"off by {difference.absolute:.2g}"
    return ""


def _line(error: Any) -> str:
    """The line of a message that says what went wrong, printable."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    telling = lines[-1] if any("Traceback" in line for line in lines) else lines[0]
    return "".join(c for c in telling.strip() if c.isprintable())
