"""Where the native library is. No torch here: the runtime asks too."""

import os
import sys

_VARIABLE = "EXPORTABLE_LOSSES_LIBRARY"
_NAME = {"win32": "exportable_losses.dll", "darwin": "libexportable_losses.dylib"}.get(
    sys.platform, "libexportable_losses.so"
)


def library_path() -> str | None:
    """The native library of this package, or nothing where the package was installed without one.

    The environment variable ``EXPORTABLE_LOSSES_LIBRARY`` names another one.

    Raises:
        FileNotFoundError: the variable names a file that is not there.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        if not os.path.isfile(named):
            raise FileNotFoundError(f"{_VARIABLE}: got {named}, expected the native library")
        return os.path.abspath(named)
    import exportable_losses

    folders = (os.path.join(folder, "lib") for folder in exportable_losses.__path__)
    paths = (os.path.join(folder, _NAME) for folder in folders)
    return next((path for path in paths if os.path.isfile(path)), None)
