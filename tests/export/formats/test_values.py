"""Values at which a graph goes wrong when the exporter drops, reorders or approximates something."""

import numpy as np
import pytest
import torch
from export_cases import BY_NAME, Case, Inputs
from onnx_runs import RUNTIMES, Arrays

from exportable_losses import catalog

EPSILON = float(np.finfo(np.float32).eps)


def outputs(case: Case, inputs: Inputs) -> list[Arrays]:
    """What each runtime gives."""
    return [runtime(case.graph())(inputs) for runtime in RUNTIMES.values()]


def agree(case: Case, inputs: Inputs, truth: Inputs | None = None) -> None:
    """Each runtime against eager in float64, to twenty roundings of float32."""
    truth = case.truth(inputs) if truth is None else truth
    for got in outputs(case, inputs):
        for name, expected in truth.items():
            np.testing.assert_allclose(got[name], expected.numpy(), rtol=20 * EPSILON, atol=20 * EPSILON)


SEPARATION = ("cal_si_snr", "cal_snr", "get_si_snr_with_pitwrapper", "get_snr_with_pitwrapper")


@pytest.mark.parametrize("row", SEPARATION)
@pytest.mark.parametrize("silent", [("source",), ("estimate_source",), ("source", "estimate_source")])
def test_silent_signals(row: str, silent: tuple[str, ...]) -> None:
    # without its two epsilons of 1e-8 the ratio is a logarithm of zero, or of 0 / 0
    case = BY_NAME[row]
    inputs = case.inputs("short")
    inputs |= {name: torch.zeros_like(inputs[name]) for name in silent}
    expected = case.truth(inputs)["loss"]
    assert expected.isfinite().all()
    if "source" in silent:  # nothing above something: 10 log10(1e-8)
        torch.testing.assert_close(expected, torch.full_like(expected, 80.0))
    agree(case, inputs)


@pytest.mark.parametrize("row", ["cal_snr", "get_snr_with_pitwrapper"])
def test_a_perfect_estimate(row: str) -> None:
    case = BY_NAME[row]
    inputs = case.inputs("short")
    inputs["estimate_source"] = inputs["source"]
    assert case.truth(inputs)["loss"].isfinite().all()
    agree(case, inputs)


def test_negatives_that_equal_the_positive_are_left_out() -> None:
    case = BY_NAME["ContrastiveLoss"]
    inputs = case.inputs("large")
    inputs["negs"][::2] = inputs["y"]
    agree(case, inputs)
    inputs["negs"][:] = inputs["y"]
    agree(case, inputs, {"loss": torch.tensor(0.0), "accuracy": torch.tensor(1.0)})


def test_vectors_of_zeros_have_no_direction() -> None:
    case = BY_NAME["ContrastiveLoss"]
    inputs = case.inputs("short")
    inputs["x"] = torch.zeros_like(inputs["x"])
    assert case.truth(inputs)["loss"].isfinite()
    agree(case, inputs)


def test_the_first_of_equal_classes_is_the_best() -> None:
    case = BY_NAME["classification_error-none-no_length"]
    probabilities = torch.tensor([[[0.4, 0.4, 0.2], [0.1, 0.45, 0.45], [0.0, 0.0, 0.0]]])
    targets = torch.tensor([[0, 1, 0]])
    inputs = {"probabilities": probabilities, "targets": targets}
    agree(case, inputs, {"loss": torch.zeros(1, 3)})


@pytest.mark.parametrize("magnitude", [50.0, 200.0, 1e4, 1e30])
def test_large_logits_of_the_binary_loss(magnitude: float) -> None:
    case = BY_NAME["bce_loss-frames"]
    inputs = case.inputs("short")
    inputs["inputs"] = magnitude * inputs["inputs"].sign()
    assert case.truth(inputs)["loss"].isfinite()
    agree(case, inputs)


