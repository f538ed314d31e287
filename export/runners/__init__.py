"""The runtimes that exported files are checked on, one small runner for each."""

from . import cpp, onnxruntime, openvino, ort_format, reference, torchscript
from .face import Absent, Case, Outputs, Runner

RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        onnxruntime.RUNNER,
        cpp.ONNXRUNTIME,
        cpp.ARM64,
        ort_format.RUNNER,
        openvino.RUNNER,
        reference.RUNNER,
        torchscript.RUNNER,
        cpp.LIBTORCH,
    )
}
DEFAULT = ("onnxruntime", "torchscript")
__all__ = ["DEFAULT", "RUNNERS", "Absent", "Case", "Outputs", "Runner"]
