"""One sentence where a package is missing: which extra of this one brings it."""

from collections.abc import Callable
from typing import Any

# What each extra brings, by the names that are imported; the first that has a package is the smallest.
_BRINGS = {
    "torch": ("torch",),
    "runtime": ("onnxruntime",),
    "export": ("torch", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "rich", "typer"),
    "corpus": ("fsspec", "jinja2", "matplotlib", "pyarrow"),
    "ray": ("ray", "pandas"),
}


def remedy(error: ModuleNotFoundError, extra: str) -> tuple[str, str | None]:
    """The package that is missing, and the command that installs it.

    Args:
        error: what importing it raised.
        extra: the extra to name if it has the package, or else the first that has; no command if none has.
    """
    package = (error.name or "").partition(".")[0]
    found = next((each for each in (extra, *_BRINGS) if package in _BRINGS[each]), None)
    return package, found and f"pip install 'exportable-losses[{found}]'"


def explained(module: str, extra: str, find: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap `find`, the `__getattr__` of a lazy module, so that an error says what to install."""

    def __getattr__(name: str) -> Any:
        try:
            return find(name)
        except ModuleNotFoundError as error:
            package, command = remedy(error, extra)
            if command is None:
                raise
        raise ModuleNotFoundError(f"{module}.{name} needs {package}: {command}", name=package)

    return __getattr__
