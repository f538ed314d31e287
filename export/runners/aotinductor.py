"""Programs of `torch.export` compiled by AOTInductor, in a fresh process that has torch alone."""

import os
import shutil
import sys
from functools import partial

from . import torch_alone
from .face import Absent, Runner


def _version() -> str:
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise Absent(
            f"AOTInductor compiles with a C++ compiler, and there is no {compiler}; CXX names another"
        )
    return torch_alone.version()


RUNNER = Runner(
    "aotinductor",
    ".pt2",
    "AOTInductor in Python, torch alone",
    _version,
    partial(torch_alone.run, "aotinductor"),
)
