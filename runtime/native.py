"""The operator library: where it is, and how a session gets it."""

import warnings
from typing import Literal

import onnxruntime

from exportable_losses.library import library_path, load


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
                "is a C++ compiler, name a library in EXPORTABLE_LOSSES_LIBRARY, or use native='auto'"
            )
        return None
    try:
        load(path)
        options.register_custom_ops_library(path)
    except Exception as error:  # whatever a foreign or broken library makes of it
        if native is True:
            raise RuntimeError(f"native: got True, but {path} does not load: {error}") from error
        warnings.warn(
            f"{path} does not load, so sessions run without it: {error}", RuntimeWarning, stacklevel=3
        )
        return None
    return path