@pytest.mark.parametrize("magnitude", [10.0, 17.5, 30.0])
def test_small_losses_of_confident_logits(magnitude: float) -> None:
    # log(1 + e^-17.5) is lost in the rounding of 1 + e^-17.5, unless that is made good
    case = BY_NAME["bce_loss-frames"]
    inputs = case.inputs("short")
    inputs["inputs"] = torch.full_like(inputs["inputs"], magnitude)
    inputs["targets"] = torch.ones_like(inputs["targets"])
    expected = case.truth(inputs)["loss"].item()
    assert 0 < expected < 1e-4
    for got in outputs(case, inputs):
        np.testing.assert_allclose(got["loss"], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["reduce_loss-mean", "reduce_loss-batchmean", "mse_loss-mean-no_length"])
def test_means_of_many(name: str) -> None:
    # a naive float32 sum of 640,000 numbers is off by more than ten roundings
    case = BY_NAME[name]
    drawn = catalog.get(case.row).example_inputs(seed=3, B=16, T=500, X0=80)
    inputs = {name: drawn[name] for name in case.inputs("short")}
    truth = case.truth(inputs)
    for got in outputs(case, inputs):
        for output, expected in truth.items():
            np.testing.assert_allclose(got[output], expected.numpy(), rtol=4 * EPSILON, atol=0)


@pytest.mark.parametrize("name", ["AdditiveAngularMargin-margin", "AdditiveAngularMargin-easy"])
def test_cosines_of_exactly_one(name: str) -> None:
    # against eager float32: the clamp to 1 - 1e-7 is a bound that float32 rounds
    case = BY_NAME[name]
    inputs = case.inputs("short")
    inputs["outputs"] = inputs["outputs"].sign()
    agree(case, inputs, case.outputs(case.module()(**inputs)))


MASKED = {
    "l1_loss": "predictions",
    "mse_loss": "predictions",
    "nll_loss": "log_probabilities",
    "bce_loss": "inputs",
    "kldiv_loss": "log_probabilities",
    "distance_diff_loss": "predictions",
    "AutoencoderLoss": "rec",
    "nll_loss_kd": "probabilities",
}


@pytest.mark.parametrize("row", MASKED)
def test_infinities_behind_a_length_are_not_read(row: str) -> None:
    case = next(case for case in BY_NAME.values() if case.row == row)
    clean = case.inputs("large")
    length = "rel_lab_lengths" if row == "nll_loss_kd" else "length"
    clean[length] = torch.tensor([1.0, 0.5, 0.75, 1 / 29, 0.6])
    filled = {**clean, MASKED[row]: clean[MASKED[row]].clone()}
    for item, share in enumerate(clean[length]):
        filled[MASKED[row]][item, int(torch.ceil(share * 29)) :] = torch.inf
    assert not torch.equal(clean[MASKED[row]], filled[MASKED[row]])
    agree(case, filled, case.truth(clean))


def test_a_class_of_no_probability_is_no_concern_of_other_targets() -> None:
    case = BY_NAME["nll_loss-mean"]
    inputs = case.inputs("short")
    inputs["log_probabilities"][..., 2] = -torch.inf
    inputs["targets"] = inputs["targets"] % 2
    assert case.truth(inputs)["loss"].isfinite()
    agree(case, inputs)


@pytest.mark.parametrize("row", SEPARATION)
def test_sessions_take_integer_signals_exactly(row: str) -> None:
    # into a graph of float32: 16-bit samples are cast, those that float32 cannot hold refused
    case = BY_NAME[row]
    path = case.graph()
    inputs = {name: (3000 * x).to(torch.int16) for name, x in case.inputs("large").items()}
    run = RUNTIMES["ONNX Runtime"](path)
    expected = case.truth(inputs)["loss"].numpy()
    np.testing.assert_allclose(run(inputs)["loss"], expected, rtol=100 * EPSILON, atol=100 * EPSILON)
    wide = {name: x.long() + 2**24 for name, x in inputs.items()}
    with pytest.raises(TypeError, match=r"^source: got int64, expected float32"):
        run({name: x | 1 for name, x in wide.items()})
