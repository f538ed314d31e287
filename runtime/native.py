"""The operator library: where it is, and how a session gets it."""

import os
import sys
import warnings
from typing import Literal

import onnxruntime

import exportable_losses

_VARIABLE = "EXPORTABLE_LOSSES_LIBRARY"
_NAME = {"win32": "exportable_losses.dll", "darwin": "libexportable_losses.dylib"}.get(
    sys.platform, "libexportable_losses.so"
)


def library_path() -> str | None:
    """The operator library of this package, or nothing where the package was installed without one.

    The environment variable ``EXPORTABLE_LOSSES_LIBRARY`` names another one.

    Raises:
        FileNotFoundError: the variable names a file that is not there.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        if not os.path.isfile(named):
            raise FileNotFoundError(f"{_VARIABLE}: got {named}, expected the operator library")
        return os.path.abspath(named)
    folders = (os.path.join(folder, "lib") for folder in exportable_losses.__path__)
    paths = (os.path.join(folder, _NAME) for folder in folders)
    return next((path for path in paths if os.path.isfile(path)), None)


def register(options: onnxruntime.SessionOptions, native: Literal["auto"] | bool) -> str | None:
    """Give the sessions that are made with `options` the operator library, as `native` asks for it.

    Returns:
        The path of the library, or nothing if the sessions do without.

    Raises:
        ValueError: `native` is neither ``True``, ``False`` nor ``"auto"``.
        RuntimeError: `native` is true, and no library is installed or it does not load.
    """
    if native not in (True, False, "auto"):
        raise ValueError(f"native: got {native!r}, expected True, False or 'auto'")
    path = library_path() if native else None
    if path is None:
        if native is True:
            raise RuntimeError(
                "native: got True, but no operator library is installed; install the package where there "
                f"is a C++ compiler, name a library in {_VARIABLE}, or use native='auto'"
            )
        return None
    try:
        options.register_custom_ops_library(path)
    except Exception as error:  # whatever a foreign or broken library makes of it
        if native is True:
            raise RuntimeError(f"native: got True, but {path} does not load: {error}") from error
        warnings.warn(
            f"{path} does not load, so sessions run without it: {error}", RuntimeWarning, stacklevel=3
        )
        return None
    return path
