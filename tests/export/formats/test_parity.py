"""Every way of computing a row gives the same numbers, at sizes other than the exported one.

Eager, scripted, the saved TorchScript file in a process of torch alone, the ONNX file in ONNX Runtime
and in ONNX's own reference evaluator are each held to eager in float64.
"""

import warnings

import pytest
import torch
from export_cases import BY_NAME, EACH, EXPORTED, OTHER_SIZES, Case, Inputs, TorchAlone
from onnx_runs import RUNTIMES, Arrays, as_arrays, assert_close


def scripted(case: Case) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        return torch.jit.script(case.module())


def check(way: str, case: Case, calls: list[Inputs], outputs: list[Arrays]) -> None:
    for size, call, got in zip(OTHER_SIZES, calls, outputs, strict=True):
        assert_close(got, case.truth(call), case, f"{way} at size {size!r}")


def calls_of(case: Case) -> list[Inputs]:
    return [case.inputs(size, seed=1) for size in OTHER_SIZES]


@pytest.mark.parametrize("name", EACH)
def test_every_way_of_torch_gives_the_same(name: str, torch_alone: TorchAlone) -> None:
    case = BY_NAME[name]
    calls, eager, script = calls_of(case), case.module(), scripted(case)
    check("eager", case, calls, [as_arrays(case.outputs(eager(**call))) for call in calls])
    check("scripted", case, calls, [as_arrays(case.outputs(script(**call))) for call in calls])
    alone = torch_alone(case.script(), calls)
    check("TorchScript file", case, calls, [as_arrays(case.outputs(output)) for output in alone])


@pytest.mark.parametrize("name", EXPORTED)
def test_every_way_of_onnx_gives_the_same(name: str) -> None:
    case = BY_NAME[name]
    calls = calls_of(case)
    for way, runtime in RUNTIMES.items():
        run = runtime(case.graph())
        check(way, case, calls, [run(call) for call in calls])
