"""One sentence where a package is missing: which extra of this one brings it."""

from collections.abc import Callable
from typing import Any

# What each extra brings, by the names that are imported; the first that has a package is the smallest.
_BRINGS = {
    "torch": ("torch",),
    "runtime": ("onnxruntime",),
    "corpus": ("onnxruntime", "fsspec", "jinja2", "matplotlib", "pyarrow", "rich", "typer"),
    "export": ("torch", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "rich", "typer"),
    "ray": ("ray", "pandas"),
}


def install(extra: str) -> str:
    """How to get an extra; the package is on no index yet."""
    return f"pip install '.[{extra}]' in a clone of exportable-losses"


def remedy(error: ModuleNotFoundError, extra: str) -> tuple[str, str | None]:
    """The package that is missing, and how to get it.

    Args:
        error: what importing it raised.
        extra: the extra to name if it has the package, or else the first that has; nothing if none has.
    """
    package = (error.name or "").partition(".")[0]
    found = next((each for each in (extra, *_BRINGS) if package in _BRINGS[each]), None)
    return package, found and install(found)


def explained(module: str, extra: str, find: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap `find`, the `__getattr__` of a lazy module, so that an error says what to install."""

    def __getattr__(name: str) -> Any:
        try:
            return find(name)
        except ModuleNotFoundError as error:
            package, how = remedy(error, extra)
            if how is None:
                raise
        raise ModuleNotFoundError(f"{module}.{name} needs {package}: {how}", name=package)

    return __getattr__
