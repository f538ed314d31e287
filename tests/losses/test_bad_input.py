"""Eager modules refuse what they cannot compute, and say so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bad_input import NAN, BadInput, bad_inputs
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses import functional as F

CASES = bad_inputs()


@pytest.mark.parametrize("case", [case for case in CASES if case.eager], ids=str)
def test_modules_refuse_the_table(case: BadInput) -> None:
    module = case.module()
    module(**case.legal())
    with pytest.raises(ValueError, match=f"^{case.message}"):
        module(**case.illegal())


@pytest.mark.parametrize(
    ("row", "name"), [(row, name) for row in catalog.names() for name in catalog.get(row).differentiable]
)
def test_a_nan_passes_through_into_the_loss(row: str, name: str) -> None:
    inputs = catalog.get(row).example_inputs()
    inputs[name] = torch.full_like(inputs[name], NAN)
    outputs = catalog.get(row).module()(**inputs)
    assert any(x.isnan().any() for x in (outputs if isinstance(outputs, tuple) else (outputs,)))


def test_the_table_reaches_every_row() -> None:
    assert {case.row for case in CASES} == set(catalog.names())


@pytest.mark.parametrize(
    "row", [name for name in catalog.names() if "reduction" in catalog.get(name).settings]
)
def test_unknown_reductions(row: str) -> None:
    with pytest.raises(ValueError, match=r"^reduction: got 'median', expected one of mean, .*batch"):
        catalog.get(row).module(reduction="median")


X = torch.zeros(2, 4)
LABELS = torch.zeros(2, dtype=torch.int64)
LENGTHS = torch.ones(2)
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: F.l1_loss(X, X, reduction="median"), "reduction: got 'median'"),
    (lambda: F.reduce_loss(X, X, "median"), "reduction: got 'median'"),
    (
        lambda: F.bce_loss(torch.zeros(3, 1), torch.ones(3), pos_weight=torch.ones(5)),
        r"pos_weight: got shape \[5\], expected one that multiplies \[3, 1\]",
    ),
    (
        lambda: F.bce_loss(torch.zeros(1, 4), torch.ones(1, 4), weight=torch.ones(3)),
        r"weight: got shape \[3, 1\], expected one that multiplies \[1, 4\]",
    ),
    (lambda: F.kldiv_loss(X, LABELS, label_smoothing=0.1, reduction="median"), "reduction: got 'median'"),
    (lambda: F.reduce_loss(X, X, label_smoothing=0.1), "predictions: got None"),
    (lambda: F.kldiv_loss(X, LABELS, label_smoothing=0.1, reduction="batch"), "length: got None"),
    (lambda: F.nll_loss(X, LABELS, LENGTHS), "length: got lengths where each item is one frame"),
    (lambda: F.bce_loss(X[:, 0], LENGTHS, LENGTHS), "length: got lengths where each item is one frame"),
    (lambda: F.compute_masked_loss(nn.L1Loss(), X, X, mask_shape="image"), "mask_shape: got 'image'"),
    (lambda: el.MaskedLoss(mask_shape="image"), "mask_shape: got 'image'.*targets, predictions, loss"),
    (lambda: el.Laplacian(4), "kernel_size: got 4, expected an odd number"),
    (lambda: el.LaplacianVarianceLoss(1), "kernel_size: got 1, expected an odd number"),
    (lambda: el.Accuracy(top_k=0), "top_k: got 0, expected at least 1"),
    (lambda: el.ExpectedCalibrationError(n_bins=0), "n_bins: got 0, expected at least 1"),
    (lambda: el.ExpectedCalibrationError()(X, LABELS, LENGTHS), "length: got lengths where each item is one"),
    (lambda: el.Accuracy()(X, LABELS, LENGTHS), "length: got lengths where each item is one frame"),
    (lambda: el.Perplexity(reduction="sum"), "reduction: got 'sum', expected one of mean, batch"),
    (lambda: el.MinDCF(c_miss=0), "c_miss: got 0, expected a positive cost"),
    (lambda: el.MinDCF(c_fa=-1.0), "c_fa: got -1.0, expected a positive cost"),
    (lambda: el.MinDCF(p_target=1.0), r"p_target: got 1.0, expected a probability in \(0, 1\)"),
    (lambda: catalog.get("l1_loss").example_inputs(Q=3), "sizes: got one for Q, expected some of"),
    (lambda: catalog.get("l1_loss").example_inputs(B=None), "B: got None, expected a size"),
]


@pytest.mark.parametrize(
    ("call", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_settings_and_functions(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_a_wrapped_loss_takes_one_tensor_or_two() -> None:
    with pytest.raises(
        TypeError, match=r"^loss_fn: got 3 arguments, expected outputs, or outputs and targets"
    ):
        el.LogSoftmaxWrapper(_ThreeInputs())
    with pytest.raises(
        TypeError, match=r"^loss_fn: got 0 arguments, expected outputs, or outputs and targets"
    ):
        el.LogSoftmaxWrapper(_NoInput())


class _ThreeInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return x + y + z


class _NoInput(nn.Module):
    def forward(self) -> torch.Tensor:
        return torch.zeros(())


def test_unknown_rows() -> None:
    with pytest.raises(KeyError, match="no row 'l2_loss', expected one of l1_loss"):
        catalog.get("l2_loss")


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss", "classification_error"])
def test_tensors_without_values_are_held_to_their_shapes(row: str) -> None:
    entry = catalog.get(row)
    inputs, module = entry.example_inputs(), entry.module()
    whole = module(**inputs)
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in inputs.items()}
        got = module(**fake)
        assert (got.shape, got.dtype) == (whole.shape, whole.dtype)
        last = entry.inputs[-1].name
        with pytest.raises(ValueError, match=rf"^{last}: got size 2 along dimension 0 \(B\), expected 3"):
            module(**{**fake, last: fake[last][:2]})
