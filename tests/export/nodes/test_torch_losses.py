"""`ctc_loss` of torch and `rnnt_loss` of torchaudio in a forward: every form that they take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_cases import Inputs
from onnx_runs import RUNTIMES, as_arrays, onnx_runtime
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F

from exportable_losses import export
from exportable_losses.export import add_bodies, to_onnx, translations
from exportable_losses.ops import plain

Forward = Callable[..., Tensor]


def module_of(forward: Forward) -> nn.Module:
    return type("Mine", (nn.Module,), {"forward": forward})()


def close(got: np.ndarray, expected: Tensor, name: str) -> None:
    wanted = expected.detach().numpy()
    assert got.shape == wanted.shape, name
    largest = max(1.0, np.abs(wanted).max(initial=0.0, where=np.isfinite(wanted)))
    tolerance = 1e-11 if got.dtype == np.float64 else 5e-6
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * largest, err_msg=name)


def ours(model: onnx.ModelProto) -> set[str]:
    """The operators of our domain in a graph, each of which has a function."""
    called = {node.op_type for node in model.graph.node if node.domain == "exportable_losses"}
    assert called <= {function.name for function in model.functions}
    return called


# CTC


def padded(items: int, frames: int, labels: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Log-probabilities `[T, B, C]`; behind the targets stands garbage, and one item is empty."""
    torch.manual_seed(items * frames + labels)
    lengths = torch.randint(1, labels + 1, (items,))
    lengths[-1], lengths[0] = 0, labels
    targets = torch.randint(1, 5, (items, labels))
    targets[torch.arange(labels) >= lengths[:, None]] = 77
    used = torch.randint(frames - 3, frames + 1, (items,))
    return {
        "log_probs": torch.randn(frames, items, 5).log_softmax(-1).to(dtype),
        "targets": targets,
        "frames": used,
        "labels": lengths,
    }


def concatenated(items: int, frames: int, labels: int, dtype: torch.dtype = torch.float32) -> Inputs:
    inputs = padded(items, frames, labels, dtype)
    kept = torch.arange(labels) < inputs["labels"][:, None]
    return inputs | {"targets": inputs["targets"][kept]}


def int32(items: int, frames: int, labels: int) -> Inputs:
    inputs = padded(items, frames, labels)
    return {k: v if k == "log_probs" else v.int() for k, v in inputs.items()}


def double(items: int, frames: int, labels: int) -> Inputs:
    return padded(items, frames, labels, torch.float64)


def one(items: int, frames: int, labels: int) -> Inputs:
    """Without a batch: `[T, C]`, `[S]`, lengths `[]`."""
    inputs = padded(1, frames, labels)
    return {"log_probs": inputs["log_probs"][:, 0], "targets": inputs["targets"][0]} | {
        name: inputs[name][0] for name in ("frames", "labels")
    }


def one_of_vectors(items: int, frames: int, labels: int) -> Inputs:
    """The same with lengths `[1]`."""
    return {k: v[None] if k in ("frames", "labels") else v for k, v in one(items, frames, labels).items()}


def ctc(**settings: Any) -> Forward:
    return lambda self, log_probs, targets, frames, labels: F.ctc_loss(
        log_probs, targets, frames, labels, **settings
    )


def last_class_is_the_blank(items: int, frames: int, labels: int) -> Inputs:
    inputs = padded(items, frames, labels)
    return inputs | {"targets": (inputs["targets"] - 1) % 4}


