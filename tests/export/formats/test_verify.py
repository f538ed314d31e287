"""An export proves itself: what is off is an error and no file, at the example's sizes and at others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_cases import BY_NAME, FrameNLL
from onnx import TensorProto, helper
from onnxscript import opset18 as op
from torch import Tensor, nn
from torch.nn import functional as F

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import VerificationError, attach, to_executorch, to_onnx, to_pt2, to_torchscript
from exportable_losses.export.formats import executorch, pt2, sizes, torchscript
from exportable_losses.export.formats import onnx as to_graph
from exportable_losses.export.joint import fit

X = {"predictions": torch.linspace(-2, 2, 6).reshape(2, 3), "targets": torch.zeros(2, 3)}


@pytest.fixture
def translated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives operators of torch another translation."""

    def patch(**table: Any) -> None:
        wrong = {getattr(torch.ops.aten, name).default: node for name, node in table.items()}
        right = to_graph.translations
        monkeypatch.setattr(to_graph, "translations", lambda: {**right(), **wrong})

    return patch


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# A translation that is wrong


def test_a_wrong_output_is_named_and_leaves_no_file(translated: Any, tmp_path: Path) -> None:
    translated(abs=lambda x: op.Neg(x))
    with pytest.raises(
        VerificationError, match=r"^loss is off by 1\.2, its largest magnitude is 1\.2, in onnx"
    ):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", X)
    assert not list(tmp_path.iterdir())
    to_onnx(el.L1Loss(), tmp_path / "x.onnx", X, verify=False)
    assert (tmp_path / "x.onnx").exists()


def test_what_was_there_before_is_left_as_it_was(translated: Any, tmp_path: Path) -> None:
    to_onnx(el.L1Loss(reduction="sum"), tmp_path / "x.onnx", X)
    before = contents(tmp_path)
    translated(abs=lambda x: op.Neg(x))
    with pytest.raises(VerificationError):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", X)
    assert contents(tmp_path) == before
    assert len(before) == 4


def test_a_wrong_gradient_is_named(translated: Any, tmp_path: Path) -> None:
    translated(sgn=lambda x: op.Abs(op.Sign(x)))
    with pytest.raises(
        VerificationError, match=r"^grad_predictions is off by 0\.33, its largest .* is 0\.17,"
    ):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", X, gradients=("predictions",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "off"), [(None, 3e-4), ("float16", 3e-3), ("bfloat16", 3e-2)])
def test_a_small_error_is_one_too(dtype: Any, off: float, translated: Any, tmp_path: Path) -> None:
    translated(abs=lambda x: op.Mul(op.Abs(x), op.Constant(value_float=1 + off)))
    with pytest.raises(VerificationError, match="loss is off by"):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", X, dtype=dtype)


def test_float64_is_held_to_float64(translated: Any, tmp_path: Path) -> None:
    translated(abs=lambda x: op.CastLike(op.Cast(op.Abs(x), to=TensorProto.FLOAT), x))
    with pytest.raises(VerificationError, match="loss is off by"):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", {name: x.double() / 3 for name, x in X.items()})


def test_a_graph_that_does_not_run_is_one_too(translated: Any, tmp_path: Path) -> None:
    translated(abs=lambda x: op.Reshape(op.Abs(x), op.Constant(value_ints=[2, 3])))
    with pytest.raises(VerificationError, match=r"^onnxruntime does not run it at B=3, T=5"):
        to_onnx(el.L1Loss(reduction="none"), tmp_path / "x.onnx", X)


def test_the_operator_library_is_held_to_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("exportable_losses.export.formats.verify.library_path", lambda: "there is one")
    monkeypatch.setattr("exportable_losses.runtime.native.library_path", lambda: None)
    with pytest.raises(
        VerificationError, match=r"^onnxruntime with the operator library does not load it: nat"
    ):
        to_onnx(el.CTCLoss(), tmp_path / "x.onnx")


# A model of one's own


class Branches(nn.Module):
    """Something else for few frames: a trace sees one of both."""

    def forward(self, x: Tensor) -> Tensor:
        return (x if x.shape[1] > 4 else 2 * x).square().sum()


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.rand_like(x)).sum()


