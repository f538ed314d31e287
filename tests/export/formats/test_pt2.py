"""Archives of `torch.export`: the numbers of eager where torch alone is known, at any size."""

import re
import zipfile
from pathlib import Path

import exports
import pytest
import torch
from export_cases import BY_NAME, CASES, OTHER_SIZES, Case, TorchAlone
from onnx_runs import as_arrays, assert_close
from torch import Tensor, nn
from torch.export import ExportedProgram

import exportable_losses as el
from exportable_losses.export import to_pt2
from exportable_losses.runtime.testdata import read_test_data

LATTICES = ("ctc_loss", "ctc_loss_kd", "CTCPosterior", "CTCAlign")
LATTICES += ("transducer_loss", "TransducerPosterior", "TransducerAlign")
FIRST = {case.row: str(case) for case in reversed(CASES)}
OTHERS = (
    *(f"{row}-last_blank" for row in LATTICES),
    *(f"{row}-float64" for row in (*LATTICES, "PitWrapper", "EditDistance")),
    *("CTCForwardChunk-last_blank", "ctc_loss-infinite_none", "transducer_loss-normalize"),
    *("l1_loss-batch-no_length", "bce_loss-pos_weight", "PitWrapper-deep", "cal_si_snr-integers"),
    *("AutoencoderLoss-none", "VariationalAutoencoderLoss-len_dim_none", "SISNRImprovement-no_pit"),
)
# what others of the same operators show as well: TDT those of all arcs, `SimpleTransducerAlign` its other
# walks, layers in front of a lattice those of `FusedTransducerLoss`, and rows without a loop each other
AS_OTHERS = {
    f"{kind}{what}"
    for kind in ("MultiBlankTransducer", "HAT", "PrunedTransducer")
    for what in ("Loss", "Posterior", "Align")
}
AS_OTHERS |= {
    "TDTPosterior",
    "SimpleTransducerLoss",
    "ctc_loss_kd",
    "TransducerForwardChunk",
    "TokenErrorRate",
}
AS_OTHERS |= {"LinearCTCLoss", "LinearCTCGreedyDecode", "LinearCTCAlign", "CTCGreedyDecode"}
AS_OTHERS |= {"TDTAlign", "SimpleTransducerPosterior", "VariationalAutoencoderLoss", "SISNRImprovement"}
AS_OTHERS |= {"mse_loss", "distance_diff_loss", "nll_loss_kd", "cal_snr", "get_snr_with_pitwrapper", "MinDCF"}
AS_OTHERS |= {"get_si_snr_with_pitwrapper", "compute_length_mask", "reduce_loss", "Laplacian", "Perplexity"}
NAMES = [
    pytest.param(name, marks=pytest.mark.thorough if row in AS_OTHERS else ()) for row, name in FIRST.items()
]
NAMES = [*NAMES, *(pytest.param(name, marks=pytest.mark.thorough) for name in OTHERS)]


@pytest.mark.parametrize("name", NAMES)
def test_torch_alone_gives_the_numbers_of_eager(name: str, torch_alone: TorchAlone) -> None:
    case = BY_NAME[name]
    path = exports.pt2(case.module(), case.inputs())
    if "torch.ops.higher_order.scan" in (texts := _texts(path)):
        check_loops(torch.export.load(path))
    assert "torch.ops.aten.pow.Scalar" not in texts  # of integers it is wrong in AOTInductor
    assert path.stat().st_size < 100_000
    calls = [case.inputs(size, seed=1) for size in OTHER_SIZES]
    for size, call, got in zip(OTHER_SIZES, calls, torch_alone(path, calls), strict=True):
        assert_close(as_arrays(case.outputs(got)), case.truth(call), case, f"size {size!r}")


def check_loops(program: ExportedProgram) -> None:
    """A loop is given every size that what it stacks is made of: AOTInductor looks for them there alone."""
    for node in program.graph.nodes:
        if node.target is not torch.ops.higher_order.scan:
            continue
        _, carried, sequences, others = node.args
        values = [each.meta["val"] for each in others] + [sequences[0].meta["val"].shape[0]]
        given = {value.node.expr for value in values if isinstance(value, torch.SymInt)}
        for stacked in node.meta["val"][len(carried) :]:
            sizes = [size.node.expr for size in stacked.shape if isinstance(size, torch.SymInt)]
            assert set().union(*(size.free_symbols for size in sizes)) <= given


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss", "PitWrapper", "EditDistance"])
def test_a_loop_is_one_node_in_operators_of_torch(row: str) -> None:
    program = torch.export.load(exports.pt2(Case(row).module()))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "scan" in called
    assert all(re.match(r"scan$|aten\.|<built-in function", name) for name in called)


