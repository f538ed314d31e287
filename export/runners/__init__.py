"""The runtimes that exported files are checked on, one small runner for each."""

from . import aotinductor, executorch, onnxruntime, pt2, torchscript
from .face import Absent, Case, Outputs, Runner

RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        onnxruntime.RUNNER,
        torchscript.RUNNER,
        pt2.RUNNER,
        aotinductor.RUNNER,
        executorch.RUNNER,
    )
}
DEFAULT = ("onnxruntime", "torchscript", "pt2")
__all__ = ["DEFAULT", "RUNNERS", "Absent", "Case", "Outputs", "Runner"]
