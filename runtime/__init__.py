"""Run exported losses anywhere: numpy and onnxruntime only, no torch."""

from .parity import compare
from .plot import plot
from .session import LossSession

__all__ = ["LossSession", "compare", "plot"]