FORMS: dict[str, tuple[Callable[[int, int, int], Inputs], dict[str, Any]]] = {
    "padded": (padded, {}),
    "sum": (padded, {"reduction": "sum"}),
    "none": (padded, {"reduction": "none"}),
    "zero_infinity": (padded, {"zero_infinity": True}),
    "int32": (int32, {"reduction": "sum"}),
    "float64": (double, {}),
    "concatenated": (concatenated, {}),
    "blank": (last_class_is_the_blank, {"blank": 4, "reduction": "sum"}),
    "one": (one, {"reduction": "none"}),
    "one_of_vectors": (one_of_vectors, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_ctc_loss(form: str, tmp_path: Path) -> None:
    make, settings = FORMS[form]
    module, path = module_of(ctc(**settings)), tmp_path / "x.onnx"
    model = to_onnx(module, path, make(3, 12, 4), gradients=("log_probs",))
    assert ours(model) == {"CTCLoss", "CTCLossGrad"}
    runs = [make_run(path) for make_run in (RUNTIMES.values() if form == "concatenated" else [onnx_runtime])]
    for sizes in ((3, 12, 4), (2, 25, 7), (5, 9, 3)):
        inputs = make(*sizes)
        # float64, but for the labels behind the end, which torch takes for classes
        legal = {k: v.remainder(5) if k == "targets" else v for k, v in inputs.items()}
        leaf = inputs["log_probs"].double().requires_grad_()
        loss = module(**legal | {"log_probs": leaf})
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        for run in runs:
            got = list(run(inputs).values())
            close(got[0], loss, f"loss at {sizes}")
            close(got[1], gradient, f"gradient at {sizes}")


@pytest.mark.parametrize("kind", [list, tuple])
def test_lengths_that_are_numbers(kind: Callable[[list[int]], Any], tmp_path: Path) -> None:
    inputs = padded(3, 12, 4)
    frames, labels = (inputs.pop(name).tolist() for name in ("frames", "labels"))

    def forward(self: Any, log_probs: Tensor, targets: Tensor) -> Tensor:
        return F.ctc_loss(log_probs, targets.remainder(5), kind(frames), kind(labels), zero_infinity=True)

    module = module_of(forward)
    to_onnx(module, tmp_path / "x.onnx", inputs, gradients=("log_probs",))
    leaf = torch.randn(15, 3, 5).log_softmax(-1).requires_grad_()
    loss = module(leaf, inputs["targets"])
    (gradient,) = torch.autograd.grad(loss, leaf)
    got = onnx_runtime(tmp_path / "x.onnx")({"log_probs": leaf, "targets": inputs["targets"]})
    close(got["loss"], loss, "loss")
    close(got["grad_log_probs"], gradient, "gradient")


def test_torch_compile_is_told_nothing_else() -> None:
    # were a size said that is not the real one, compiled code would stop at it
    inputs = padded(2, 9, 3)
    with FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=False)) as mode:
        given = [mode.from_tensor(x) for x in inputs.values()]
        with pytest.raises(DynamicOutputShapeException):
            torch.ops.aten._ctc_loss.Tensor(*given)


# The transducer


class RNNT(torch.autograd.Function):
    """As torchaudio 2.11 calls its operator, and takes the gradients that it saves."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        costs, gradients = torch.ops.torchaudio.rnnt_loss_forward(*args)
        ctx.save_for_backward(gradients)
        return costs

    @staticmethod
    def backward(ctx: Any, grad_costs: Tensor) -> Any:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad_costs.view(-1, 1, 1, 1), *[None] * 6)


def stand_in(
    logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, **settings: Any
) -> Tensor:
    """`torchaudio.functional.rnnt_loss`: its signature, its defaults, its operator."""
    given = {"blank": -1, "clamp": -1.0, "reduction": "mean", "fused_log_softmax": True} | settings
    blank = given["blank"] + logits.shape[-1] if given["blank"] < 0 else given["blank"]
    lengths = (logit_lengths, target_lengths)
    costs = RNNT.apply(logits, targets, *lengths, blank, given["clamp"], given["fused_log_softmax"])
    return costs if given["reduction"] == "none" else getattr(costs, given["reduction"])()


def stand_in_operator(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    clamp: float,
    fused_log_softmax: bool,
) -> tuple[Tensor, Tensor]:
    integers = (targets.long(), logit_lengths.long(), target_lengths.long())
    costs, gradients = plain.transducer(logits, *integers, blank, torch.ones(len(logits), dtype=logits.dtype))
    assert gradients is not None
    return costs, gradients.clamp(-clamp, clamp) if clamp > 0 else gradients


@pytest.fixture(scope="module")
def rnnt_loss() -> Callable[..., Tensor]:
    """torchaudio's function where torchaudio loads, else one that calls an operator of the same name."""
    try:
        from torchaudio.functional import rnnt_loss
    except (ImportError, OSError) as error:
        print(f"a stand-in for torchaudio, which does not load: {error}")
    else:
        return rnnt_loss
    library = torch.library.Library("torchaudio", "FRAGMENT")
    library.define(
        "rnnt_loss_forward(Tensor logits, Tensor targets, Tensor logit_lengths, Tensor target_lengths,"
        " int blank, float clamp, bool fused_log_softmax) -> (Tensor, Tensor)"
    )
    library.impl("rnnt_loss_forward", stand_in_operator, "CPU")
    return lambda *args, _kept=library, **settings: stand_in(*args, **settings)


def lattice(items: int, frames: int, labels: int) -> Inputs:
    torch.manual_seed(items * frames + labels)
    logit_lengths = torch.randint(1, frames + 1, (items,), dtype=torch.int32)
    target_lengths = torch.randint(labels + 1, (items,), dtype=torch.int32)
    logit_lengths[0], target_lengths[-1] = frames, labels
    return {
        "hidden": torch.randn(items, frames, labels + 1, 3),
        "targets": torch.randint(4, (items, labels), dtype=torch.int32),
        "logit_lengths": logit_lengths,
        "target_lengths": target_lengths,
    }


