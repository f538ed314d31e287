"""Layers and losses side by side in one graph, each with inputs of its own, held to autograd in float64."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import exports
import numpy as np
import torch
from export_cases import Inputs
from onnx_runs import as_arrays, onnx_runtime
from torch import Tensor, nn

EXPORTED = (2, 13)
SIZES = (EXPORTED, (3, 16), (1, 11), (5, 29))
# of the largest in a gradient, or of one: some hundred roundings of float32
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-11}

Make = Callable[[int, int, torch.Generator], Inputs]


class Head(NamedTuple):
    """A layer, or nothing; what is made with it of its inputs; and inputs for so many items and frames."""

    layer: nn.Module | None
    call: Callable[..., Tensor]
    make: Make


Tables = Mapping[str, Mapping[str, Head]]


class Heads(nn.Module):
    """The heads of a group: each gives a number, and the loss is their sum.

    A subclass has the table, so that what is kept of an export is known by the file that it stands in.
    """

    table: Tables

    def __init__(self, group: str) -> None:
        super().__init__()
        self.group = group
        torch.manual_seed(0)
        layers = {name: head.layer for name, head in self.table[group].items() if head.layer is not None}
        self.layers = nn.ModuleDict({name: _drawn(layer) for name, layer in layers.items()})

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        losses = {}
        for name, head in self.table[self.group].items():
            own = {k.removeprefix(f"{name}__"): v for k, v in inputs.items() if k.startswith(f"{name}__")}
            layer = [self.layers[name]] if head.layer is not None else []
            losses[name] = head.call(*layer, **own)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def inputs(self, items: int, frames: int, dtype: torch.dtype) -> Inputs:
        generator = torch.Generator().manual_seed(100 * items + frames)
        made = {
            f"{name}__{k}": v
            for name, head in self.table[self.group].items()
            for k, v in head.make(items, frames, generator).items()
        }
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in made.items()}


def _drawn(layer: nn.Module) -> nn.Module:
    """A copy with weights and buffers of its own, none of them zeros or ones."""
    layer = copy.deepcopy(layer)
    for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
        if value.is_floating_point():
            value.data = torch.rand_like(value) + 0.5 if "var" in name else 0.4 * torch.randn_like(value)
    return layer


def number(output: Tensor) -> Tensor:
    """A number in which every element of `output` counts otherwise."""
    weights = 1 + torch.arange(output.shape[-1], dtype=output.dtype) / 16
    return (output.tanh() * weights).square().sum()


def assert_gradients(heads: Heads, dtype: torch.dtype, fixed: str = "no input") -> None:
    """One graph, at every size: each head, and gradients in all weights and in all inputs but the `fixed`."""
    heads = heads.to(dtype).eval()
    example = heads.inputs(*EXPORTED, dtype)
    floating = [
        name for name, value in example.items() if value.is_floating_point() and not name.endswith(fixed)
    ]
    weights = {name: value.detach() for name, value in heads.named_parameters()}
    path = exports.onnx(heads, example, [*floating, *weights])
    run = onnx_runtime(path)
    exact = copy.deepcopy(heads).double()
    for sizes in SIZES:
        inputs = heads.inputs(*sizes, dtype)
        expected = _truth(exact, inputs, floating)
        got = run(inputs | weights)
        assert list(got) == list(expected)
        off = {name: _off(got[name], value) for name, value in as_arrays(expected).items()}
        wrong = {name: value for name, value in off.items() if value > TOLERANCES[dtype]}
        assert not wrong, f"{heads.group} at {sizes}"


def _truth(exact: nn.Module, inputs: Inputs, floating: list[str]) -> Inputs:
    given: dict[str, Any] = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    leaves = {name: given[name].requires_grad_() for name in floating} | dict(exact.named_parameters())
    outputs = exact(**given)
    gradients = torch.autograd.grad(outputs["loss"], list(leaves.values()), materialize_grads=True)
    return {**outputs, **{f"grad_{n}": g for n, g in zip(leaves, gradients, strict=True)}}


def _off(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    largest = max(1.0, np.abs(expected).max(initial=0.0))
    off = np.abs(got - expected).max(initial=0.0) / largest
    return float(off) if np.isfinite(off) else float("inf")
