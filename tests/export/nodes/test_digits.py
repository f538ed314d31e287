"""Constants of float64 graphs: the exporter's own translations take some of them through float32."""

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exportable_losses.export import to_onnx
from exportable_losses.export.formats.errors import VerificationError

NUMBERS = {
    "log2": lambda x: x.exp2().add(1).log2(),
    "log10": lambda x: x.exp().log10(),
    "norm": lambda x: torch.linalg.vector_norm(x, 1.3, dim=-1),
    "norm_of_all": lambda x: torch.linalg.vector_norm(x, 3, keepdim=True),
    "norm_in_float64": lambda x: torch.linalg.vector_norm(x.float(), 3, dim=(0, 1), dtype=torch.float64),
    "distance": lambda x: F.pairwise_distance(x, x.flip(1), p=3),
    "softplus": lambda x: F.softplus(x, beta=0.7),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "power": lambda x: x.abs() ** 0.1,
    "numbers": lambda x: (0.1 - x) * 0.3 + x / 0.7,
    "clamp": lambda x: x.clamp(-0.1, 0.7),
    "variance": lambda x: x.var(-1).sqrt(),
}
# ONNX has attributes of 32 bits alone, and onnxruntime no `Erf` of 64.
IN_FLOAT32 = {
    "exact_gelu": F.gelu,
    "elu": lambda x: F.elu(x, alpha=0.3),
    "selu": F.selu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "hard_swish": F.hardswish,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], eps=0.1),
}


class Number(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return {**NUMBERS, **IN_FLOAT32}[self.name](x)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_constant_of_float64_keeps_its_digits(name: str, tmp_path: Path) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = Number(name)
    graph = to_onnx(module, tmp_path / "graph.onnx", {"x": x}, verify=False)
    (got,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x.numpy()})
    expected = module(x).numpy()
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=8 * np.finfo(np.float64).eps * math.e)


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_one_that_loses_them_is_refused(name: str, tmp_path: Path) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(VerificationError, match=r"is off by|does not load"):
        to_onnx(Number(name), tmp_path / "graph.onnx", {"x": x})
    assert not list(tmp_path.iterdir())
    to_onnx(Number(name), tmp_path / "graph.onnx", {"x": x.float()})
