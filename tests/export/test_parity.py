"""Every way of computing a row gives the same numbers, at sizes other than the exported one.

Eager, scripted, the saved TorchScript file in a process of torch alone, the ONNX file in ONNX Runtime
and in ONNX's own reference evaluator are each held to eager in float64.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import BY_NAME, OTHER_SIZES, Case, Export, Inputs, TorchAlone
from onnx_runs import RUNTIMES, Arrays, as_arrays

# Units of the dtype's epsilon, relative to the largest magnitude (or to one). A float32 sum of the few
# hundred terms here is off by the square root of their number, some twenty roundings at most.
ROUNDINGS = 20
# SI-SNR subtracts a projection from the estimate: where an estimate of a few samples happens to lie
# close to its source, 20 dB say, the noise that is left has a hundred times the relative error.
ROUNDINGS_OF = dict.fromkeys(("cal_si_snr", "get_si_snr_with_pitwrapper", "SISNRImprovement"), 100)


def scripted(case: Case) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        return torch.jit.script(case.module())


def every_way(
    case: Case, folder: Path, alone: TorchAlone, calls: list[Inputs]
) -> Iterator[tuple[str, list[Arrays]]]:
    """What each way of computing gives for each call."""
    eager, script = case.module(), scripted(case)
    yield "eager", [as_arrays(case.outputs(eager(**call))) for call in calls]
    yield "scripted", [as_arrays(case.outputs(script(**call))) for call in calls]
    yield "TorchScript file", [as_arrays(case.outputs(o)) for o in alone(folder / "model.pt", calls)]
    for name, runtime in RUNTIMES.items():
        run = runtime(folder / "model.onnx")
        yield name, [run(call) for call in calls]


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


@pytest.mark.parametrize("name", BY_NAME)
def test_every_way_gives_the_same(name: str, export: Export, torch_alone: TorchAlone) -> None:
    case = BY_NAME[name]
    calls = [case.inputs(size, seed=1) for size in OTHER_SIZES]
    truths = [case.truth(call) for call in calls]
    for way, outputs in every_way(case, export(case), torch_alone, calls):
        for size, got, truth in zip(OTHER_SIZES, outputs, truths, strict=True):
            assert_close(got, truth, case, f"{way} at size {size!r}")