class Picky(nn.Module):
    """Refuses some sizes; the frames of both must be equal."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[0] < 2:
            raise ValueError("at least two")
        return (x - y).square().sum()


def test_a_branch_on_a_size_is_found(tmp_path: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"^loss is off by .* in onnxruntime at x_0=1, x_1=1, where x_1 > 4 does not"
    ):
        to_onnx(Branches(), tmp_path / "x.onnx", {"x": torch.randn(2, 9)})
    assert not list(tmp_path.iterdir())


def test_nothing_holds_a_file_to_random_numbers(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"^loss: eager torch gives another at every call"):
        to_onnx(Random(), tmp_path / "x.onnx", {"x": torch.randn(2, 9)})


def test_sizes_that_the_module_refuses_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    right = to_graph.verify_onnx
    monkeypatch.setattr(
        to_graph, "verify_onnx", lambda p, m, found, eager: tried.extend(found) or right(p, m, found, eager)
    )
    to_onnx(Picky(), tmp_path / "x.onnx", {"x": torch.randn(3, 9), "y": torch.randn(3, 9)})
    assert [tuple(case.inputs["x"].shape) for case in tried] == [(3, 9), (4, 11), (3, 1)] or [
        tuple(case.inputs["x"].shape) for case in tried
    ] == [(3, 9), (4, 11), (2, 1)]


# The sizes


def test_sizes_that_must_agree_move_together() -> None:
    now = {"B": 2, "T": 5, "N": 5, "C": 3}
    taken = lambda given: given if given["T"] == given["N"] and given["C"] > 1 else None  # noqa: E731
    larger, small = sizes.other_sizes(now, taken)
    assert larger == {"B": 3, "T": 7, "N": 7, "C": 6}
    assert small == {"B": 1, "T": 5, "N": 5, "C": 2}


def test_where_no_other_size_is_taken_there_is_none() -> None:
    assert not list(sizes.other_sizes({"B": 2}, lambda given: None))
    assert not list(sizes.other_sizes({}, lambda given: given))


def test_cut_and_repeated() -> None:
    given = {"x": torch.tensor([[0.5], [2.0], [3.0]]), "y": torch.tensor([4, 5, 6, 4])}
    dims = {"x": ["T", 1], "y": ["T+1"]}
    assert sizes.sizes_of(dims, given) == {"T": 3}
    made = sizes.resized(given, dims, {"T": 4})
    torch.testing.assert_close(made["x"][:, 0], torch.tensor([0.5, 2.0, 3.0, 0.45]))
    assert made["y"].tolist() == [4, 5, 6, 4, 4]
    assert sizes.resized(given, dims, {"T": 1})["x"].tolist() == [[0.5]]
    with pytest.raises(ValueError, match="the integers go to 6"):  # classes, of which they would be none
        sizes.resized({**given, "x": torch.rand(3, 9)}, {**dims, "x": [3, "C"]}, {"T": 3, "C": 6})


def test_padding_stays_behind_what_it_pads() -> None:
    labels = torch.tensor([[1, 2, 2], [3, -1, -1]])
    given = {"labels": labels, "mask": labels > 0, "behind": labels < 0, "weight": (labels > 0).float()}
    made = sizes.resized(given, {name: ["B", "S"] for name in given}, {"B": 3, "S": 5})
    number = [5, 1, 5]
    assert made["labels"].tolist() == [[1, 2, 2, 1, 2], [3, -1, -1, -1, -1], [1, 2, 2, 1, 2]]
    assert made["mask"].tolist() == [[True] * n + [False] * (5 - n) for n in number]
    assert torch.equal(made["behind"], ~made["mask"])
    assert torch.equal(made["weight"], made["mask"].float())
    assert sizes.resized({"y": labels[1]}, {"y": ["S"]}, {"S": 4})["y"].tolist() == [3, -1, -1, -1]


class Counts(nn.Module):
    """CTC of targets whose lengths are counted."""

    def forward(self, x: Tensor, y: Tensor, mask: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = x.log_softmax(-1).transpose(0, 1)
        of_targets, of_mask = (y >= 0).sum(1), mask.sum(1)
        return F.ctc_loss(log_probs, y, n, of_targets), F.ctc_loss(log_probs, y, n, of_mask)


@pytest.mark.parametrize("padding", [-1, -100])
def test_lengths_that_a_model_counts(padding: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = torch.tensor([[1, 2, 2], [3, padding, padding]])
    inputs = {"x": torch.randn(2, 9, 5), "y": targets, "mask": targets >= 0, "n": torch.tensor([9, 7])}
    to_onnx(Counts(), tmp_path / "x.onnx", inputs)


@pytest.mark.parametrize("row", catalog.names())
def test_a_row_is_drawn_as_its_example(row: str) -> None:
    """At every size another, and 1 wherever a row takes it: what has classes and a blank has two."""
    case = next(case for case in BY_NAME.values() if case.row == row)
    example, module = case.inputs(), case.module()
    every = case.entry.contract.sizes({name: tuple(x.shape) for name, x in example.items()})

    def tried(chosen: Any) -> Any:
        try:
            drawn = case.entry.example_as(example, chosen, 1)
            module(**drawn)
        except (RuntimeError, ValueError, IndexError):
            return None
        return drawn, chosen

    (larger, chosen), (small, few) = sizes.other_sizes(every, tried)
    assert all(chosen[letter] > size for letter, size in every.items())
    assert {name: (x.dtype, x.dim()) for name, x in larger.items()} == {
        name: (x.dtype, x.dim()) for name, x in example.items()
    }
    assert sum(size == 1 for size in few.values()) >= len(few) - 2
    assert set(small) == set(example)


# The other formats


def test_a_wrong_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = torch.jit.script(el.MSELoss().eval())
    monkeypatch.setattr(torchscript.torch.jit, "script", lambda module: other)
    with pytest.raises(VerificationError, match=r"^loss is off by 0\.9, .* in TorchScript at B=3"):
        to_torchscript(el.L1Loss(), tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
    to_torchscript(el.L1Loss(), tmp_path / "x.pt", verify=False)


def test_a_script_whose_weight_fixes_a_size_is_verified(tmp_path: Path, recwarn: Any) -> None:
    to_torchscript(el.NLLLoss(weight=torch.rand(5)), tmp_path / "x.pt")
    assert not [each for each in recwarn if each.category is RuntimeWarning]
    with pytest.warns(RuntimeWarning, match=r"^module: MaskedLoss is not verified: give inputs"):
        to_torchscript(el.MaskedLoss(loss_fn=FrameNLL()), tmp_path / "y.pt")


def test_a_wrong_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2.scans, "table", lambda: {torch.ops.aten.abs.default: torch.neg})
    with pytest.raises(VerificationError, match=r"^loss is off by .* in torch\.export"):
        to_pt2(el.L1Loss(), tmp_path / "x.pt2", X)
    assert not list(tmp_path.iterdir())
    to_pt2(el.L1Loss(), tmp_path / "x.pt2", X, verify=False)


def test_a_wrong_program_of_executorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another ExecuTorch, whose answers are wrong at one of the sizes within the bounds."""
    asked = []

    def run(jobs: Any, lowered: Any) -> list[Any]:
        shutil.copy(*lowered)
        asked.extend(inputs for _, inputs in jobs)
        right = [el.L1Loss()(**inputs) for _, inputs in jobs]
        return [[value + (value.numel() and i == len(jobs) - 1)] for i, value in enumerate(right)]

    monkeypatch.setattr(executorch, "run", run)
    with pytest.raises(VerificationError, match=r"^loss is off by 1, .* in ExecuTorch at B=1, T=1"):
        to_executorch(el.L1Loss(), tmp_path / "x.pte")
    assert not list(tmp_path.iterdir())
    most = catalog.get("l1_loss").example_inputs()["predictions"].shape
    assert all(np.less_equal(inputs["predictions"].shape, np.maximum(most, 37)).all() for inputs in asked)


