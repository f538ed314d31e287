"""TorchScript in a fresh process that has torch alone."""

from functools import partial

from . import torch_alone
from .face import Runner

RUNNER = Runner(
    "torchscript",
    ".pt",
    "TorchScript in Python, torch alone",
    torch_alone.version,
    partial(torch_alone.run, "torchscript"),
)
