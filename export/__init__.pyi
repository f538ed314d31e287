from .executorch import to_executorch as to_executorch
from .joint import attach as attach
from .onnx import to_onnx as to_onnx
from .pt2 import to_pt2 as to_pt2
from .torchscript import to_torchscript as to_torchscript
from .translation import add_bodies as add_bodies
from .translation import translations as translations

__all__ = ["add_bodies", "attach", "to_executorch", "to_onnx", "to_pt2", "to_torchscript", "translations"]