def test_a_lattice_is_tried_at_sizes_that_its_file_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(jobs: Any, lowered: Any) -> list[Any]:
        shutil.copy(*lowered)
        asked.extend(inputs for _, inputs in jobs)
        return [[el.TransducerLoss()(**inputs)] for _, inputs in jobs]

    monkeypatch.setattr(executorch, "run", run)
    to_executorch(el.TransducerLoss(), tmp_path / "x.pte")
    example = catalog.get("transducer_loss").example_inputs()
    assert len(asked) > 1
    assert {tuple(inputs["targets"].shape) for inputs in asked} == {tuple(example["targets"].shape)}
    assert len({inputs["logits"].shape for inputs in asked}) > 1


# A model and a loss in one graph


@pytest.fixture
def probabilities(tmp_path: Path) -> Path:
    """A model whose classes have probabilities."""
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", 4]) for name in ("x", "probs")
    )
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["probs"])], "model", [taken], [given])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_wrong_joint_graph(probabilities: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fit.BRIDGES["log_probability"], "probs", "")
    given: dict[str, Any] = {"inputs": {"log_probabilities": "probs"}, "scores": "probs"}
    with pytest.raises(VerificationError, match=r"^loss is off by .* in onnxruntime at b=2, t=8"):
        attach(probabilities, el.NLLLoss(), tmp_path / "joint.onnx", **given)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    attach(probabilities, el.NLLLoss(), tmp_path / "joint.onnx", **given, verify=False)
    assert (tmp_path / "joint.onnx").exists()


def test_a_model_that_takes_no_random_numbers_is_not_verified(probabilities: Path, tmp_path: Path) -> None:
    joint = tmp_path / "alone" / "joint.onnx"
    given: dict[str, Any] = {"inputs": {"log_probabilities": "probs"}, "scores": "probs"}
    joint.parent.mkdir()
    attach(probabilities, el.NLLLoss(), joint, **given)
    assert (joint.parent / "test_data_set_0").is_dir()
    model = onnx.load(probabilities)
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5, 77, 4]), "shape"))
    model.graph.node.insert(0, reshape)
    model.graph.node[1].input[0] = "y"
    onnx.save(model, probabilities)
    with pytest.warns(
        RuntimeWarning, match=r"^the joint graph is not verified and has no test data: the model does not run"
    ):
        attach(probabilities, el.NLLLoss(), joint, **given)
    assert [path.name for path in joint.parent.iterdir()] == ["joint.onnx"]  # no data of the graph before
