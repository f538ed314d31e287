"""Where the native library is. No torch here: the runtime asks too."""

import os
import sys
from pathlib import Path

_NAMES = {"win32": "exportable_losses.dll", "darwin": "libexportable_losses.dylib"}


def library_path() -> str | None:
    """The shared library with the native kernels, or None where the package was built without.

    `EXPORTABLE_LOSSES_LIBRARY` names another one; empty, it says that there is none.
    """
    given = os.environ.get("EXPORTABLE_LOSSES_LIBRARY")
    if given is not None:
        return given or None
    # an editable install keeps compiled files beside the installed package, not beside the sources
    for folder in (Path(__file__).parent, *(Path(p, "exportable_losses") for p in sys.path)):
        path = folder / "lib" / _NAMES.get(sys.platform, "libexportable_losses.so")
        if path.is_file():
            return str(path)
    return None
