"""Settings of all tests."""

import gc
from collections.abc import Iterator

import onnxruntime
import pytest
import torch

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


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


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking the tests themselves: a fifth of the time of a trace."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
