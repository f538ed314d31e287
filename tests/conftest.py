"""Settings of all tests."""

import gc

import torch

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


def pytest_collection_finish() -> None:
    """Spare the garbage collector the tests themselves: a fifth of the time that a trace takes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
