"""Programs of `torch.export` compiled by AOTInductor, in a fresh process that has torch alone."""

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ...formats.errors import Absent, one_line
from . import torch_alone
from .face import Case, Outputs, Runner


def version() -> str:
    """That of torch.

    Raises:
        Absent: there is no torch, or no compiler.
    """
    version = torch_alone.version()
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise Absent(
            f"AOTInductor compiles with a C++ compiler, and there is no {compiler}; CXX names another"
        )
    return version


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where packages are as long as this process is: the same ones run in Python and in C++."""
    return tempfile.TemporaryDirectory()


def packages(cases: Sequence[Case]) -> list[Case | str]:
    """Each case with its program compiled, or why it is not."""
    paths = [Path(_folder().name, f"{sha256(case.path.read_bytes()).hexdigest()}.pt2") for case in cases]
    new = {package: case for package, case in zip(paths, cases, strict=True) if not package.exists()}
    jobs = [(str(case.path.resolve()), str(package)) for package, case in new.items()]
    problems = dict(zip(new, torch_alone.call("compile", jobs), strict=True))
    return [
        one_line(problem) if (problem := problems.get(package)) else replace(case, path=package)
        for package, case in zip(paths, cases, strict=True)
    ]


def _run(cases: Sequence[Case]) -> list[Outputs]:
    compiled = packages(cases)
    found = iter(torch_alone.run("package", [case for case in compiled if isinstance(case, Case)]))
    return [case if isinstance(case, str) else next(found) for case in compiled]


RUNNER = Runner("aotinductor", ".pt2", "AOTInductor in Python, torch alone", version, _run)
