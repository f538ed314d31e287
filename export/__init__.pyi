from .formats.errors import VerificationError as VerificationError
from .formats.executorch import to_executorch as to_executorch
from .formats.onnx import to_onnx as to_onnx
from .formats.pt2 import to_pt2 as to_pt2
from .formats.torchscript import to_torchscript as to_torchscript
from .joint.attach import attach as attach
from .nodes.translation import add_bodies as add_bodies
from .nodes.translation import translations as translations

__all__ = [
    "VerificationError",
    "add_bodies",
    "attach",
    "to_executorch",
    "to_onnx",
    "to_pt2",
    "to_torchscript",
    "translations",
]
