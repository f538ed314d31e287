"""Graphs with gradients: each is that of eager float64 autograd, at sizes other than the exported one."""

from pathlib import Path

import exports
import numpy as np
import onnx
import pytest
import torch
from export_cases import BY_NAME, OTHER_SIZES, Case, Inputs
from onnx_runs import RUNTIMES, Arrays, as_arrays, onnx_reference, onnx_runtime

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx
from exportable_losses.runtime import LossSession

LATTICES = ("ctc_loss", "transducer_loss", "ctc_loss_kd")
# Rounding of the forward pass and of the backward one, relative to the largest of a gradient. Where a ratio
# is all rounding (see test_parity), so is its gradient. An occupation is the exponential of a difference of
# logarithms as large as the cost, which have its rounding.
ROUNDINGS = 100
ROUNDINGS_OF = dict.fromkeys(("cal_si_snr", "get_si_snr_with_pitwrapper"), 1000)


def differentiable(case: Case, inputs: Inputs) -> list[str]:
    return [name for name in case.entry.differentiable if name in inputs and inputs[name].is_floating_point()]


def first_of_each_row() -> dict[str, Case]:
    """A case of each row that has gradients, and some more of the lattices."""
    cases: dict[str, Case] = {}
    for name, case in BY_NAME.items():
        first = case.row not in {other.row for other in cases.values()}
        more = case.row in LATTICES and case.name in ("float64", "blank_1", "infinite_mean", "normalize")
        if case.entry.differentiable and (first or more):
            cases[name] = case
    return cases


CASES = first_of_each_row()
# whose operators, and so their gradients, are those of others: of TDT, of si-snr, of cross entropy
AS_OTHERS = {
    "MultiBlankTransducerLoss",
    "HATLoss",
    "PrunedTransducerLoss",
    "mse_loss",
    "nll_loss_kd",
    "cal_snr",
}
AS_OTHERS |= {
    "get_snr_with_pitwrapper",
    "get_si_snr_with_pitwrapper",
    "SISNRImprovement",
    "Perplexity",
    "AutoencoderLoss",
    "Laplacian",
}
EACH = [
    pytest.param(name, marks=pytest.mark.thorough if case.row in AS_OTHERS or case.name == "blank_1" else ())
    for name, case in CASES.items()
]


def truth(case: Case, inputs: Inputs) -> Inputs:
    """Gradients of the sum of the first output, in float64."""
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    names = differentiable(case, inputs)
    leaves = {name: exact[name].clone().requires_grad_() for name in names}
    outputs = case.outputs(case.module(torch.float64)(**{**exact, **leaves}))
    loss = next(iter(outputs.values())).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return {f"grad_{name}": gradient for name, gradient in zip(names, gradients, strict=True)}


def assert_close(got: Arrays, expected: Inputs, case: Case, where: str) -> None:
    epsilon = 1e-10 if case.dtype == torch.float64 else float(np.finfo(np.float32).eps)
    roundings = 1 if case.dtype == torch.float64 else ROUNDINGS_OF.get(case.row, ROUNDINGS)
    for name, gradient in as_arrays(expected).items():
        assert got[name].shape == gradient.shape, f"{where}: {name}"
        tolerance = roundings * epsilon * max(1.0, np.abs(gradient).max(initial=0.0))
        if case.row in LATTICES:
            tolerance = max(tolerance, 8 * epsilon * np.abs(got["loss"]).max())
        np.testing.assert_allclose(got[name], gradient, rtol=0, atol=tolerance, err_msg=f"{where}: {name}")


def exported(case: Case) -> Path:
    return exports.onnx(case.module(), case.inputs(), "all")


@pytest.mark.parametrize("name", EACH)
def test_gradients_are_those_of_eager_float64(name: str) -> None:
    case, path = CASES[name], exported(CASES[name])
    onnx.checker.check_model(str(path), full_check=True)
    run = onnx_runtime(path)
    for size in ("short", "large"):
        inputs = case.inputs(size, seed=1)
        got = run(inputs)
        assert list(got) == [*case.entry.outputs, *(f"grad_{n}" for n in differentiable(case, inputs))]
        assert_close(got, truth(case, inputs), case, f"at size {size!r}")


