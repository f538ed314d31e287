"""Every way of computing a row gives the same numbers, at sizes other than the exported one.

Eager, scripted, the saved TorchScript file in a process of torch alone, the ONNX file in ONNX Runtime
and in ONNX's own reference evaluator are each held to eager in float64.
"""

import warnings
from collections.abc import Iterator

import pytest
import torch
from export_cases import BY_NAME, EACH, OTHER_SIZES, Case, Inputs, TorchAlone
from onnx_runs import RUNTIMES, Arrays, as_arrays, assert_close


def scripted(case: Case) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        return torch.jit.script(case.module())


def every_way(case: Case, alone: TorchAlone, calls: list[Inputs]) -> Iterator[tuple[str, list[Arrays]]]:
    """What each way of computing gives for each call."""
    eager, script = case.module(), scripted(case)
    yield "eager", [as_arrays(case.outputs(eager(**call))) for call in calls]
    yield "scripted", [as_arrays(case.outputs(script(**call))) for call in calls]
    yield "TorchScript file", [as_arrays(case.outputs(o)) for o in alone(case.script(), calls)]
    for name, runtime in RUNTIMES.items():
        run = runtime(case.graph())
        yield name, [run(call) for call in calls]


@pytest.mark.parametrize("name", EACH)
def test_every_way_gives_the_same(name: str, torch_alone: TorchAlone) -> None:
    case = BY_NAME[name]
    calls = [case.inputs(size, seed=1) for size in OTHER_SIZES]
    truths = [case.truth(call) for call in calls]
    for way, outputs in every_way(case, torch_alone, calls):
        for size, got, truth in zip(OTHER_SIZES, outputs, truths, strict=True):
            assert_close(got, truth, case, f"{way} at size {size!r}")
