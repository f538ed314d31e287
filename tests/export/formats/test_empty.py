"""A batch without items, and items without frames: the same in eager, a script and a graph, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import CASES, Case, Inputs
from torch import nn

import exportable_losses as el
from exportable_losses import functional, ops
from exportable_losses.runtime import LossSession

# the first case of a row, and that without lengths, where a mean is torch's own
FIRST = {case.row: case for case in reversed(CASES)}
WITHOUT = [case for case in CASES if case.without == ("length",) and case.name == "mean"]
OF_ITEMS = [case for case in CASES if case.without == ("length",) and case.name == "batch"]
NO_FRAMES = [
    case
    for case in (*FIRST.values(), *WITHOUT, *OF_ITEMS)
    if any("T" in entry.dims.split() for entry in case.entry.inputs)
]


def drawn(case: Case, **sizes: int) -> Inputs:
    same = {letter: sizes.get(other, 3) for letter, other in case.same.items()}
    inputs = case.entry.example_inputs(**sizes, **same)
    return case.change({name: x for name, x in inputs.items() if name not in case.without})


def outcome(call: Callable[..., Any], inputs: Inputs) -> Any:
    """The outputs as arrays, or that it was refused."""
    try:
        outputs = call(**inputs)
    except (ValueError, torch.jit.Error, RuntimeError) as error:
        return (
            "no frames"
            if "got no frames" in str(error)
            else "no elements"
            if "no el" in str(error)
            else error
        )
    values = (
        outputs.values()
        if isinstance(outputs, dict)
        else outputs
        if isinstance(outputs, tuple)
        else [outputs]
    )
    return [np.asarray(value) for value in values]


def in_a_session(case: Case) -> Callable[..., Any]:
    session = LossSession(case.graph())
    return lambda **inputs: dict(session(**{name: x.numpy() for name, x in inputs.items()}))


def assert_same(one: Any, other: Any) -> None:
    assert isinstance(one, (list, str)), one
    if isinstance(one, str):
        assert one == other
        return
    assert isinstance(other, list), other
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [*FIRST.values(), *WITHOUT], ids=str)
def test_no_items(case: Case) -> None:
    if not any("B" in entry.dims.split() for entry in case.entry.inputs):
        assert case.row in ("ce_kd", "EqualErrorRate", "MinDCF")
        return
    inputs = drawn(case, B=0)
    eager = outcome(case.module(), inputs)
    assert_same(eager, outcome(in_a_session(case), inputs))
    if case.row == "TokenErrorRate":  # a script checks no tokens
        assert eager == "no elements"
    else:
        assert_same(eager, outcome(torch.jit.script(case.module()), inputs))


@pytest.mark.parametrize("reduction", ["mean", "sum", "batch", "none", "batchmean"])
@pytest.mark.parametrize("computer", ["native", "torch", "numba"])
def test_no_items_of_ctc(reduction: str, computer: str) -> None:
    log_probs = torch.zeros(0, 5, 4, requires_grad=True)
    nothing = torch.zeros(0)
    with ops.using(computer):
        loss = el.CTCLoss(reduction=reduction)(log_probs, torch.zeros(0, 2).long(), nothing, nothing)
        loss.sum().backward()
    assert loss.shape == (() if reduction in ("mean", "sum", "batchmean") else (0,))
    assert loss.isnan().all() if "mean" in reduction else not loss.any()
    assert log_probs.grad.shape == log_probs.shape


@pytest.mark.parametrize("base_loss", [None, nn.L1Loss(reduction="none")])
@pytest.mark.parametrize("shape", [(0, 4), (0, 5, 4), (0, 5, 2, 4)])
def test_no_items_to_permute(base_loss: nn.Module | None, shape: tuple[int, ...]) -> None:
    loss, permutations = el.PITLoss(base_loss)(torch.zeros(shape), torch.zeros(shape))
    assert (loss.shape, permutations.shape) == ((0,), (0, 4))


@pytest.mark.parametrize("case", NO_FRAMES, ids=str)
def test_no_frames(case: Case) -> None:
    row = case.row
    sizes = {"T": 0} | ({"N": 0} if case.entry.contract.aligned else {})
    if row == "get_mask":  # its lengths are integers, of which the catalog draws none of nothing
        mask = functional.get_mask(torch.zeros(0, 1, 3, 1), torch.zeros(3).long())
        assert mask.shape == (0, 1, 3, 1)
        return
    inputs = drawn(case, **sizes)
    eager = outcome(case.module(), inputs)
    assert_same(eager, outcome(in_a_session(case), inputs))
    lengths = any(entry.is_length for entry in case.entry.inputs)
    if lengths or not isinstance(eager, str):  # signals without samples: a script may say it otherwise
        assert_same(eager, outcome(torch.jit.script(case.module()), inputs))
