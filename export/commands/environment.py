"""What is installed and who computes. Any part may be absent: each stands alone.

A package is imported where that answers a question, and not for its version.
"""

import importlib.util
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import exportable_losses

# what is imported, and the name that it is installed under
_PACKAGES = {
    "numpy": "numpy",
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "pyarrow": "pyarrow",
    "numba": "numba",
    "numba_cuda": "numba-cuda",
    "torchaudio": "torchaudio",
}

# ONNX's model of one node, an Identity from x to y: what a session is made of where none is at hand.
_MODEL = (
    b'\x08\x08:/\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0b\n\x01x\x12\x06\n\x04\x08\x01\x12\x00'
    b"b\x0b\n\x01y\x12\x06\n\x04\x08\x01\x12\x00B\x04\n\x00\x10\x12"
)


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
    """The version of a package, which is not imported."""
    if importlib.util.find_spec(module) is None:
        return "not installed"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # onnxruntime-gpu brings onnxruntime
        names = metadata.packages_distributions().get(module, ())
        return ", ".join(f"{metadata.version(name)} of {name}" for name in names) or "unknown"


def _operator_library() -> dict[str, str]:
    from exportable_losses.library import about, library_path

    path = library_path()
    if path is None:
        return {"problem": "the package was installed without it (no C++ compiler was found)"}
    found = {"path": path, **_or_why(lambda: about(path))}
    return found if "problem" in found else {**found, "onnxruntime": _taken()}


def _taken() -> str:
    """Whether ONNX Runtime makes sessions with the library, or why not."""
    try:
        _make_session()
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # whatever it says of a library of another version
        return f"cannot load it: {_first_line(error)}"
    return "loads it"


def _make_session() -> None:
    import onnxruntime

    from exportable_losses.runtime.native import register
    from exportable_losses.runtime.session import session_options

    options = session_options(threads=1)
    register(options, native=True)
    onnxruntime.InferenceSession(_MODEL, options, providers=["CPUExecutionProvider"])


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
