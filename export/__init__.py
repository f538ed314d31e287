"""From a module to files: TorchScript, ONNX, and the test data that proves them."""

from .onnx import to_onnx
from .torchscript import to_torchscript

__all__ = ["to_onnx", "to_torchscript"]
