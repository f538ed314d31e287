"""How our torch operators become nodes of our domain."""

import math
from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

from exportable_losses import ops as _register  # noqa: F401  (the operators exist once it is imported)

from .functions import DOMAIN, VERSION

_FLOATS = ["tensor(float)", "tensor(double)"]
_LATTICE_INPUTS = ("targets", "input_lengths", "target_lengths")


def _node(name: str, inputs: dict[str, str], outputs: dict[str, str], attributes: tuple[str, ...] = ()) -> Op:
    """An operator of our domain; types are ``T`` for floats or an ONNX type."""
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[onnx.defs.OpSchema.FormalParameter(n, t) for n, t in inputs.items()],
        outputs=[onnx.defs.OpSchema.FormalParameter(n, t) for n, t in outputs.items()],
        type_constraints=[("T", _FLOATS, "")],
        attributes=[onnx.defs.OpSchema.Attribute(a, onnx.defs.OpSchema.AttrType.INT, "") for a in attributes],
    )
    return Op(Opset(DOMAIN, VERSION), name, schema)


def _of_lattice(name: str, scores: str, outputs: dict[str, str]) -> Callable[..., Any]:
    """What translates an operator on a lattice to the node `name`."""
    inputs = {scores: "T", **dict.fromkeys(_LATTICE_INPUTS, "tensor(int64)")}
    node = _node(name, inputs, outputs, ("blank_index",))

    def translate(
        scores: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank_index: int
    ) -> Any:
        return node(scores, targets, input_lengths, target_lengths, blank_index=blank_index)

    return translate


def _lattice(row: str, name: str, scores: str) -> dict[Any, Callable[..., Any]]:
    """The operator of a lattice's costs and that of their gradient."""
    inputs = {scores: "T", **dict.fromkeys(_LATTICE_INPUTS, "tensor(int64)"), "grad_costs": "T"}
    node_grad = _node(f"{name}Grad", inputs, {"costs": "T", "grad": "T"}, ("blank_index",))

    def translate_grad(
        scores: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank_index: int, grad_costs: Any
    ) -> Any:
        return node_grad(scores, targets, input_lengths, target_lengths, grad_costs, blank_index=blank_index)

    ours = torch.ops.exportable_losses
    return {
        getattr(ours, row).default: _of_lattice(name, scores, {"costs": "T"}),
        getattr(ours, f"{row}_grad").default: translate_grad,
    }


def _constant(value: Any, dtype: ir.DataType | None) -> Any:
    tensor: Any = ir.tensor(value, dtype)
    return op.Constant(value=tensor)


def _scalar_tensor(s: Any, dtype: int = ir.DataType.FLOAT, **_: Any) -> Any:
    """`aten.scalar_tensor`; the exporter's own takes every number through float32."""
    if isinstance(s, (int, float)):
        return _constant(s, ir.DataType(dtype))
    return op.Cast(s, to=dtype)


def _full_like(x: Any, fill_value: Any, **_: Any) -> Any:
    """`aten.full_like`, likewise."""
    return op.Expand(_constant(fill_value, x.dtype), op.Shape(x))


def _log10(x: Any) -> Any:
    """`aten.log10`; the exporter's own divides by a logarithm of 10 in float32."""
    return op.Div(op.Log(x), _constant(math.log(10), x.dtype))


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """`aten.softplus`; onnxruntime's own `Softplus` takes six times as long.

    log(1 + e^x) is max(x, 0) + log1p(u) with u = e^-|x|. There is no log1p: log(1 + u), and what
    the rounding of 1 + u left out.
    """
    one = _constant(1.0, x.dtype)
    scaled = op.Mul(x, _constant(beta, x.dtype))
    u = op.Exp(op.Neg(op.Abs(scaled)))
    rounded = op.Add(u, one)
    log1p = op.Add(op.Log(rounded), op.Sub(u, op.Sub(rounded, one)))
    return op.Div(op.Add(op.Relu(scaled), log1p), _constant(beta, x.dtype))


def _rows_first(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of everything, along the last dimension first.

    onnxruntime's float32 sum over all dimensions at once is the naive one, and the slower.
    """

    def translate(x: Any, dtype: int | None = None) -> Any:
        if dtype not in (None, -1):
            x = op.Cast(x, to=dtype)
        if x.shape is None or len(x.shape) > 1:
            x = reduce(x, _constant([-1], ir.DataType.INT64), keepdims=False)
        return reduce(x, keepdims=False)

    return translate


def translations() -> dict[Any, Callable[..., Any]]:
    """The table that `torch.onnx.export` takes as `custom_translation_table`.

    Beside our operators it has those of torch whose translation loses precision or time.
    """
    assignment = _node("BestPermutation", {"costs": "T"}, {"permutations": "tensor(int64)"})
    of_sequences = dict.fromkeys(
        ("predictions", "targets", "prediction_lengths", "target_lengths"), "tensor(int64)"
    )
    edits = _node("EditCounts", of_sequences, {"counts": "tensor(int64)"})
    occupation, path = {"costs": "T", "posteriors": "T"}, {"states": "tensor(int64)", "scores": "T"}
    frames = {"frames": "tensor(int64)", "scores": "T"}
    ours = torch.ops.exportable_losses
    return {
        **_lattice("ctc_loss", "CTCLoss", "log_probs"),
        **_lattice("transducer_loss", "TransducerLoss", "logits"),
        ours.ctc_posterior.default: _of_lattice("CTCPosterior", "log_probs", occupation),
        ours.ctc_align.default: _of_lattice("CTCAlign", "log_probs", path),
        ours.transducer_align.default: _of_lattice("TransducerAlign", "logits", frames),
        ours.best_permutation.default: lambda costs: assignment(costs),
        ours.edit_counts.default: lambda *sequences: edits(*sequences),
        torch.ops.aten.scalar_tensor.default: _scalar_tensor,
        torch.ops.aten.full_like.default: _full_like,
        torch.ops.aten.log10.default: _log10,
        torch.ops.aten.softplus.default: _softplus,
        torch.ops.aten.sum.default: _rows_first(op.ReduceSum),
        torch.ops.aten.mean.default: _rows_first(op.ReduceMean),
    }
