"""The runtimes that exported files are checked on, one small runner for each."""

from ...formats.errors import Absent
from . import (
    aotinductor,
    chromium,
    cpp,
    executorch,
    node,
    onnxruntime,
    openvino,
    ort_format,
    pt2,
    reference,
    torchscript,
)
from .face import Case, Outputs, Runner

_ALL = (
    onnxruntime.RUNNER,
    cpp.ONNXRUNTIME,
    cpp.ARM64,
    ort_format.RUNNER,
    node.NODE,
    node.WEB,
    chromium.RUNNER,
    openvino.RUNNER,
    reference.RUNNER,
    torchscript.RUNNER,
    cpp.LIBTORCH,
    pt2.RUNNER,
    aotinductor.RUNNER,
    cpp.AOTINDUCTOR,
    executorch.RUNNER,
)
RUNNERS: dict[str, Runner] = {runner.name: runner for runner in _ALL}
DEFAULT = ("onnxruntime", "torchscript", "pt2", "executorch")  # one for each kind of file
__all__ = ["DEFAULT", "RUNNERS", "Absent", "Case", "Outputs", "Runner"]
