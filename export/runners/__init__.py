"""The runtimes that exported files are checked on, one small runner for each."""

from . import onnxruntime, openvino, ort_format, reference, torchscript
from .face import Absent, Case, Outputs, Runner

RUNNERS: dict[str, Runner] = {
    module.RUNNER.name: module.RUNNER for module in (onnxruntime, ort_format, openvino, reference, torchscript)
}
DEFAULT = ("onnxruntime", "torchscript")
__all__ = ["DEFAULT", "RUNNERS", "Absent", "Case", "Outputs", "Runner"]