@pytest.mark.parametrize("name", [each for each in EACH if CASES[each.values[0]].row in LATTICES])
@pytest.mark.parametrize("native", [False, True])
def test_lattices_in_every_runtime(name: str, native: bool) -> None:
    case, path = CASES[name], exported(CASES[name])
    if native:
        if LossSession(path).library is None:
            pytest.skip("the native library is not installed")
        session = LossSession(path, native=True)
    else:
        reference = onnx_reference(path)
    for size in OTHER_SIZES:
        inputs = case.inputs(size, seed=2)
        got = session(**as_arrays(inputs)) if native else reference(inputs)
        assert_close(got, truth(case, inputs), case, f"at size {size!r}")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_what_cannot_be_aligned_has_no_gradient(runtime: str, zero_infinity: bool) -> None:
    module = el.CTCLoss(reduction="sum", zero_infinity=zero_infinity)
    path = exports.onnx(module, gradients=("log_probs",))
    log_probs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    log_probs[2, 1, 3] = -torch.inf
    targets = torch.tensor([[1, 1, 1], [1, 2, 3], [1, 2, 0]])  # the first needs five frames of its four
    lengths = torch.tensor([1.0, 1.0, 2 / 3])
    inputs = {"log_probs": log_probs, "targets": targets, "input_lens": torch.ones(3), "target_lens": lengths}
    got = RUNTIMES[runtime](path)(inputs)
    assert not got["grad_log_probs"][0].any()
    assert np.isinf(got["loss"]) != zero_infinity
    leaf = log_probs.clone().requires_grad_()
    loss = el.CTCLoss(reduction="sum", zero_infinity=True)(leaf, targets, torch.ones(3), lengths)
    loss.backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(got["grad_log_probs"], leaf.grad.numpy(), rtol=0, atol=2e-6)


def test_the_gradient_of_ctc_is_that_of_the_logits() -> None:
    # torch's convention: what `log_probs.grad` says is the gradient in the logits behind a log-softmax
    path = exports.onnx(el.CTCLoss(reduction="sum"), gradients=("log_probs",))
    inputs = catalog.get("ctc_loss").example_inputs(seed=5)
    logits = torch.randn_like(inputs["log_probs"]).requires_grad_()
    inputs["log_probs"] = logits.log_softmax(-1)
    el.CTCLoss(reduction="sum")(**inputs).backward()
    got = onnx_runtime(path)(inputs)["grad_log_probs"]
    assert logits.grad is not None
    np.testing.assert_allclose(got, logits.grad.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "gradients", "message"),
    [
        ("ctc_loss", ("targets",), "gradients: got targets, expected some of log_probs"),
        ("ctc_loss", ("logits",), "gradients: got logits, expected some of log_probs"),
        ("classification_error", "all", "gradients: got 'all', expected none: no input of this module has"),
    ],
)
def test_gradients_that_there_are_not(
    row: str, gradients: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        to_onnx(catalog.get(row).module(), tmp_path / "model.onnx", gradients=gradients)


def test_integer_targets_have_no_gradient(tmp_path: Path) -> None:
    """Where a row takes integers in place of numbers, `all` means all that can have a gradient."""
    case, path = BY_NAME["l1_loss-mean"], tmp_path / "model.onnx"
    inputs = case.inputs()
    inputs["targets"] = (9 * inputs["targets"]).long()
    to_onnx(case.module(), path, inputs, gradients="all")
    got = onnx_runtime(path)(inputs)
    assert list(got) == ["loss", "grad_predictions"]
    assert_close(got, truth(case, inputs), case, "with integer targets")
    with pytest.raises(ValueError, match=r"^gradients: got targets, expected some of predictions$"):
        to_onnx(case.module(), path, inputs, gradients=("targets",))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_label_that_never_is_has_no_gradient_of_a_transducer(runtime: str) -> None:
    """The cost of its item is infinite, and the other items have the gradients that they had."""
    case = CASES["transducer_loss-mean"]
    path, inputs = exported(case), case.inputs("short", seed=1)
    inputs["target_lens"] = torch.ones_like(inputs["target_lens"])
    run = RUNTIMES[runtime](path)
    before = run(inputs)["grad_logits"]
    assert before[0].any()
    logits = inputs["logits"].clone()
    logits[0, ..., inputs["targets"][0, 0]] = -torch.inf
    got = run({**inputs, "logits": logits})
    assert np.isposinf(got["loss"])
    assert not got["grad_logits"][0].any()
    np.testing.assert_allclose(got["grad_logits"][1:], before[1:], rtol=0, atol=1e-6)
