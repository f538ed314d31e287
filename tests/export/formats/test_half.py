"""Graphs that take and give 16 bits: as exact as 16 bits are, whatever the size of the scores."""

from pathlib import Path
from typing import Any

import half
import numpy as np
import onnx
import pytest
import rows
import torch
from export_cases import BY_NAME, Case, Inputs
from torch import nn

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx, to_pt2
from exportable_losses.export.formats.half import TYPES, in_half, kept, narrow
from exportable_losses.runtime import LossSession, compare
from exportable_losses.runtime.testdata import read_test_data

ROWS = {row: next(case for case in BY_NAME.values() if case.row == row) for row in catalog.names()}
BITS = {"float16": 11, "bfloat16": 8}  # of a mantissa
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-126}
# rows that take logits or log-probabilities, and what gives a probability zero is no reason for infinity
_LOSSES = ("nll_loss", "bce_loss", "ctc_loss", "transducer_loss", "nll_loss_kd", "ctc_loss_kd")
_LOSSES += ("TDTLoss", "MultiBlankTransducerLoss", "HATLoss", "PrunedTransducerLoss")
_PATHS = ("CTCPosterior", "CTCAlign", "TransducerPosterior", "TransducerAlign", "TDTPosterior", "TDTAlign")
_PATHS += ("MultiBlankTransducerPosterior", "MultiBlankTransducerAlign", "HATPosterior", "HATAlign")
_PATHS += ("PrunedTransducerPosterior", "PrunedTransducerAlign")
OF_SCORES = (*_LOSSES, "LogSoftmaxWrapper", *_PATHS)


def run_half(case: Case, inputs: Inputs, dtype: Any, folder: Path) -> tuple[Any, Inputs]:
    """What the narrowed graph gives, and what eager gives in float64, of the same numbers."""
    model = onnx.load(case.graph())
    given = in_half(case.module(), inputs, dtype)
    narrowed = [name for name in given if given[name].dtype != inputs[name].dtype]
    narrow(model, narrowed, dtype, kept(case.module()))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "half.onnx")
    session = LossSession(folder / "half.onnx")
    got = session(**{name: half.as_array(tensor) for name, tensor in given.items()})
    exact = {name: x.float() if x.dtype == TYPES[dtype][0] else x for name, x in given.items()}
    return got, case.truth(exact)


def assert_as_exact_as_half(got: Any, truth: Inputs, dtype: str) -> None:
    assert list(got) == list(truth)
    for name, tensor in truth.items():
        expected = tensor.numpy()
        if tensor.dtype != torch.float64:
            np.testing.assert_array_equal(got[name], expected, err_msg=name)
            continue
        if got[name].dtype == np.float64:  # the gaps of a calibration error: sums over a corpus
            continue
        state = name in ("alpha_out", "offset_out")
        assert got[name].dtype == (np.float32 if state else half.NUMPY[dtype]), name
        most = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
        inside = 100 * np.finfo(np.float32).eps * most
        allowed = np.abs(expected) * 2.0 ** -BITS[dtype] + inside + SMALLEST[dtype]
        same = np.isneginf(expected) | np.isposinf(expected)
        off = np.abs(np.where(same, 0, got[name].astype(np.float64) - np.where(same, 0, expected)))
        assert (off <= np.where(same, 0, allowed)).all(), f"{name}: off by {off.max()}"
        np.testing.assert_array_equal(got[name].astype(np.float64)[same], expected[same])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("row", ROWS)
