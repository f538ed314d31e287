"""Losses and metrics for speech models that compute the same number everywhere.

Importing this package is cheap: torch loads when a module is first touched.
"""

import os
import pkgutil

import lazy_loader

from .missing import explained

__version__ = "0.1.0"

_here = os.path.dirname(__file__)
if not os.path.isdir(os.path.join(_here, "runtime")):
    # In the source tree export/ and runtime/ stand beside this folder. An installed copy comes last: it has
    # the native library.
    __path__ = pkgutil.extend_path([_here, os.path.dirname(_here)], __name__)

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = explained(__name__, "torch", _find)
__all__ += ["__version__"]
