"""Losses and metrics for speech models that compute the same number everywhere.

Importing this package is cheap: torch loads when a module is touched, or names are listed.
"""

import contextlib
import os
import pkgutil
from importlib import import_module

from .missing import explained

__version__ = "0.1.0"

_here = os.path.dirname(__file__)
if not os.path.isdir(os.path.join(_here, "runtime")):
    # In the source tree export/ and runtime/ stand beside this folder. An installed copy comes last: it has
    # the native library.
    __path__ = pkgutil.extend_path([_here, os.path.dirname(_here)], __name__)

_SUBMODULES = ("catalog", "functional", "speechbrain")


def _find(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name == "__all__" or name[:1].isupper():  # a class: looking for anything else must load no torch
        classes = import_module(f"{__name__}.catalog").classes()
        if name == "__all__":
            return [*_SUBMODULES, *classes, "__version__"]
        if name in classes:
            return classes[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__getattr__ = explained(__name__, "torch", _find)


def __dir__() -> list[str]:
    names = {*globals(), *_SUBMODULES}
    with contextlib.suppress(ImportError):  # without torch there are no classes
        names.update(__getattr__("__all__"))
    return sorted(names)