def test_as_exact_as_sixteen_bits(row: str, dtype: str, tmp_path: Path) -> None:
    case = ROWS[row]
    got, truth = run_half(case, case.inputs("short", seed=2), dtype, tmp_path)
    assert_as_exact_as_half(got, truth, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("row", OF_SCORES)
def test_nothing_overflows(row: str, dtype: str, tmp_path: Path) -> None:
    """Scores of 10,000 and what they lead to: up to 60,000 nats, which float16 still holds."""
    case = ROWS[row]
    inputs = case.inputs("short", seed=3)  # three frames
    name, legal = case.entry.inputs[0].name, case.entry.inputs[0].legal
    high = 0.0 if legal == "log_probability" else 1e4
    drawn = torch.rand(inputs[name].shape, generator=torch.Generator().manual_seed(0))
    inputs[name] = torch.where(drawn < 0.5, -1e4, high)
    got, truth = run_half(case, inputs, dtype, tmp_path)
    for array in got.values():
        assert np.isfinite(array.astype(np.float64)).all()
    assert_as_exact_as_half(got, truth, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_file_has_its_test_data_and_gradients(dtype: Any, tmp_path: Path) -> None:
    model = to_onnx(
        el.CTCLoss(reduction="none"), tmp_path / "loss.onnx", gradients=("log_probs",), dtype=dtype
    )
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert kinds == {
        "log_probs": TYPES[dtype][1],
        "targets": onnx.TensorProto.INT64,
        "input_lens": onnx.TensorProto.FLOAT,
        "target_lens": onnx.TensorProto.FLOAT,
        "loss": TYPES[dtype][1],
        "grad_log_probs": TYPES[dtype][1],
    }
    inputs, outputs = read_test_data(tmp_path / "test_data_set_0")
    assert inputs["log_probs"].dtype == outputs["loss"].dtype == half.NUMPY[dtype]
    for difference in compare(LossSession(tmp_path / "loss.onnx")(**inputs), outputs):
        assert difference.half
        assert difference.within()
    assert {"CTCLoss", "CTCLossGrad"} & {node.op_type for node in model.graph.node}  # still one node


def test_lengths_keep_their_bits(tmp_path: Path) -> None:
    """999 of 1000 frames: in float16 the relative length would be that of 999.5."""
    inputs = catalog.get("l1_loss").example_inputs(B=2, T=1000, N=1000, X0=1)
    inputs["length"] = torch.tensor([1.0, 0.999])
    assert in_half(el.L1Loss(), inputs, "float16")["length"].dtype == torch.float32


class EitherWay(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x, y: (2 * x + y).sum(), lambda x, y: (x - y).sum(), (x, y))


def test_a_branch_reads_what_is_outside(tmp_path: Path) -> None:
    """A module of one's own, whose branches take the inputs by name."""
    inputs = {"x": torch.randn(2, 3), "y": torch.randn(2, 3)}
    model = to_onnx(EitherWay(), tmp_path / "model.onnx", inputs, dtype="float16")
    assert "If" in [node.op_type for node in model.graph.node]
    session, ones = LossSession(tmp_path / "model.onnx"), np.ones((2, 3), np.float16)
    assert session(x=ones, y=ones)["loss"] == np.float16(18)
    assert session(x=-ones, y=ones)["loss"] == np.float16(-12)


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x * self.weight).sum(), "weight": self.weight}


def test_a_weight_may_be_an_output(tmp_path: Path) -> None:
    to_onnx(Weight(), tmp_path / "model.onnx", {"x": torch.randn(2, 3)}, dtype="float16")
    got = LossSession(tmp_path / "model.onnx")(x=np.ones((1, 3), np.float16))
    assert got["loss"] == np.float16(3)
    np.testing.assert_array_equal(got["weight"], np.arange(3, dtype=np.float16))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_state_keeps_its_bits(dtype: Any, tmp_path: Path) -> None:
    """Frame by frame, the cost of 400 frames is that of the whole, rounded once."""
    to_onnx(el.CTCForwardChunk(), tmp_path / "chunk.onnx", dtype=dtype)
    session = LossSession(tmp_path / "chunk.onnx")
    log_probs = torch.randn(2, 400, 9, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    log_probs, targets, ones = log_probs.to(TYPES[dtype][0]), torch.arange(1, 9).expand(2, 8), torch.ones(2)
    alpha, offset = (x.numpy() for x in el.CTCForwardChunk().initial_state(targets))
    whole = {"targets": targets.numpy(), "input_lens": ones.numpy(), "target_lens": ones.numpy()}
    for frame in log_probs.split(1, dim=1):
        got = session(log_probs=half.as_array(frame), **whole, alpha=alpha, offset=offset)
        costs, alpha, offset = got.values()
    truth = torch.nn.functional.ctc_loss(
        log_probs.double().transpose(0, 1),
        targets,
        torch.tensor([400, 400]),
        torch.tensor([8, 8]),
        reduction="none",
    )
    assert alpha.dtype == offset.dtype == np.float32
    assert_as_exact_as_half({"costs": costs}, {"costs": truth}, dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float8"}, "dtype: got 'float8', expected float16 or bfloat16"),
        (
            {"dtype": "float16", "inputs": torch.float64},
            "inputs: got float64 for predictions, expected float32",
        ),
    ],
)
def test_what_does_not_fit(arguments: Any, message: str, tmp_path: Path) -> None:
    inputs = catalog.get("l1_loss").example_inputs()
    kind = arguments.pop("inputs", torch.float32)
    inputs = {name: tensor.to(kind) for name, tensor in inputs.items()}
    with pytest.raises(ValueError, match=message):
        to_onnx(el.L1Loss(), tmp_path / "loss.onnx", inputs, **arguments)
    assert not list(tmp_path.iterdir())


