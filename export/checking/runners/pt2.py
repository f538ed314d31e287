"""Programs of `torch.export` in a fresh process that has torch alone."""

from functools import partial

from . import torch_alone
from .face import Runner

RUNNER = Runner(
    "pt2",
    ".pt2",
    "torch.export in Python, torch alone",
    torch_alone.version,
    partial(torch_alone.run, "pt2"),
)
