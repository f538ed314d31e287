"""An ONNX file in each runtime that the tests have, and how close to eager float64 is close."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from export_cases import Case, Inputs
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from exportable_losses.runtime import LossSession

Arrays = dict[str, np.ndarray]
Run = Callable[[Inputs], Arrays]


class GatherElements(OpRun):
    """The reference evaluator's own takes fewer than 64 elements along the axis (`np.choose`'s limit)."""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices, axis),)


class LogSoftmax(OpRun):
    """The reference evaluator's own takes the logarithm of a softmax, which underflows at logits of ±1e4."""

    def _run(self, x: np.ndarray, axis: int = -1) -> tuple[np.ndarray]:
        centred = x - x.max(axis, keepdims=True)
        return (centred - np.log(np.exp(centred).sum(axis, keepdims=True)),)


def as_arrays(tensors: Inputs) -> Arrays:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def onnx_runtime(path: Path) -> Run:
    """ONNX Runtime through our session, with the bodies in the file and no library of ours."""
    session = LossSession(path, native=False)
    return lambda inputs: session(**as_arrays(inputs))


def onnx_reference(path: Path) -> Run:
    """ONNX's own evaluator, which is numpy and shares nothing with ONNX Runtime."""
    # inlined, because new_ops do not reach into a function
    inlined = inline_local_functions(onnx.load(path))
    evaluator = ReferenceEvaluator(inlined, new_ops=[GatherElements, LogSoftmax])

    def run(inputs: Inputs) -> Arrays:
        with np.errstate(all="ignore"):  # log(0) is what impossible is
            outputs = evaluator.run(None, as_arrays(inputs))
        return dict(zip(evaluator.output_names, outputs, strict=True))

    return run


RUNTIMES = {"ONNX Runtime": onnx_runtime, "onnx.reference": onnx_reference}

# Units of the dtype's epsilon, relative to the largest magnitude (or to one). A float32 sum of the few
# hundred terms here is off by the square root of their number, some twenty roundings at most.
ROUNDINGS = 20
# SI-SNR subtracts a projection from the estimate: where an estimate of a few samples happens to lie
# close to its source, 20 dB say, the noise that is left has a hundred times the relative error.
ROUNDINGS_OF = dict.fromkeys(("cal_si_snr", "get_si_snr_with_pitwrapper", "SISNRImprovement"), 100)


def assert_close(got: Arrays, truth: Inputs, case: Case, where: str) -> None:
    assert list(got) == list(truth), where
    epsilon = 1e-10 if case.dtype == torch.float64 else np.finfo(np.float32).eps
    for name, expected in as_arrays(truth).items():
        finite = np.abs(expected[np.isfinite(expected)])
        roundings = 1 if case.dtype == torch.float64 else ROUNDINGS_OF.get(case.row, ROUNDINGS)
        tolerance = roundings * epsilon * max(1.0, finite.max(initial=0.0))
        np.testing.assert_allclose(
            np.asarray(got[name], np.float64), expected, rtol=0, atol=tolerance, err_msg=f"{where}: {name}"
        )
