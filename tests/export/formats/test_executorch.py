"""ExecuTorch: which sizes a program keeps open, and the numbers of eager where ExecuTorch is."""

from pathlib import Path

import pytest
import torch
from export_cases import BY_NAME, Case, Inputs
from onnx_runs import as_arrays, assert_close
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export import to_executorch
from exportable_losses.export.checking.runners import Absent
from exportable_losses.export.formats.executorch import bounded
from exportable_losses.export.formats.executorch_elsewhere import VARIABLE, call
from exportable_losses.export.formats.plan import plan
from exportable_losses.runtime.testdata import read_test_data


def _sizes(case: Case, inputs: Inputs) -> dict[str, list[int | str]]:
    """Each dimension of each input: its size where it has one only, else what it may be up to."""
    program = bounded(plan(case.module(), inputs))
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    bounds = program.range_constraints
    return {
        name: [
            f"to {bounds[n.node.expr].upper}" if isinstance(n, torch.SymInt) else n
            for n in values[name].shape
        ]
        for name in inputs
    }


def test_what_a_loop_carries_has_one_size_and_all_others_a_bound() -> None:
    case = Case("ctc_loss")
    inputs = case.entry.example_inputs(B=3, T=50, C=40, S=4)
    sizes = _sizes(case, inputs)
    assert sizes == {
        "log_probs": [3, "to 50", "to 40"],
        "targets": [3, 4],
        "input_lens": [3],
        "target_lens": [3],
    }


def test_without_a_loop_the_inputs_are_the_largest() -> None:
    case = Case("l1_loss")
    inputs = case.entry.example_inputs(B=50, T=40, X0=60, N=44)
    assert _sizes(case, inputs)["predictions"] == ["to 50", "to 40", "to 60"]
    assert _sizes(case, inputs)["targets"] == ["to 50", "to 44", "to 60"]


def test_where_there_is_none_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(Absent, match=rf"^{VARIABLE} is no Python: "):
        to_executorch(el.L1Loss(), tmp_path / "model.pte")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def executorch() -> None:
    try:
        call("version")
    except (Absent, RuntimeError) as error:
        pytest.skip(f"ExecuTorch: {error}")


# Rows of every kind of loop, of a sort and of sizes of which either may be the larger; and other sizes,
# where what a loop carries stays: the batch, labels or sources.
SMALLER = {
    "ctc_loss-none": {"T": 9, "C": 5},
    "transducer_loss-none": {"T": 9, "V": 6},
    "CTCPosterior": {"T": 9, "C": 5},
    "TransducerAlign": {"T": 9, "V": 6},
    "TDTLoss-none": {"T": 9, "V": 6},
    "PruneRanges": {"T": 9, "V": 6},
    "PitWrapper": {"X0": 3},
    "EditDistance": {"K": 9},
    "EqualErrorRate": {"P": 7, "Q": 9},
    "l1_loss-mean": {"B": 2, "T": 9, "N": 6, "X0": 2},
    "kldiv_loss-mean": {"B": 2, "T": 6, "N": 9, "C": 3},
}


@pytest.mark.usefixtures("executorch")
@pytest.mark.parametrize("name", SMALLER)
def test_the_numbers_of_eager(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    largest = case.inputs()
    to_executorch(case.module(), tmp_path / "model.pte", largest)
    assert list(read_test_data(tmp_path / "test_data_set_0")[0]) == list(largest)
    calls = [largest, case.entry.example_inputs(1, **SMALLER[name])]
    for inputs, outputs in zip(calls, _run(tmp_path / "model.pte", calls), strict=True):
        assert isinstance(outputs, list), outputs
        assert_close(as_arrays(case.outputs(tuple(outputs))), case.truth(inputs), case, "ExecuTorch")


@pytest.mark.usefixtures("executorch")
def test_larger_sizes_are_refused(tmp_path: Path) -> None:
    case = Case("ctc_loss")
    to_executorch(case.module(), tmp_path / "model.pte")
    sizes = ({"T": 15}, {"S": 3}, {"B": 2})
    calls = [case.entry.example_inputs(**other) for other in sizes]
    for outputs in _run(tmp_path / "model.pte", calls):
        assert isinstance(outputs, str)
        assert "failed with error" in outputs


class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(x)


@pytest.mark.usefixtures("executorch")
def test_what_executorch_has_no_kernel_of_is_named(tmp_path: Path) -> None:
    said = r"^module: Determinant does not export: .* has no kernel of aten::_linalg_det\.result$"
    with pytest.raises(RuntimeError, match=said):
        to_executorch(Determinant(), tmp_path / "model.pte", {"x": torch.eye(3)})
    assert not list(tmp_path.iterdir())


def _run(path: Path, calls: list[Inputs]) -> list[list[Tensor] | str]:
    jobs, results = path.with_name("jobs"), path.with_name("results")
    torch.save([(str(path), list(inputs.values())) for inputs in calls], jobs)
    call("run", str(jobs), str(results))
    found: list[list[Tensor] | str] = torch.load(results)
    return found
