"""Exported files for tests to read: each is made once, for all workers of pytest-xdist and for later runs.

A file's folder is named after all that it depends on (sources, libraries, module, inputs), so that what has
changed is exported again. Nobody writes to these folders: a test that breaks a file copies it.
"""

import contextlib
import functools
import hashlib
import inspect
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.export import to_onnx, to_pt2, to_torchscript
from exportable_losses.library import library_path

ROOT = Path(__file__).parents[1]
_STORE = ROOT / "build" / "tests" / "exports"
_DAY = 24 * 3600.0
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "numpy")
# what every module has, and the weights of recurrent layers once more
_OF_TORCH = {*vars(nn.Module()), "_flat_weights", "_flat_weight_refs"}


def onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor] | None = None,
    gradients: Sequence[str] | Literal["all"] = (),
) -> Path:
    """A graph with its test data beside it; without `inputs` of the catalog's example."""
    inputs = _example(module) if inputs is None else inputs
    name = digest(module, inputs, ".onnx", gradients)
    return _file(name, ".onnx", lambda path: to_onnx(module, path, inputs, gradients=gradients))


def torchscript(module: nn.Module, *, custom_ops: bool = False) -> Path:
    """A script."""
    name = digest(module, {}, ".pt", custom_ops)
    return _file(name, ".pt", lambda path: to_torchscript(module, path, custom_ops=custom_ops))


def pt2(module: nn.Module, inputs: Mapping[str, Tensor] | None = None) -> Path:
    """An archive of `torch.export`, whose numbers are for the test to look at: to load one costs as much."""
    inputs = _example(module) if inputs is None else inputs
    name = digest(module, inputs, ".pt2")
    return _file(name, ".pt2", lambda path: to_pt2(module, path, inputs, verify=False))


def _example(module: nn.Module) -> dict[str, Tensor]:
    entry = catalog.find(module)
    assert entry is not None
    return entry.example_inputs(blank_index=catalog.settings_of(module).get("blank_index"))


def _file(name: str, suffix: str, write: Callable[[Path], object]) -> Path:
    folder = _folder() / name
    if not folder.exists():
        new = Path(tempfile.mkdtemp(dir=_folder()))
        try:
            write(new / f"model{suffix}")
            with contextlib.suppress(OSError):  # another worker was faster
                new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder / f"model{suffix}"


@functools.cache
def _folder() -> Path:
    """The folder of what is as it is now; those that no run has begun with for a day are removed."""
    folder = _STORE / _KEY
    folder.mkdir(parents=True, exist_ok=True)
    folder.touch()
    for older in _STORE.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            if older.stat().st_mtime < time.time() - _DAY:
                shutil.rmtree(older, ignore_errors=True)
    return folder


def key(root: Path = ROOT) -> str:
    """A name for the sources under `root`, the libraries and this Python."""
    found = hashlib.sha256(repr((sys.version, [metadata.version(name) for name in _LIBRARIES])).encode())
    sources = [path for folder in ("exportable_losses", "export") for path in (root / folder).rglob("*.py")]
    for path in sorted(sources):
        found.update(repr((path.relative_to(root).as_posix(), path.read_bytes())).encode())
    if native := library_path():  # it computes the test data
        found.update(Path(native).read_bytes())
    return found.hexdigest()[:16]


_KEY = key()  # of the sources that are loaded, not of what they become while tests run


def digest(module: nn.Module, inputs: Mapping[str, Tensor], *options: Any) -> str:
    """A name for a module with all that it holds, its inputs, and how it is exported."""
    found = hashlib.sha256(repr(options).encode())
    tensors = [*module.named_parameters(), *module.named_buffers(), *inputs.items()]
    for name, part in module.named_modules():
        kind = type(part)
        known = getattr(sys.modules[kind.__module__], kind.__name__, None)
        assert known is kind, f"{kind} is made in a function, and may close over what is seen nowhere here"
        own = {k: v for k, v in sorted(vars(part).items()) if k not in _OF_TORCH}
        tensors += [(k, v) for k, v in own.items() if isinstance(v, Tensor)]
        plain = {k: _named(v) for k, v in own.items() if not isinstance(v, Tensor)}
        assert " at 0x" not in repr(plain), f"{kind} holds {plain}, which has no name that lasts"
        found.update(repr((name, kind.__module__, kind.__qualname__, plain, _source(kind))).encode())
    for name, tensor in tensors:
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:24]


def _named(value: Any) -> Any:
    """A function of a library by its name, since its address does not last."""
    if not inspect.isfunction(value) or "<" in value.__qualname__:
        return value
    return f"{value.__module__}.{value.__qualname__}"


@functools.cache
def _source(kind: type) -> str:
    """That of a test's own module; the others belong to the package or to a library, which `key` has."""
    file = Path(inspect.getfile(kind)).resolve()
    return hashlib.sha256(file.read_bytes()).hexdigest()
