"""Rows on float16 and bfloat16, alone and under autocast: what float32 gives of the same numbers."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from export_cases import CASES, PRODUCTS, Case, Inputs
from torch import Tensor, nn
from torch.nn.functional import ctc_loss

import exportable_losses as el
from exportable_losses import catalog, functional, speechbrain

HALVES = [torch.float16, torch.bfloat16]
FLOATS = [*HALVES, torch.float32, torch.float64]
ROWS = {case.row: case for case in reversed(CASES)}  # the first of each
AROUND: dict[str, Callable[[], Any]] = {
    "alone": contextlib.nullcontext,
    "float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
EXACT = {"rtol": 0.0, "atol": 0.0, "equal_nan": True}
# a product is a sum there, a script may add up in another order, and kernels that read 16 bits have an
# exponential of their own for them
ROUNDED = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}
KERNELS = {"ctc_loss", "ctc_loss_kd", "transducer_loss", "TDTLoss", "MultiBlankTransducerLoss", "HATLoss"}
KERNELS |= {"PrunedTransducerLoss", "PrunedTransducerPosterior", "PrunedTransducerAlign"}
IN_HALVES: dict[str, Any] = {}  # scores that are made inside have 16 bits: what is computed of them is near


def tolerance(row: str) -> dict[str, Any]:
    return IN_HALVES if row in PRODUCTS else ROUNDED if row in KERNELS else EXACT


def converted(case: Case, inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The numbers in `dtype`, but lengths, of which 16 bits would lose frames."""
    lengths = {value.name for value in case.entry.inputs if value.legal.startswith("relative_length")}
    return {k: v.to(dtype) if v.is_floating_point() and k not in lengths else v for k, v in inputs.items()}


def in_32(inputs: Inputs) -> Inputs:
    return {name: value.float() if value.dtype in HALVES else value for name, value in inputs.items()}


def run(call: Callable[..., Any], inputs: Inputs, around: str = "alone") -> tuple[list[Tensor], Inputs]:
    """The outputs, and the gradients of the sum of those that have any."""
    leaves = {k: v.detach().clone().requires_grad_(v.is_floating_point()) for k, v in inputs.items()}
    with AROUND[around]():
        returned = call(**leaves)
        outputs = list(returned) if isinstance(returned, tuple) else [returned]
        reached = [x.sum() for x in outputs if x.requires_grad]
        if reached:
            torch.stack(reached).sum().backward()
    return [x.detach() for x in outputs], {k: v.grad for k, v in leaves.items() if v.grad is not None}


def assert_as_in_float32(call: Callable[..., Any], given: Inputs, around: str, tolerance: Any) -> None:
    """The values are float32's, and the gradients are, rounded once to the type of their input."""
    expected, expected_gradients = run(call, in_32(given))
    outputs, gradients = run(call, given, around)
    if tolerance is IN_HALVES:
        return assert_near([*outputs, *gradients.values()], [*expected, *expected_gradients.values()])
    for one, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    assert gradients.keys() == expected_gradients.keys()
    for name, grad in gradients.items():
        assert grad.dtype == given[name].dtype
        flip = {} if tolerance is ROUNDED and grad.dtype in HALVES else tolerance  # the last of 16 bits
        torch.testing.assert_close(grad, expected_gradients[name].to(grad.dtype), **flip)


# a score in bfloat16 is off by 1/512, a log-probability by several; a ReLU may be on both sides of zero
def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        one, other = one.double().nan_to_num(), other.double().nan_to_num()
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-3


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_row(case: Case, around: str) -> None:
    inputs = case.inputs("large")
    product = around != "alone" and case.row in ("get_si_snr_with_pitwrapper", "SDR", "SISNRImprovement")
    for dtype in FLOATS if case.dtype == torch.float32 else [torch.float64]:
        given = converted(case, inputs, dtype)
        assert_as_in_float32(case.module(), given, around, ROUNDED if product else tolerance(case.row))


@pytest.mark.parametrize("row", ROWS)
def test_every_script(row: str) -> None:
    case = ROWS[row]
    script = torch.jit.script(case.module())
    for around in AROUND:
        for dtype in FLOATS:
            given = converted(case, case.inputs("short"), dtype)
            assert_as_in_float32(script, given, around, IN_HALVES if row in PRODUCTS else ROUNDED)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("row", [row for row, case in ROWS.items() if len(case.entry.inputs) > 1])
def test_one_input_of_sixteen_bits_beside_others(row: str, dtype: torch.dtype) -> None:
    case = ROWS[row]
    inputs = case.inputs("short")
    for name, value in converted(case, inputs, dtype).items():
        assert_as_in_float32(case.module(), inputs | {name: value}, "alone", tolerance(row))


