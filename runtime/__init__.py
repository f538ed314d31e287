"""Run exported losses anywhere: numpy and onnxruntime only, no torch. A corpus is read with pyarrow."""

import lazy_loader

from .parity import compare
from .plot import plot
from .session import LossSession

__getattr__, _, _ = lazy_loader.attach(
    __name__, submod_attrs={"corpus.running": ["score_corpus"], "corpus.scorer": ["Scorer"]}
)
__all__ = ["LossSession", "Scorer", "compare", "plot", "score_corpus"]
