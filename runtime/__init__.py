"""Run exported losses anywhere: numpy and onnxruntime only, no torch. A corpus is read with pyarrow."""

import lazy_loader

from exportable_losses.missing import explained

from .parity import compare as compare
from .plot import plot as plot  # at once: found later, its module would hide it

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = explained(__name__, "runtime", _find)
