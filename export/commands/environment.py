"""What is installed, what loads and who computes. Any part may be absent: each stands alone."""

import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import exportable_losses

# what is imported, and the name that it is installed under
_PACKAGES = {
    "numpy": "numpy",
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "numba": "numba",
    "numba_cuda": "numba-cuda",
    "torchaudio": "torchaudio",
}


def facts() -> dict[str, Any]:
    """All of it, as what JSON can hold."""
    return {
        "versions": {
            "exportable-losses": exportable_losses.__version__,
            "python": platform.python_version(),
            **{package: version(module, package) for module, package in _PACKAGES.items()},
        },
        "operator library": _or_why(_operator_library),
        "CUDA library": _or_why(_cuda_library),
        "computers": _or_why(_computers),
        "onnxruntime providers": _or_why(_providers),
    }


def version(module: str, package: str) -> str:
    """The version of a package that loads, or what is the matter with it."""
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"
        return f"{installed}, does not load: {_first_line(error)}"
    try:
        return str(getattr(loaded, "__version__", None) or importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _operator_library() -> dict[str, str]:
    from exportable_losses.library import library_path

    path = library_path()
    if path is None:
        return {"problem": "the package was installed without it (no C++ compiler was found)"}
    return {"path": path, **_or_why(_about_native)}


def _about_native() -> dict[str, str]:
    from exportable_losses.ops import native

    return native.about()


def _cuda_library() -> dict[str, str]:
    from exportable_losses.ops import cuda

    return cuda.about() or {"problem": cuda.MISSING}


def _computers() -> dict[str, Any]:
    from exportable_losses.ops.computers import overview

    return overview()


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ModuleNotFoundError as error:
        return {"problem": f"{error.name} is not installed"}
    except Exception as error:  # a library that is broken, or not where a variable says
        return {"problem": _first_line(error)}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
