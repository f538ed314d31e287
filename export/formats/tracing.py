"""What surrounds a trace: silence, and nothing done twice."""

import contextlib
import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch._dynamo.config
import torch._export.utils
import torch.fx.config
from torch.onnx._internal.exporter import _registration

_ONE_AT_A_TIME = threading.RLock()  # two that overlap would leave torch as the first has changed it


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
    """Save half of the exporter's time, which it spends asking the same things again.

    For every graph it reads onnxscript's library from its sources, with the signature of each function, and
    has torch list all composite operators for every namespace. It keeps what each operator gives for
    symbolic sizes, which costs more than to ask again, and where in the sources each node comes from, which
    no file says. Where torch has other functions, nothing is saved.
    """
    spared: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (getattr(_registration, "onnxscript_apis", None), "get_torchlib_ops", _kept),
        (getattr(_registration, "_schemas", None), "op_signature_from_function", _kept),
        # of one trace only: between two there may be new operators
        (torch._export.utils, "_materialize_cpp_cia_ops", functools.cache),
        (torch._dynamo.config, "fake_tensor_cache_enabled", lambda _: False),
        (torch.fx.config, "do_not_emit_stack_traces", lambda _: True),
    ]
    with _ONE_AT_A_TIME, contextlib.ExitStack() as restore:
        for owner, name, instead in spared:
            if hasattr(owner, name):
                before = getattr(owner, name)
                restore.callback(setattr, owner, name, before)
                setattr(owner, name, instead(before))
        yield


@functools.cache
def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which remembers its answers: twice as many as there are in the library."""
    return functools.lru_cache(maxsize=2048)(function)
