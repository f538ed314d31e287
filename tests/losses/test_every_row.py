"""What holds for every row of the catalog, with every setting and rank that is exported.

That eager, float64 and scripted modules agree is held in `tests/export`, beside the exported files.
"""

import pytest
import torch
from export_cases import CASES, Case, Inputs
from torch import Tensor

from exportable_losses import catalog, contract

# Labels by another name: a gradient in them exists, and nobody asks for it.
LABELS = {"position", "one_hot", "mask"}

# Rows that may give what they were given: a part of it, or all where nothing is to be reduced.
HANDED_BACK = {"truncate", "reduce_loss"}


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def copies(inputs: Inputs) -> Inputs:
    return {name: value.clone() for name, value in inputs.items()}


def floating(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    return [x for x in outputs if x.is_floating_point()]


def assert_equal(one: Inputs, other: Inputs) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{name} was written to"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs_are_never_written_to(case: Case) -> None:
    inputs = case.inputs("short")
    before = copies(inputs)
    case.module()(**inputs)
    assert_equal(before, inputs)
    torch.jit.script(case.module())(**inputs)
    assert_equal(before, inputs)


@pytest.mark.parametrize("case", [case for case in CASES if case.row not in HANDED_BACK], ids=str)
def test_outputs_do_not_share_memory_with_inputs(case: Case) -> None:
    # who writes into a result must not change what it came from
    inputs = case.inputs("short")
    before = copies(inputs)
    for output in as_tuple(case.module()(**inputs)):
        output.zero_()
    assert_equal(before, inputs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_dtype_of_the_inputs_is_kept(case: Case) -> None:
    inputs = case.inputs("short")
    legal = {value.name: value.legal for value in case.entry.inputs}
    whole = all(not x.is_floating_point() for k, x in inputs.items() if legal[k] in contract.FLOATING)
    for name, output in zip(case.entry.outputs, as_tuple(case.module()(**inputs)), strict=True):
        if name == "gaps":  # sums that a corpus adds up
            assert output.dtype == torch.float64
        elif output.is_floating_point():
            assert output.dtype == (torch.float32 if whole else case.dtype)
    for output in case.truth(inputs).values():
        assert output.dtype in (torch.float64, torch.int64)


def strided(value: Tensor) -> Tensor:
    """The same values in memory that is neither dense nor in order."""
    spaced = torch.stack([value, torch.full_like(value, 77)], -1)[..., 0]
    order = list(range(value.dim()))[::-1]
    return spaced.permute(order).contiguous().permute(order) if value.dim() > 1 else spaced


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs_in_any_memory_layout(case: Case) -> None:
    inputs = case.inputs("large")
    spread = {name: strided(value) for name, value in inputs.items()}
    assert not all(value.is_contiguous() for value in spread.values())
    module = case.module()
    expected = as_tuple(module(**inputs))
    for got in (module(**spread), torch.jit.script(module)(**spread)):
        for one, other in zip(as_tuple(got), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", catalog.names())
@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
def test_gradients_reach_what_the_catalog_says(row: str, scripted: bool) -> None:
    entry = catalog.get(row)
    inputs = entry.example_inputs()
    for value in inputs.values():
        value.requires_grad_(value.is_floating_point())
    module = torch.jit.script(entry.module()) if scripted else entry.module()
    reached = [x.sum() for x in floating(as_tuple(module(**inputs))) if x.requires_grad]
    if reached:
        torch.stack(reached).sum().backward()
    got = {name for name, value in inputs.items() if value.grad is not None}
    labels = {value.name for value in entry.inputs if value.legal in LABELS}
    assert got - labels == set(entry.differentiable)
    for name in entry.differentiable:
        assert inputs[name].grad.isfinite().all()
        assert inputs[name].grad.any()
