"""The runtimes that exported files are checked on, one small runner for each."""

from . import chromium, node, onnxruntime, torchscript
from .face import Absent, Case, Outputs, Runner

_ALL = (onnxruntime.RUNNER, node.NODE, node.WEB, chromium.RUNNER, torchscript.RUNNER)
RUNNERS: dict[str, Runner] = {runner.name: runner for runner in _ALL}
DEFAULT = ("onnxruntime", "torchscript")
__all__ = ["DEFAULT", "RUNNERS", "Absent", "Case", "Outputs", "Runner"]
