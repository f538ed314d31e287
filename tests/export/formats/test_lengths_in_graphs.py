"""Graphs take lengths of the kind of the example: integers are absolute, and nothing behind is read."""

from collections.abc import Iterator

import exports
import numpy as np
import onnx
import pytest
import torch
from onnx_runs import Arrays, as_arrays
from padding import GARBAGE, READ, ROWS, Inputs, pad, size_of, sized

from exportable_losses import catalog
from exportable_losses.runtime import LossSession

LATTICES = [row for row, _ in ROWS if row.lower().startswith(("ctc", "transducer"))]
# One row of each way that a length goes; the others are exported in the thorough run.
QUICK = ("l1_loss", "nll_loss", "bce_loss", "VariationalAutoencoderLoss", "ctc_loss", "transducer_loss")
EACH = [
    pytest.param(row, marks=() if row in QUICK else pytest.mark.thorough)
    for row in dict.fromkeys(row for row, _ in ROWS)
]


def lengths_of(row: str, inputs: Inputs) -> Inputs:
    """Absolute lengths of each kind that the row has, one item full."""
    found = {}
    for name in (name for each, name in ROWS if each == row):
        size = size_of(row, name, inputs)
        found[name] = torch.tensor([size, size - 1, size - 2])
    return found


def absolute_graph(row: str) -> str:
    """A graph with gradients, where there are any, exported with integers for lengths."""
    entry, inputs = catalog.get(row), sized(row)
    example = inputs | {name: frames.int() for name, frames in lengths_of(row, inputs).items()}
    return str(exports.onnx(entry.module(), example, "all" if entry.differentiable else ()))


def truth(row: str, inputs: Inputs) -> dict[str, torch.Tensor]:
    """What the graph gives, of eager float64."""
    entry = catalog.get(row)
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    leaves = {name: exact[name].requires_grad_() for name in entry.differentiable}
    values = entry.module()(**exact)
    found = dict(zip(entry.outputs, values if isinstance(values, tuple) else (values,), strict=True))
    if leaves:
        gradients = torch.autograd.grad(
            next(iter(found.values())).sum(), list(leaves.values()), materialize_grads=True
        )
        found |= {f"grad_{name}": each for name, each in zip(leaves, gradients, strict=True)}
    return {name: value.detach() for name, value in found.items()}


def agree(got: Arrays, expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)


def sessions(row: str, path: str) -> Iterator[LossSession]:
    for native in (False, True) if row in LATTICES else (False,):
        yield LossSession(path, native=native)


@pytest.mark.parametrize("row", EACH)
def test_a_graph_of_integers_takes_absolute_lengths(row: str) -> None:
    path, inputs = absolute_graph(row), sized(row)
    absolute = lengths_of(row, inputs)
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.load(path).graph.input}
    assert {types[name] for name in absolute} == {onnx.TensorProto.INT64}
    relative = {name: frames / size_of(row, name, inputs) for name, frames in absolute.items()}
    expected = truth(row, inputs | absolute)
    for session in sessions(row, path):
        for lengths in (absolute, {name: frames.short() for name, frames in absolute.items()}, relative):
            agree(session(**as_arrays(inputs | lengths)), expected)
        for name, frames in absolute.items():
            wrong = inputs | absolute | {name: frames + 1}
            with pytest.raises(
                ValueError, match=rf"^{name}: got .* at \[0\], expected integer lengths in \["
            ):
                session(**as_arrays(wrong))


@pytest.mark.parametrize("row", dict.fromkeys(row for row, _ in ROWS))
def test_a_graph_of_relative_lengths_takes_integers(row: str) -> None:
    inputs = sized(row)
    absolute = lengths_of(row, inputs)
    for session in sessions(row, str(exports.onnx(catalog.get(row).module()))):
        relative = {name: frames.double() / size_of(row, name, inputs) for name, frames in absolute.items()}
        for lengths in (absolute, relative):  # in float64, which the graph does not have
            got = session(**as_arrays(inputs | lengths))
            expected = truth(row, inputs | absolute)
            agree(got, {name: value for name, value in expected.items() if name in got})
        for name in absolute:
            half = inputs | {name: torch.ones(3, dtype=torch.float16)}
            with pytest.raises(
                TypeError, match=f"^{name}: got float16, expected float32, float64 or integers"
            ):
                session(**as_arrays(half))


@pytest.mark.parametrize("row", [each for each in EACH if each.values[0] in dict(READ)])
def test_a_session_neither_reads_nor_refuses_what_is_behind(row: str) -> None:
    for name in (name for each, name in READ if each == row):
        neither_read_nor_refused(row, name)


def neither_read_nor_refused(row: str, name: str) -> None:
    inputs = sized(row)
    absolute = lengths_of(row, inputs)
    clean = pad(catalog.get(row), inputs | absolute, name, 0, absolute[name], 0.0)
    expected = truth(row, clean)
    for session in sessions(row, absolute_graph(row)):
        before = session(**as_arrays(clean))
        agree(before, expected)
        for garbage in GARBAGE:
            filled = pad(catalog.get(row), inputs | absolute, name, 0, absolute[name], garbage)
            got = session(**as_arrays(filled))
            for each, value in before.items():
                np.testing.assert_array_equal(got[each], value, err_msg=f"{each}, {garbage}")
