"""Models of anybody's: one graph with the loss in it, at sizes other than the exported one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import exports
import numpy as np
import onnx
import pytest
import torch
from export_cases import Inputs
from onnx_runs import RUNTIMES, Arrays, as_arrays, onnx_runtime
from torch import Tensor, nn
from torch.nn import functional as F

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.formats.plan import plan
from exportable_losses.runtime import LossSession
from exportable_losses.runtime.testdata import read_test_data

TOLERANCES = {torch.float32: 5e-6, torch.float64: 1e-11}


class Recogniser(nn.Module):
    """A small acoustic model and its CTC loss."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.encoder = nn.Linear(6, 8)
        self.head = nn.Linear(8, 5)
        self.loss = nn.CTCLoss(**settings)

    def forward(self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        hidden = self.encoder(self.norm(features.transpose(1, 2)).transpose(1, 2)).relu()
        log_probs = self.head(hidden).log_softmax(-1)
        return self.loss(log_probs.transpose(0, 1), targets, frames, labels)


def recogniser(dtype: torch.dtype, **settings: Any) -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(**settings).to(dtype).eval()


def batch(items: int, frames: int, labels: int, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Some targets are too long for their frames where `labels` is large; the first is empty."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(labels + 1, (items,), generator=generator)
    lengths[0], lengths[-1] = 0, labels
    used = torch.randint(frames // 2, frames + 1, (items,), generator=generator)
    used[0], used[-1] = frames, frames // 2
    return {
        "features": torch.randn(items, frames, 6, generator=generator).to(dtype),
        "targets": torch.randint(1, 5, (items, labels), generator=generator),
        "frames": used,
        "labels": lengths,
    }


def truth(module: nn.Module, inputs: Inputs, wanted: list[str]) -> Inputs:
    """The loss and its gradients in eager float64."""
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    leaves = {name: exact[name].clone().requires_grad_() for name in wanted}
    loss = module.double()(**{**exact, **leaves})
    gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
    return {"loss": loss, **{f"grad_{n}": g for n, g in zip(wanted, gradients, strict=True)}}


def assert_close(got: Arrays, expected: Inputs, dtype: torch.dtype, where: str) -> None:
    for name, value in as_arrays(expected).items():
        assert got[name].shape == value.shape, f"{where}: {name}"
        allowed = TOLERANCES[dtype] * max(1.0, np.abs(value).max(initial=0.0, where=np.isfinite(value)))
        np.testing.assert_allclose(got[name], value, rtol=0, atol=allowed, err_msg=f"{where}: {name}")


@pytest.mark.parametrize(
    ("reduction", "dtype"),
    [
        ("mean", torch.float32),
        ("sum", torch.float64),
        pytest.param("mean", torch.float64, marks=pytest.mark.thorough),  # each is in one of the above
        pytest.param("sum", torch.float32, marks=pytest.mark.thorough),
    ],
)
def test_a_recogniser_and_its_loss(reduction: str, dtype: torch.dtype) -> None:
    settings = {"reduction": reduction, "zero_infinity": True, "blank": 0}
    path = exports.onnx(recogniser(dtype, **settings), batch(2, 9, 3, dtype), ("features",))
    model = onnx.load(path)
    called = {node.op_type for node in model.graph.node if node.domain == "exportable_losses"}
    assert called == {"CTCLoss", "CTCLossGrad"} <= {function.name for function in model.functions}
    assert not model.metadata_props
    onnx.checker.check_model(str(path), full_check=True)
    runs: dict[str, Callable[[Inputs], Arrays]] = {name: make(path) for name, make in RUNTIMES.items()}
    if LossSession(path).library is None:
        print("without the native library: not installed")
    else:
        session = LossSession(path, native=True)
        runs["native"] = lambda inputs: session(**as_arrays(inputs))
    for sizes in ((2, 9, 3), (1, 30, 7), (5, 6, 5)):
        inputs = batch(*sizes, dtype, seed=1)
        expected = truth(recogniser(torch.float64, **settings), inputs, ["features"])
        for name, run in runs.items():
            assert_close(run(inputs), expected, dtype, f"{name} at {sizes}")


class Recurrent(nn.Module):
    """An acoustic model of recurrent layers, and its CTC loss."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        layer = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.encoder = layer(6, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        log_probs = self.head(self.encoder(features)[0]).log_softmax(-1)
        return F.ctc_loss(log_probs.transpose(0, 1), targets, frames, labels, zero_infinity=True)


@pytest.mark.thorough  # test_layer_gradients has both, in two directions, and of two layers
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_gradients_through_recurrent_layers(kind: str) -> None:
    torch.manual_seed(0)
    module = Recurrent(kind).eval()
    weight = "encoder.weight_hh_l1_reverse"
    path = exports.onnx(module, batch(2, 9, 3, torch.float32), ("features", weight))
    run, exact = onnx_runtime(path), copy.deepcopy(module).double()
    weights = {weight: module.get_parameter(weight).detach()}
    for sizes in ((2, 9, 3), (1, 30, 7), (5, 6, 5)):
        inputs = batch(*sizes, torch.float32, seed=1)
        expected = truth(exact, inputs, ["features"])
        (expected[f"grad_{weight}"],) = torch.autograd.grad(
            exact(**{name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}),
            exact.get_parameter(weight),
        )
        assert_close(run({**inputs, **weights}), expected, torch.float32, f"{kind} at {sizes}")


def test_what_cannot_be_aligned() -> None:
    # infinite, and no gradient where torch has NaN
    inputs = batch(4, 6, 6, torch.float32)
    got = onnx_runtime(exports.onnx(recogniser(torch.float32, reduction="none"), inputs, "all"))(inputs)
    expected = recogniser(torch.float32, reduction="none")(**inputs)
    assert expected.isinf().any()
    assert expected.isfinite().any()
    np.testing.assert_allclose(got["output"], expected.detach(), rtol=1e-5)
    lenient = truth(recogniser(torch.float64, reduction="sum", zero_infinity=True), inputs, ["features"])
    np.testing.assert_allclose(got["grad_features"], lenient["grad_features"], atol=5e-6)
    assert not got["grad_features"][expected.isinf().numpy()].any()


def test_names_sizes_and_test_data(tmp_path: Path) -> None:
    inputs = batch(2, 9, 3, torch.float32)
    inputs["features"].requires_grad_()
    module = recogniser(torch.float32).train()
    model = to_onnx(module, tmp_path / "x.onnx", dict(reversed(inputs.items())), gradients="all")
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert dims == {
        "features": ["features_0", "features_1", 6],
        "targets": ["features_0", "targets_1"],
        "frames": ["features_0"],
        "labels": ["features_0"],
        "loss": [],
        "grad_features": ["features_0", "features_1", 6],
    }
    given, expected = read_test_data(tmp_path / "test_data_set_0")
    assert list(given) == list(inputs)
    np.testing.assert_allclose(expected["loss"], recogniser(torch.float32)(**inputs).detach(), rtol=1e-6)
    got = LossSession(tmp_path / "x.onnx")(**given)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=5e-6)
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())


def test_sizes_that_are_equal_in_the_example_may_differ(tmp_path: Path) -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x.exp().sum(0).outer(y.exp().sum(0))).sum()

    x = torch.randn(3, 3)
    to_onnx(Product(), tmp_path / "x.onnx", {"x": x, "y": x}, gradients="all")
    inputs = {"x": torch.randn(2, 5), "y": torch.randn(4, 7)}
    got = onnx_runtime(tmp_path / "x.onnx")(inputs)
    assert_close(got, truth(Product(), inputs, ["x", "y"]), torch.float32, "at other sizes")


class Both(NamedTuple):
    loss: Tensor
    scores: Tensor


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda loss, scores: loss, ["loss"]),
        (lambda loss, scores: scores, ["output"]),
        (lambda loss, scores: (loss, scores), ["output_0", "output_1"]),
        (lambda loss, scores: [scores], ["output_0"]),
        (lambda loss, scores: {"cost": loss, "scores": scores}, ["cost", "scores"]),
        (Both, ["loss", "scores"]),
    ],
)
def test_names_of_outputs(make: Any, names: list[str], tmp_path: Path) -> None:
    class Outputs(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return make(x.square().sum(), 2 * x)

    model = to_onnx(Outputs(), tmp_path / "x.onnx", {"x": torch.ones(2, 3)}, gradients=("x",))
    assert [value.name for value in model.graph.output] == [*names, "grad_x"]
    got = onnx_runtime(tmp_path / "x.onnx")({"x": torch.ones(4, 2)})
    for name, value in zip(names, got.values(), strict=False):
        expected = 8.0 if name in ("loss", "cost") or (name == "output_0" and len(names) == 2) else 2.0
        np.testing.assert_array_equal(value, np.full(value.shape, expected, np.float32))
    np.testing.assert_array_equal(got["grad_x"], np.full((4, 2), 2.0, np.float32))


def test_weights_whose_gradients_are_asked_for_are_inputs() -> None:
    module = recogniser(torch.float32, reduction="sum", zero_infinity=True)
    chosen = ["encoder.bias", "head.weight"]
    weights = {name: module.get_parameter(name).detach().clone() for name in chosen}
    path = exports.onnx(module, batch(2, 9, 3, torch.float32), [*chosen, "features"])
    model = onnx.load(path)
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert list(dims) == ["features", "targets", "frames", "labels", *chosen]
    assert (dims["encoder.bias"], dims["head.weight"]) == ([8], [5, 8])
    held = sorted(tuple(tensor.dims) for tensor in model.graph.initializer)
    assert (5, 8) not in held
    assert (8, 5) not in held
    given, expected = read_test_data(path.parent / "test_data_set_0")
    np.testing.assert_array_equal(given["head.weight"], weights["head.weight"])
    assert list(expected) == ["loss", "grad_encoder.bias", "grad_head.weight", "grad_features"]

    inputs = batch(3, 14, 4, torch.float32, seed=2) | {name: w + 0.1 for name, w in weights.items()}
    other = recogniser(torch.float64, reduction="sum", zero_infinity=True)
    with torch.no_grad():
        for name in chosen:
            other.get_parameter(name).copy_(inputs[name])
    loss = other(**{k: v.double() if k == "features" else v for k, v in inputs.items() if k not in chosen})
    gradients = torch.autograd.grad(loss, [other.get_parameter(name) for name in chosen])
    truths = {"loss": loss, **{f"grad_{n}": g for n, g in zip(chosen, gradients, strict=True)}}
    assert_close(onnx_runtime(path)(inputs), truths, torch.float32, "with other weights")


def test_our_own_losses_inside(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ctc, self.l1 = el.CTCLoss(reduction="sum"), el.L1Loss()

        def forward(self, scores: Tensor, targets: Tensor, lens: Tensor) -> Tensor:
            log_probs = scores.log_softmax(-1)
            return self.ctc(log_probs, targets, lens, lens) + self.l1(scores, scores.square(), lens)

    def inputs(items: int, frames: int) -> Inputs:
        torch.manual_seed(items)
        lens = torch.linspace(0.5, 1, items)
        return {
            "scores": torch.randn(items, frames, 4),
            "targets": torch.randint(1, 4, (items, 4)),
            "lens": lens,
        }

    to_onnx(Mixed(), tmp_path / "x.onnx", inputs(2, 9), gradients=("scores",))
    other = inputs(3, 15)
    got = onnx_runtime(tmp_path / "x.onnx")(other)
    assert_close(got, truth(Mixed(), other, ["scores"]), torch.float32, "at other sizes")


class Classifier(nn.Module):
    """A linear layer and a loss whose mean is over the targets that count."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.register_buffer("weight", torch.linspace(0.5, 2.0, 5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores = self.head(x)
        weighted = F.nll_loss(scores.log_softmax(-1), y, weight=self.weight)
        smoothed = F.cross_entropy(scores, y, label_smoothing=0.1, ignore_index=1)
        return F.cross_entropy(scores, y) + 2 * weighted + 3 * smoothed


def test_the_gradient_of_a_mean_over_targets_is_divided_by_their_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, path, weights = Classifier(), tmp_path / "x.onnx", ["head.weight", "head.bias"]
    example = {"x": torch.randn(2, 4), "y": torch.tensor([0, 2])}
    to_onnx(module, path, example, gradients=["x", *weights])
    held = {name: module.get_parameter(name).detach().clone() for name in weights}
    exact = copy.deepcopy(module).double()
    for items in (2, 3, 5):
        x, y = torch.randn(items, 4), torch.arange(items) % 5
        leaves = [x.double().requires_grad_(), *(exact.get_parameter(name) for name in weights)]
        loss = exact(leaves[0], y)
        gradients = torch.autograd.grad(loss, leaves)
        expected = {f"grad_{n}": g for n, g in zip(["x", *weights], gradients, strict=True)}
        got = onnx_runtime(path)({"x": x, "y": y, **held})
        assert_close(got, {"loss": loss, **expected}, torch.float32, f"{items} items")


def test_a_size_that_only_the_gradient_fixes_is_fixed(tmp_path: Path) -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.kron(x, x).square().sum()

    model = to_onnx(Product(), tmp_path / "x.onnx", {"x": torch.randn(2, 3, 11)}, gradients="all")
    assert model.graph.input[0].type.tensor_type.shape.dim[2].dim_value == 11
    with pytest.raises(ValueError, match="x: got size 14 along dimension 2, expected 11, which the model"):
        LossSession(tmp_path / "x.onnx")(x=np.zeros((2, 3, 14), np.float32))


def forward_of(forward: Callable[..., Any]) -> nn.Module:
    return type("Mine", (nn.Module,), {"forward": forward})()


NO_ROW = "module: got Mine, expected a module of the catalog, or `inputs` for any other"
X, Y = torch.ones(2, 3), torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("forward", "inputs", "gradients", "error", "message"),
    [
        (lambda self, x: x, None, (), TypeError, NO_ROW),
        (lambda self, x: x, {}, (), TypeError, NO_ROW),
        (lambda self, x, y: x, {"x": X, "z": X}, (), ValueError, "inputs: got z, expected x, y"),
        (lambda self, x, y: x, {"x": X}, (), ValueError, "inputs: y missing, expected x, y"),
        (lambda self, x, n=2: x, {"x": X, "n": 3}, (), TypeError, "inputs: got int for n, expected a tensor"),
        (lambda self, x: None, {"x": X}, (), TypeError, "module: got NoneType from forward"),
        (lambda self, x: (x, 1), {"x": X}, (), TypeError, "module: got Tensor, int from forward"),
        (lambda self, x: {"x": 2 * x}, {"x": X}, (), ValueError, "module: got x twice, expected other names"),
        (lambda self, x, y: x, {"x": X, "y": Y}, ("y",), ValueError, "gradients: got y, expected some of x"),
        (lambda self, x: x, {"x": X}, ("w",), ValueError, "gradients: got w, expected some of x"),
        (lambda self, y: y, {"y": Y}, "all", ValueError, "gradients: got 'all', expected none"),
        (lambda self, x: x.detach(), {"x": X}, "all", ValueError, "gradients: the module's first"),
        (
            lambda self, x: x if x.sum() > 0 else -x,
            {"x": X},
            (),
            RuntimeError,
            "module: Mine does not export: Could not guard on data-dependent expression",
        ),
        (
            lambda self, x: torch.linalg.svd(x)[1],
            {"x": X},
            (),
            RuntimeError,
            "module: Mine does not export: No ONNX function found for .*svd",
        ),
        (
            lambda self, x: x.cumprod(1),
            {"x": X},
            ("x",),
            RuntimeError,
            "module: Mine does not export: No ONNX function found for .*prims.prod",
        ),
    ],
)
def test_what_is_refused(
    forward: Any, inputs: Any, gradients: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        to_onnx(forward_of(forward), tmp_path / "x.onnx", inputs, gradients=gradients)
    assert not list(tmp_path.iterdir())


def test_arguments_by_keyword_alone(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor, shift: Tensor | None = None) -> Tensor:
            assert shift is None
            return (x * scale).square().sum()

    inputs = {"scale": torch.tensor([2.0, 3.0]), "x": torch.ones(4, 2)}
    model = to_onnx(Scaled(), tmp_path / "x.onnx", inputs, gradients=("scale",))
    assert [value.name for value in model.graph.input] == ["x", "scale"]
    got = onnx_runtime(tmp_path / "x.onnx")(inputs)
    assert_close(got, truth(Scaled(), inputs, ["scale"]), torch.float32, "by keyword")
    with pytest.raises(ValueError, match=r"^inputs: scale missing, expected x, scale, shift$"):
        to_onnx(Scaled(), tmp_path / "y.onnx", {"x": inputs["x"]})


def test_an_argument_goes_before_a_parameter_of_its_name(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([5.0, 7.0]))

        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return (x * w * w * self.w).sum()

    inputs = {"x": torch.ones(4, 2), "w": torch.tensor([2.0, 3.0])}
    model = to_onnx(Twice(), tmp_path / "x.onnx", inputs, gradients=("w",))
    assert [value.name for value in model.graph.input] == ["x", "w"]
    got = onnx_runtime(tmp_path / "x.onnx")(inputs)
    np.testing.assert_allclose(got["loss"], 4 * (4 * 5 + 9 * 7))
    np.testing.assert_allclose(got["grad_w"], [4 * 2 * 2 * 5, 4 * 2 * 3 * 7])


def test_gradients_are_those_of_the_first_output(tmp_path: Path) -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.square(), 7 * x

    to_onnx(Several(), tmp_path / "x.onnx", {"x": torch.ones(2, 3)}, gradients=("x",))
    x = torch.randn(4, 5)
    np.testing.assert_allclose(onnx_runtime(tmp_path / "x.onnx")({"x": x})["grad_x"], 2 * x, rtol=1e-6)


def test_arguments_of_any_name() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, **more: Tensor) -> Tensor:
            return x * more["scale"]

    planned = plan(Named(), {"scale": torch.ones(2), "x": torch.full((3, 2), 5.0)})
    assert list(planned.inputs) == ["x", "scale"]
    assert planned.module(*planned.inputs.values())[0].tolist() == [[5.0, 5.0]] * 3
