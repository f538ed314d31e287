"""Hold exported files to the test data beside them, on any runtime. Reads the files and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from exportable_losses.runtime import compare
from exportable_losses.runtime.parity import Difference
from exportable_losses.runtime.testdata import data_sets, exported, read_test_data

from ..formats.errors import Absent, one_line
from .runners import DEFAULT, RUNNERS
from .runners.face import Case, Outputs


@dataclass(frozen=True)
class Check:
    """One output of one file against what the test data say, or what kept it from being compared.

    Args:
        row: the file, without its suffix.
        runtime: what ran it.
        output: its name; empty where the file did not run.
        difference: how far it is off, where it could be compared.
        problem: what is wrong; empty where all is well.
    """

    row: str
    runtime: str
    output: str = ""
    difference: Difference | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem


@dataclass(frozen=True)
class Validation:
    """What `validate` has found.

    Args:
        versions: of each runtime that is here, by name.
        absent: why each other one is not.
        checks: one for each output, one with a problem for each file that could not be run; none where
            there are no files.
        untested: the files that have no test data, which were not run.
    """

    versions: dict[str, str]
    absent: dict[str, str]
    checks: list[Check]
    untested: list[Path] = field(default_factory=list)


def validate(
    path: Path, on: Sequence[str] | None = None, *, rtol: float = 2e-5, atol: float = 2e-5
) -> Validation:
    """Run every file at `path` that one of the runtimes reads on its test data.

    Args:
        path: a file, or a folder, which is searched with all folders in it; test data stand beside each file:
            see `data_sets`.
        on: the runtimes, by name: see `RUNNERS`. Without it those of `DEFAULT` for which there are files.
        rtol: how far an output may be off, in units of its largest magnitude.
        atol: how far an output may be off at least.

    Raises:
        ValueError: there is no such runtime.
    """
    if on is None:
        on = [name for name in DEFAULT if exported(path, RUNNERS[name].suffix)]
    for name in on:
        if name not in RUNNERS:
            raise ValueError(f"on: got {name!r}, expected some of {', '.join(RUNNERS)}")
    found = Validation({}, {}, [])
    for runner in [RUNNERS[name] for name in dict.fromkeys(on)]:
        try:
            found.versions[runner.name] = runner.version()
        except Absent as error:
            found.absent[runner.name] = one_line(error)
            continue
        cases = []
        for row, file in exported(path, runner.suffix):
            of_file = _cases(row, file)
            if not of_file and file not in found.untested:
                found.untested.append(file)
            for case in of_file:
                if isinstance(case, str):
                    found.checks.append(Check(row, runner.name, problem=case))
                else:
                    cases.append(case)
        try:
            for case, got in zip(cases, runner.run(cases), strict=True):
                found.checks.extend(_compare(case, runner.name, got, rtol, atol))
        except ImportError as error:  # it is installed, and does not load
            del found.versions[runner.name]
            found.absent[runner.name] = f"it does not load: {one_line(error)}"
    found.checks.sort(key=lambda check: check.row.lower())
    return found


def _cases(row: str, path: Path) -> list[Case | str]:
    """A file with each set of its test data, or what is wrong with that; nothing where there is none."""
    cases: list[Case | str] = []
    for data in data_sets(path):
        try:
            inputs, expected = read_test_data(data)
        except Exception as error:
            cases.append(f"{data.name}: {one_line(error)}")
            continue
        if path.suffix != ".onnx":  # a graph alone has its gradients as outputs
            expected = {name: array for name, array in expected.items() if not name.startswith("grad_")}
        cases.append(Case(row, path, data, inputs, expected))
    return cases


def write_junit(found: Validation, path: Path) -> None:
    """Write the JUnit XML that build servers read; files without test data are skipped tests."""
    checks, failed = found.checks, [check for check in found.checks if not check.ok]
    skipped = len(found.untested)
    counts = {"tests": str(len(checks) + skipped), "failures": str(len(failed)), "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "exportable-losses validate", **counts})
    for check in checks:
        name = f"{check.row} {check.output}".strip()
        case = ElementTree.SubElement(suite, "testcase", {"classname": check.runtime, "name": name})
        if not check.ok:
            ElementTree.SubElement(case, "failure", {"message": check.problem})
    for file in found.untested:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "test data", "name": str(file)})
        ElementTree.SubElement(case, "skipped", {"message": "no test data beside it"})
    ElementTree.indent(suites)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def _compare(case: Case, runtime: str, got: Outputs, rtol: float, atol: float) -> list[Check]:
    if isinstance(got, str):
        return [Check(case.row, runtime, problem=got)]
    if set(got) != set(case.expected):
        problem = f"gave {', '.join(got)}, expected {', '.join(case.expected) or 'none'}"
        return [Check(case.row, runtime, problem=problem)]
    checks = []
    for difference in compare(got, case.expected):
        name = difference.output
        problem = _problem(got[name], case.expected[name], difference, rtol, atol)
        checks.append(Check(case.row, runtime, name, difference, problem))
    return checks


def _problem(got: np.ndarray, expected: np.ndarray, difference: Difference, rtol: float, atol: float) -> str:
    if got.dtype != expected.dtype:
        return f"is {got.dtype}, expected {expected.dtype}"
    if got.shape != expected.shape:
        return f"has the shape {list(got.shape)}, expected {list(expected.shape)}"
    if not difference.within(rtol, atol):
        return f"off by {difference.absolute:.2g}"
    return ""
