"""What is round a trace: silence, and nothing done twice."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch._export.utils
from torch.onnx._internal.exporter import _registration


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence what an exporter says of itself (missing torchvision, its progress, deprecations)."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Spare the exporter a third of its time, which goes into asking for the same again.

    It reads onnxscript's library from its sources for every graph, and has torch list all composite operators
    for every namespace. A torch without these functions takes its time.
    """
    spared: list[tuple[Any, str, Callable[..., Any]]] = [
        (_registration.onnxscript_apis, "get_torchlib_ops", _kept),
        # of one trace only: between two there may be new operators
        (torch._export.utils, "_materialize_cpp_cia_ops", functools.cache),
    ]
    with contextlib.ExitStack() as restore:
        for owner, name, once in spared:
            if function := getattr(owner, name, None):
                restore.callback(setattr, owner, name, function)
                setattr(owner, name, once(function))
        yield


@functools.cache
def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which answers once and for all."""
    return functools.cache(function)
