"""Reductions of nothing: what torch says of them, in a graph that was exported with something."""

from collections.abc import Callable

import exports
import numpy as np
import onnx
import pytest
import torch
from onnx_runs import RUNTIMES
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(1),
    "mean_kept": lambda x: x.mean((0, 1), keepdim=True),
    "mean_of_all": lambda x: x.mean(),
    "mean_of_flags": lambda x: (x > 0).float().mean(1),
    "variance": lambda x: x.var(1),
    "deviation": lambda x: x.std(1, unbiased=False),
    "variance_of_all": lambda x: x.var(),
    "mean_square": lambda x: F.mse_loss(x, 2 * x),
    "sum": lambda x: x.sum(1),
    "product": lambda x: x.prod(1),
    "log_sum_exp": lambda x: x.logsumexp(1),
    "norm": lambda x: x.norm(dim=1),
    "softmax": lambda x: x.softmax(1).sum(1),
    "any": lambda x: (x > 0).any(1),
    "any_kept": lambda x: x.bool().any(1, keepdim=True),
    "any_at_all": lambda x: (x > 0).any(),
    "all": lambda x: (x > 0).all(1),
    "outer": lambda x: x.transpose(1, 2) @ x,
    "mean_of_features": lambda x: F.linear(x, torch.eye(3)).mean(2),
}


class Reduced(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: reduce(x) for name, reduce in REDUCTIONS.items()}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("frames", [0, 1, 7])
def test_of_nothing_and_of_something(frames: int, runtime: str) -> None:
    path = exports.onnx(Reduced(), {"x": torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))})
    x = torch.randn(4, frames, 3, generator=torch.Generator().manual_seed(1))
    got = RUNTIMES[runtime](path)({"x": x})
    for name, reduce in REDUCTIONS.items():
        expected = reduce(x).numpy()
        assert got[name].shape == expected.shape
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_what_is_never_empty_is_one_node() -> None:
    path = exports.onnx(Reduced(), {"x": torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))})
    means = [node for node in onnx.load(path).graph.node if node.op_type == "ReduceMean"]
    assert [node.output[0] for node in means] == ["mean_of_features"]


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_more_frames_than_float16_counts(runtime: str) -> None:
    path = exports.onnx(Mean(), {"x": torch.ones(2, 5, dtype=torch.float16)})
    x = torch.full((2, 70_000), 1.5, dtype=torch.float16)
    assert RUNTIMES[runtime](path)({"x": x})["output"].tolist() == [1.5, 1.5]