def test_float32_is_not_cut_down_unasked(tmp_path: Path) -> None:
    to_onnx(el.L1Loss(), tmp_path / "loss.onnx", dtype="float16")
    arrays = {n: x.numpy() for n, x in catalog.get("l1_loss").example_inputs().items()}
    with pytest.raises(TypeError, match="predictions: got float32, expected float16"):
        LossSession(tmp_path / "loss.onnx")(**arrays)


# A model whose own numbers have 16 bits


class Twice(nn.Module):
    """A model of one's own, with a row at its end."""

    def __init__(self, row: nn.Module) -> None:
        super().__init__()
        self.row = row

    def forward(self, scores: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor) -> Any:
        return self.row(2 * scores, targets, lengths, lengths)


def scores_of_a_model(row: str, dtype: torch.dtype) -> Inputs:
    shape = (2, 9, 4, 6) if row.startswith("Transducer") else (2, 9, 6)
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).log_softmax(-1).to(dtype)
    return {"scores": scores, "targets": torch.tensor([[1, 2, 3], [2, 3, 4]]), "lengths": torch.ones(2)}


@pytest.mark.parametrize("row", ["CTCLoss", "TransducerLoss"])
def test_a_model_in_float16_with_a_lattice_in_it(row: str, tmp_path: Path) -> None:
    """onnxruntime has no bfloat16 for the rest of such a model."""
    model, inputs = Twice(getattr(el, row)()), scores_of_a_model(row, torch.float16)
    to_onnx(model, tmp_path / "model.onnx", inputs, gradients=("scores",))
    got = LossSession(tmp_path / "model.onnx")(**{name: x.numpy() for name, x in inputs.items()})
    leaf = inputs["scores"].requires_grad_()
    loss = model(**inputs)
    loss.backward()
    assert got["loss"].dtype == np.float32
    np.testing.assert_allclose(got["loss"], loss.detach().numpy(), rtol=1e-6)
    assert got["grad_scores"].dtype == np.float16
    np.testing.assert_allclose(got["grad_scores"], leaf.grad.numpy(), rtol=2.0**-10, atol=1e-6)


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        ("CTCLoss", torch.bfloat16),
        ("CTCPosterior", torch.float16),
        pytest.param("TransducerLoss", torch.bfloat16, marks=pytest.mark.thorough),  # as the others
        pytest.param("TransducerAlign", torch.float16, marks=pytest.mark.thorough),
    ],
)
def test_a_pt2_of_such_a_model(row: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, inputs = Twice(getattr(el, row)()), scores_of_a_model(row, dtype)
    to_pt2(model, tmp_path / "model.pt2", inputs)
    with torch.no_grad():
        got = torch.export.load(tmp_path / "model.pt2").module()(**inputs)
        torch.testing.assert_close(got, model(**inputs), rtol=1e-5, atol=1e-5)


# What the documentation says


def table() -> dict[tuple[str, str], list[str]]:
    """The figures of each row and output."""
    lines = rows.written(rows.HALF, "half precision").splitlines()[2:]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {(row, output): figures for row, output, *figures in cells}


def has_sixteen_bits(row: str) -> bool:
    case = ROWS[row]
    inputs, keep = case.inputs(), kept(case.module())
    outputs = case.outputs(case.module()(**inputs))
    return any(x.dtype == torch.float32 and name not in keep for name, x in {**inputs, **outputs}.items())


def test_the_table_has_what_has_sixteen_bits() -> None:
    """That it has every row is held where all tables are, in `test_readme.py`."""
    listed = list(dict.fromkeys(row for row, _ in table()))
    assert listed == [row for row in ROWS if row in listed and has_sixteen_bits(row)]
    assert "EditDistance" not in listed
    assert all(half.has_sixteen_bits(case.entry) == has_sixteen_bits(row) for row, case in ROWS.items())
    large = {row for (row, _), figures in table().items() if figures[2]}
    assert large >= set(OF_SCORES) - {"LogSoftmaxWrapper"}


@pytest.mark.parametrize("row", ["l1_loss", pytest.param("bce_loss", marks=pytest.mark.thorough), "ce_kd"])
def test_its_numbers_come_again(row: str) -> None:
    """To a fiftieth of a unit in the last place: float32's own error is less, on any processor."""
    found = [errors for dtype in TYPES for errors in half.errors(row, dtype)]
    got = [found[i].get("loss") for i in (0, 2, 1, 3)]
    for figure, error in zip(table()[row, "loss"], got, strict=True):
        assert bool(figure) == (error is not None)
        if error is not None:
            units, relative = figure.rstrip(")").split(" (")
            assert error.ulp == pytest.approx(float(units), abs=0.02)
            assert error.relative == pytest.approx(float(relative), rel=0.05)
