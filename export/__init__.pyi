from .joint import attach as attach
from .onnx import to_onnx as to_onnx
from .torchscript import to_torchscript as to_torchscript

__all__ = ["attach", "to_onnx", "to_torchscript"]