class Joiner(nn.Module):
    def __init__(self, loss: Callable[..., Tensor], normalised: bool = False, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.loss, self.settings = nn.Linear(3, 5), loss, settings
        self.normalised = normalised

    def forward(
        self, hidden: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor
    ) -> Tensor:
        logits = self.head(hidden)
        logits = logits.log_softmax(-1) if self.normalised else logits
        return self.loss(logits, targets, logit_lengths, target_lengths, **self.settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reduction": "sum", "blank": 4},
        {"reduction": "none", "clamp": 0.05},
        {"fused_log_softmax": False, "normalised": True},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_rnnt_loss(rnnt_loss: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    module, path = Joiner(rnnt_loss, **settings), tmp_path / "x.onnx"
    # what stands in for torchaudio takes sizes that do not go together
    model = to_onnx(module, path, lattice(2, 7, 3), gradients=("hidden",), verify=False)
    assert ours(model) == {"TransducerLoss", "TransducerLossGrad"}
    for sizes in ((2, 7, 3), (4, 12, 5)):
        inputs = lattice(*sizes)
        leaf = inputs["hidden"].requires_grad_()
        loss = module(**inputs)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        got = list(onnx_runtime(path)(inputs).values())
        close(got[0], loss, f"loss at {sizes}")
        close(got[1], gradient, f"gradient at {sizes}")


def test_the_loss_alone_has_no_node_of_its_gradient(rnnt_loss: Any, tmp_path: Path) -> None:
    inputs = lattice(2, 7, 3)
    model = to_onnx(Joiner(rnnt_loss), tmp_path / "x.onnx", inputs, verify=False)
    assert ours(model) == {"TransducerLoss"}
    assert "TransducerLossGrad" not in {f.name for f in model.functions}
    close(onnx_runtime(tmp_path / "x.onnx")(inputs)["loss"], Joiner(rnnt_loss)(**inputs), "loss")


def test_clamp_of_log_probabilities_is_refused(rnnt_loss: Any, tmp_path: Path) -> None:
    module = Joiner(rnnt_loss, clamp=1.0, fused_log_softmax=False, normalised=True)
    with pytest.raises(RuntimeError, match="does not export: rnnt_loss: got clamp without fused_log_softmax"):
        to_onnx(module, tmp_path / "x.onnx", lattice(2, 7, 3))


# Those who call torch.onnx.export themselves


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("row", ["ctc_loss", "ctc_loss in float64", "rnnt_loss"])
def test_the_table_and_the_bodies(row: str, optimize: bool, rnnt_loss: Any, tmp_path: Path) -> None:
    if row.startswith("ctc_loss"):
        module, make, name = module_of(ctc()), double if "float64" in row else padded, "CTCLoss"
    else:
        module, make, name = Joiner(rnnt_loss), lattice, "TransducerLoss"
    example = make(2, 10, 3)
    program = torch.onnx.export(
        module,
        kwargs=example,
        dynamic_shapes={n: dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO) for n, x in example.items()},
        custom_translation_table=translations(),
        dynamo=True,
        optimize=optimize,
        verbose=False,
    )
    assert program is not None
    assert add_bodies(program) is program
    add_bodies(program)  # once more changes nothing
    program.save(tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    assert name in [f.name for f in model.functions]
    assert len({f.name for f in model.functions}) == len(model.functions)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")  # knows nothing of ours
    inputs = make(4, 17, 6)
    legal = {k: v.remainder(5) if k == "targets" else v for k, v in inputs.items()}
    (got,) = session.run(None, as_arrays(legal))
    close(got, module(**legal), row)


def test_the_table_alone_is_not_enough(tmp_path: Path) -> None:
    example = padded(2, 10, 3)
    program = torch.onnx.export(
        module_of(ctc()), kwargs=example, custom_translation_table=translations(), dynamo=True, verbose=False
    )
    assert program is not None
    program.save(tmp_path / "x.onnx")
    with pytest.raises(Exception, match="exportable_losses"):
        onnxruntime.InferenceSession(tmp_path / "x.onnx")


def test_one_body_for_two_types_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, log_probs: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
            loss = F.ctc_loss(log_probs, targets, frames, labels)
            return loss + F.ctc_loss(log_probs.double(), targets, frames, labels)

    program = torch.onnx.export(
        Two(), kwargs=padded(2, 10, 3), custom_translation_table=translations(), dynamo=True, verbose=False
    )
    assert program is not None
    with pytest.raises(ValueError, match="program: CTCLoss is there in FLOAT and DOUBLE, expected one"):
        add_bodies(program)


def test_no_module_has_the_name_of_a_function() -> None:
    # a module of the package, once imported, would stand in the function's place
    assert all(callable(getattr(export, name)) for name in export.__all__)
