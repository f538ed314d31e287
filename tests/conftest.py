"""Settings of all tests."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores
_BYTECODE = Path(__file__).parents[1] / "build" / "tests" / "bytecode"


def pytest_configure(config: pytest.Config) -> None:
    """Keep bytecode in a place of its own, where none is to be written beside the sources.

    To compile torch and the exporter takes as long as all else that an import of them does. The workers, and
    the processes that tests start, are told by the environment.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(_BYTECODE)
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(_BYTECODE)
        temporary = Path(tempfile.gettempdir())  # what was there in an earlier run comes no more
        shutil.rmtree(_BYTECODE / temporary.relative_to(temporary.anchor), ignore_errors=True)


class _Options(onnxruntime.SessionOptions):
    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry("session.intra_op.allow_spinning", "0")


@pytest.fixture(scope="session", autouse=True)
def _threads_sleep() -> Iterator[None]:
    """ONNX Runtime's threads wait asleep: those that spin take a core from the other worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", _Options)
        yield


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    """What a test draws does not depend on which tests ran before it in this worker."""
    torch.manual_seed(0)


_LONG = {"test_new_row.py", "test_docs_site.py", "test_docs.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first: as the last, it would keep one worker while the other has none left."""
    items.sort(key=lambda item: item.path.name not in _LONG)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking the tests themselves: a fifth of the time of a trace."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