def _texts(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".json"))


def test_files_of_equal_bytes_that_say_what_they_are_and_not_where_from(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt2", tmp_path / "b.pt2"
    for path in (first, second):
        to_pt2(el.TransducerLoss(reduction="none"), path)
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(r"\.py\b|exportable_losses[.:]", _texts(first))
    extra = {"exportable_losses.json": ""}
    torch.export.load(first, extra_files=extra)
    assert '"row": "transducer_loss"' in extra["exportable_losses.json"]


def test_test_data_stand_beside_the_file(tmp_path: Path) -> None:
    case = Case("AutoencoderLoss", "", {"reduction": "none"})
    inputs = case.inputs()
    to_pt2(case.module(), tmp_path / "model.pt2", inputs)
    given, expected = read_test_data(tmp_path / "test_data_set_0")
    assert list(given) == list(inputs)
    assert list(expected) == list(case.entry.outputs)


def test_inputs_are_called_by_name_in_any_order() -> None:
    case = Case("ctc_loss")
    loss = torch.export.load(exports.pt2(case.module())).module()
    inputs = case.inputs("large")
    expected = case.module()(**inputs)
    torch.testing.assert_close(loss(**dict(reversed(inputs.items()))), expected)


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss", "l1_loss", "PitWrapper"])
def test_sizes_that_disagree_are_refused(row: str) -> None:
    case = Case(row)
    loss = torch.export.load(exports.pt2(case.module())).module()
    inputs = case.inputs("large")
    for name in inputs:
        other = {**inputs, name: inputs[name][:-1]}
        with pytest.raises(AssertionError, match=r"size\(\)\[0\]"):
            loss(**other)


def test_modules_and_inputs_are_left_as_they_were(tmp_path: Path) -> None:
    case = Case("AutoencoderLoss")
    module, inputs = case.module(), case.inputs()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    to_pt2(module, tmp_path / "model.pt2", inputs)
    assert module.training
    assert "forward" not in vars(module)
    assert type(module(**inputs)).__name__ == "AutoencoderLossDetails"
    assert all(torch.equal(before[name], tensor) for name, tensor in inputs.items())


class Recogniser(nn.Module):
    """A model of one's own, with torch's loss in it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 6)

    def forward(self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> dict[str, Tensor]:
        log_probs = self.head(features).log_softmax(-1)
        loss = nn.functional.ctc_loss(log_probs.transpose(0, 1), targets, frames, labels)
        return {"loss": loss, "best": log_probs.argmax(-1)}


def _batch(size: int, frames: int, labels: int) -> dict[str, Tensor]:
    return {
        "features": torch.randn(size, frames, 4, generator=torch.Generator().manual_seed(0)),
        "targets": torch.randint(1, 6, (size, labels), generator=torch.Generator().manual_seed(1)),
        "frames": torch.full((size,), frames),
        "labels": torch.full((size,), labels),
    }


def test_a_model_of_ones_own(tmp_path: Path, torch_alone: TorchAlone) -> None:
    model = Recogniser()
    to_pt2(model, tmp_path / "model.pt2", _batch(2, 9, 3))
    calls = [_batch(3, 20, 5), _batch(1, 8, 2)]
    for call, got in zip(calls, torch_alone(tmp_path / "model.pt2", calls), strict=True):
        torch.testing.assert_close(got, model(**call))


class Unbounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_does_not_export_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^module: Unbounded does not export: .*data-dependent"):
        to_pt2(Unbounded(), tmp_path / "model.pt2", {"x": torch.ones(2)})
    with pytest.raises(TypeError, match=r"^module: got Linear, expected a module of the catalog"):
        to_pt2(nn.Linear(2, 2), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"^inputs: got extra, expected predictions"):
        to_pt2(el.L1Loss(), tmp_path / "model.pt2", {"extra": torch.ones(2)})
    assert not list(tmp_path.iterdir())
