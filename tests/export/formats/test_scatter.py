"""Gradients that are sums of what is scattered, on several threads."""

import exports
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn


class Enlarged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear").tanh().square().sum()


def test_no_update_is_lost_among_threads() -> None:
    """ONNX Runtime's `ScatterND` loses sums of one place where several threads add to it."""
    path = exports.onnx(Enlarged(), {"x": torch.randn(2, 3, 6, 7)}, ("x",))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(path, options)
    x = torch.randn(18, 20, 31, 34, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (expected,) = torch.autograd.grad(Enlarged()(x), x)
    for _ in range(10):
        _, got = session.run(None, {"x": x.detach().numpy()})
        np.testing.assert_allclose(got, expected, atol=2e-5 * float(expected.abs().max()))


class Picked(nn.Module):
    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        picked = x[rows, rows]
        return (picked.tanh() * picked).sum()


def test_indices_are_counted_from_the_end_too() -> None:
    rows, x = torch.tensor([0, -1, 2, -1]), torch.randn(4, 3, 2)
    path = exports.onnx(Picked(), {"x": x, "rows": rows}, ("x",))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(Picked()(leaf, rows), leaf)
    _, got = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy(), "rows": rows.numpy()})
    np.testing.assert_allclose(got, expected, atol=1e-6)
