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