# the rows of functions that SpeechBrain does not have; what `prune` gives is of its input's type
OURS = {
    "fused_transducer_loss": "FusedTransducerLoss",
    "hat_loss": "HATLoss",
    "linear_ctc_loss": "LinearCTCLoss",
    "multi_blank_transducer_loss": "MultiBlankTransducerLoss",
    "prune_ranges": "PruneRanges",
    "pruned_transducer_loss": "PrunedTransducerLoss",
    "simple_loss_and_ranges": "SimpleTransducerLoss",
    "simple_transducer_loss": "SimpleTransducerLoss",
    "tdt_loss": "TDTLoss",
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", [name for name in functional.__all__ if name != "prune"])
def test_every_function(name: str, dtype: torch.dtype) -> None:
    row = OURS.get(name, name)
    case, function = ROWS[row], getattr(functional, name)
    takes = inspect.signature(function).parameters
    others = {"loss_fn": nn.L1Loss(reduction="none"), "blank_index": 0, "label_smoothing": 0.1}
    others = {k: v for k, v in others.items() if k in takes and (v or takes[k].default is inspect._empty)}
    others.pop("blank_index" if name in OURS else "", None)
    if name == "reduce_loss":
        others["predictions"] = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    if name == "compute_masked_loss":
        del others["label_smoothing"]  # of log-probabilities, which an L1 loss does not take
    given = converted(case, case.inputs("short"), dtype)
    tensors = {k: v for k, v in others.items() if isinstance(v, Tensor)}
    settings = {k: v for k, v in others.items() if k not in tensors}
    assert_as_in_float32(lambda **x: function(**x, **settings), given | tensors, "alone", tolerance(row))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_speechbrain_s_pit(dtype: torch.dtype) -> None:
    given = converted(ROWS["PitWrapper"], ROWS["PitWrapper"].inputs("short"), dtype)
    wrapper = speechbrain.PitWrapper(nn.MSELoss(reduction="none"))
    loss, permutations = wrapper(**given)
    expected, expected_permutations = wrapper(**in_32(given))
    assert torch.equal(loss, expected)
    assert permutations == expected_permutations


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("around", AROUND)
def test_ctc_is_torch_s_in_float64(dtype: torch.dtype, around: str) -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(2, 300, 20, generator=generator).log_softmax(-1).to(dtype)
    targets, ones = torch.randint(1, 20, (2, 40), generator=generator), torch.ones(2)
    given = {"log_probs": log_probs, "targets": targets, "input_lens": ones, "target_lens": ones}
    [loss], gradients = run(el.CTCLoss(reduction="none"), given, around)
    exact = log_probs.double().requires_grad_()
    lengths = torch.tensor([300, 300]), torch.tensor([40, 40])
    truth = ctc_loss(exact.transpose(0, 1), targets, *lengths, reduction="none")
    truth.sum().backward()
    torch.testing.assert_close(loss, truth.detach().float(), rtol=1e-6, atol=0)
    last = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    torch.testing.assert_close(gradients["log_probs"].double(), exact.grad, rtol=last, atol=1e-5)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("backward_inside", [True, False])
def test_sixty_decibels_under_autocast(around: str, backward_inside: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 16_000, 2, generator=generator)
    estimate = source[..., [1, 0]] + 1e-3 * torch.randn(source.shape, generator=generator)
    exact, leaf = estimate.double().requires_grad_(), estimate.requires_grad_()
    truth = functional.get_si_snr_with_pitwrapper(source.double(), exact)
    truth.sum().backward()
    with AROUND[around]():
        loss = el.PITSISNRLoss()(source, leaf)
        if backward_inside:
            loss.sum().backward()
    if not backward_inside:
        loss.sum().backward()
    torch.testing.assert_close(loss.detach().double(), truth.detach(), rtol=0, atol=2e-3)
    error = (leaf.grad.double() - exact.grad).abs().max() / exact.grad.abs().max()
    assert error < 1e-3


@pytest.mark.parametrize("around", ["float16", "bfloat16"])
@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss", "nll_loss", "mse_loss"])
def test_training_under_autocast(row: str, around: str) -> None:
    """A layer in 16 bits before the loss: its weights learn what the loss in float32 says."""
    entry = catalog.get(row)
    inputs = entry.example_inputs()
    name = entry.differentiable[0]
    torch.manual_seed(0)
    layer = nn.Linear(inputs[name].shape[-1], inputs[name].shape[-1])
    with AROUND[around]():
        scores = layer(inputs[name])
        entry.module()(**inputs | {name: scores}).sum().backward()
    assert scores.dtype == getattr(torch, around)
    got = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    with AROUND[around]():
        scores = layer(inputs[name])
    entry.module()(**inputs | {name: scores.float()}).sum().backward()
    for one, parameter in zip(got, layer.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-2, atol=1e-2 * one.abs().max().item())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_weights_of_sixteen_bits(dtype: torch.dtype) -> None:
    case = next(case for case in CASES if str(case) == "bce_loss-pos_weight")
    given = converted(case, case.inputs("short"), dtype)
    weight = case.settings["pos_weight"].to(dtype)
    rounded = el.BCEWithLogitsLoss(pos_weight=weight.float())
    assert torch.equal(case.module().to(dtype)(**given), rounded(**in_32(given)))
