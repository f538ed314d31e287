"""The runtimes that exported files are checked on, one small runner for each."""

from . import onnxruntime, torchscript
from .face import Absent, Case, Outputs, Runner

RUNNERS: dict[str, Runner] = {runner.name: runner for runner in (onnxruntime.RUNNER, torchscript.RUNNER)}
DEFAULT = ("onnxruntime", "torchscript")
__all__ = ["DEFAULT", "RUNNERS", "Absent", "Case", "Outputs", "Runner"]
