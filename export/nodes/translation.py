"""How operators of torch become nodes, those of our domain among them, and what stands behind these."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.core import aten__to_copy, aten_index, aten_index_put
from onnxscript.function_libs.torch_lib.ops.linalg import aten_linalg_vector_norm
from onnxscript.function_libs.torch_lib.ops.nn import aten_avg_pool2d, aten_avg_pool3d
from onnxscript.values import Op

from exportable_losses import ops as _register  # noqa: F401  (the operators exist once it is imported)

from . import backward, operators, torch_losses
from .functions import DOMAIN, function_protos


def _on_lattice(node: Op, attribute: str = "") -> Callable[..., Any]:
    """What translates an operator on a lattice to `node`, which has its attributes last and no 16 bits.

    An operator with an `attribute` besides the blank has it behind that.
    """

    def translate(
        scores: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank_index: int, *more: Any
    ) -> Any:
        if scores.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            scores = op.Cast(scores, to=ir.DataType.FLOAT)
        attributes = {"blank_index": blank_index}
        if attribute:
            attributes[attribute], more = int(more[0]), more[1:]
        return node(scores, targets, input_lengths, target_lengths, *more, **attributes)

    return translate


def _on_arcs(node: Op) -> Callable[..., Any]:
    """What translates an operator on the arcs of a lattice to `node`, for which durations are a tensor."""

    def translate(
        arcs: Any,
        input_lengths: Any,
        target_lengths: Any,
        blank_durations: Sequence[int],
        label_durations: Sequence[int],
        label_ends: bool,
        *more: Any,
    ) -> Any:
        durations = _constant([*blank_durations, *label_durations], ir.DataType.INT64)
        attributes = {"blanks": len(blank_durations), "label_ends": int(label_ends)}
        return node(arcs, durations, input_lengths, target_lengths, *more, **attributes)

    return translate


def _fused_joint(which: int) -> Callable[..., Any]:
    """What translates the scores of a joint network, or with 1 their gradients, to the node of an activation.

    There are no 16 bits in it.
    """

    def translate(*given: Any) -> Any:
        *tensors, others, activation = given[:9]
        narrow = tensors[0].dtype
        halves = narrow in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        if halves:
            tensors[:4] = (op.Cast(x, to=ir.DataType.FLOAT) for x in tensors[:4])
        found = operators.fused_joint(activation)[which](*tensors, *given[9:], others=others)
        if halves and which == 1:
            return tuple(op.Cast(x, to=narrow) for x in found)
        return found

    return translate


def _lattice(row: str, name: str, scores: str) -> dict[Any, Callable[..., Any]]:
    """The operator of a lattice's costs and that of their gradient."""
    node, node_grad = operators.lattice(name, scores)
    ours = torch.ops.exportable_losses
    return {
        getattr(ours, row).default: _on_lattice(node),
        getattr(ours, f"{row}_grad").default: _on_lattice(node_grad),
    }


def _constant(value: Any, dtype: ir.DataType | None) -> Any:
    tensor: Any = ir.tensor(value, dtype)
    return op.Constant(value=tensor)


def _axes(dim: int | Sequence[int] | None) -> list[Any]:
    """What a reduction takes behind its tensor; nothing for all dimensions."""
    return [] if dim is None else [_constant([dim] if isinstance(dim, int) else list(dim), ir.DataType.INT64)]


def _scalar_tensor(s: Any, dtype: int = ir.DataType.FLOAT, **_: Any) -> Any:
    """`aten.scalar_tensor`; the exporter's own takes every number through float32."""
    if isinstance(s, (int, float)):
        return _constant(s, ir.DataType(dtype))
    return op.Cast(s, to=dtype)


def _full_like(x: Any, fill_value: Any, **_: Any) -> Any:
    """`aten.full_like`, likewise."""
    return op.Expand(_constant(fill_value, x.dtype), op.Shape(x))


def _with_number(compute: Callable[..., Any]) -> Callable[..., Any]:
    """An operator of a tensor and a number; the exporter's own takes none that is made of sizes."""

    def translate(x: Any, other: Any, alpha: Any = 1) -> Any:
        if not isinstance(other, (int, float)):
            return compute(x, op.Mul(op.CastLike(other, x), _constant(alpha, x.dtype)))
        return compute(x, _constant(other * alpha, x.dtype))

    return translate


def _from_number(x: Any, other: Any, alpha: Any = 1) -> Any:
    """`aten.rsub`: a number less a tensor."""
    if alpha != 1:
        x = op.Mul(x, _constant(alpha, x.dtype))
    number = _constant(other, x.dtype) if isinstance(other, (int, float)) else op.CastLike(other, x)
    return op.Sub(number, x)


def _by_wide_indices(translate: Callable[..., Any]) -> Callable[..., Any]:
    """An operator of indices; ONNX takes none of 32 bits."""

    def widened(x: Any, indices: Sequence[Any], *more: Any, **named: Any) -> Any:
        wide = []
        for index in indices:
            if index is not None and index.dtype == ir.DataType.INT32:
                narrow, index = index, cast(Any, op.Cast(index, to=ir.DataType.INT64))
                index.shape, index.dtype = narrow.shape, ir.DataType.INT64
            wide.append(index)
        return translate(x, wide, *more, **named)

    return widened


def _average_pool(translate: Callable[..., Any]) -> Callable[..., Any]:
    """`aten.avg_pool2d` and that of 3 dimensions; the exporter's own drop the divisor."""

    def averaged(
        x: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override:
            raise ValueError("average pooling: got divisor_override, expected none")
        return translate(x, kernel_size, stride, padding, ceil_mode, count_include_pad)

    return averaged


def _logarithm(base: float) -> Callable[[Any], Any]:
    """`aten.log2` and `aten.log10`; the exporter's own divide by a logarithm in float32."""
    return lambda x: op.Div(op.Log(x), _constant(math.log(base), x.dtype))


def _norm(translate: Callable[..., Any]) -> Callable[..., Any]:
    """`aten.linalg_vector_norm`; in the exporter's own one over the order goes through float32."""

    def normed(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: int = -1) -> Any:
        if ord in (0, 1, 2, math.inf, -math.inf):
            return translate(x, ord, dim, keepdim, dtype)
        kind = x.dtype if dtype in (None, -1) else ir.DataType(dtype)
        x = op.Cast(x, to=kind)
        raised: Any = op.Pow(op.Abs(x), _constant(ord, kind))
        total: Any = op.ReduceSum(raised, *_axes(dim), keepdims=keepdim)
        return op.Pow(total, _constant(1 / ord, kind))

    return normed


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


def _sum(x: Any, dtype: int | None = None) -> Any:
    """`aten.sum`, along the last dimension first.

    onnxruntime's float32 sum over all dimensions at once is the naive one, and the slower.
    """
    if dtype not in (None, -1):
        x = op.Cast(x, to=dtype)
    if x.shape is None or len(x.shape) > 1:
        x = op.ReduceSum(x, _constant([-1], ir.DataType.INT64), keepdims=False)
    return op.ReduceSum(x, keepdims=False)


def _mean(x: Any, dtype: int | None = None) -> Any:
    """`aten.mean`, by the sum above; what is divided by zero, the mean of nothing, is NaN as in `means`."""
    kind = x.dtype if dtype in (None, -1) else dtype
    return op.Div(_sum(x, dtype), op.Cast(op.Size(x), to=kind))


def _moved(x: Any, source: int, destination: int) -> Any:
    """`aten.movedim` of one dimension."""
    order = list(range(len(x.shape)))
    order.insert(destination % len(order), order.pop(source))
    return op.Transpose(x, perm=order)


def _any(x: Any, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Any:
    """`aten.any`: of nothing none is, where onnxruntime's largest of nothing is not zero."""
    flags: Any = op.Cast(x, to=ir.DataType.BOOL)
    ones: Any = op.Cast(flags, to=ir.DataType.INT64)
    found: Any = op.ReduceSum(ones, *_axes(dim), keepdims=keepdim)
    return op.Cast(found, to=ir.DataType.BOOL)


def translations() -> dict[Any, Callable[..., Any]]:
    """A table for the `custom_translation_table` of `torch.onnx.export`.

    With it you can export a model that calls a loss of this package, `torch.nn.CTCLoss`,
    `torch.nn.functional.ctc_loss` or `torchaudio.functional.rnnt_loss`. Import torchaudio before the call.
    The losses become nodes of the domain ``exportable_losses``, and `add_bodies` adds their functions to the
    file. The table also replaces translations of the exporter that lose precision or time. `to_onnx` does all
    of this for you.

    The gradient of `ctc_loss` in a graph follows torch's convention: it is the gradient with respect to the
    logits behind a log-softmax, and zero where the cost is infinite.

    Returns:
        A mapping from torch's operators to functions that make nodes.

    Examples:
        >>> import torch
        >>> class Recogniser(torch.nn.Module):
        ...     def forward(self, logits, targets, frames, labels):
        ...         log_probs = logits.log_softmax(-1).transpose(0, 1)
        ...         return torch.nn.functional.ctc_loss(log_probs, targets, frames, labels)
        >>> frames, labels = torch.tensor([9, 7]), torch.tensor([3, 2])
        >>> batch = (torch.randn(2, 9, 5), torch.ones(2, 3, dtype=torch.int64), frames, labels)
        >>> program = torch.onnx.export(
        ...     Recogniser(), batch, dynamo=True, verbose=False, custom_translation_table=translations()
        ... )
        >>> model = add_bodies(program).model_proto
        >>> [function.name for function in model.functions]
        ['CTCReversed', 'CTCBothWays', 'CTCLattice', 'CTCTransition', 'CTCLoss']
    """
    assignment = operators.node("BestPermutation", {"costs": "T"}, {"permutations": "tensor(int64)"})
    of_sequences = dict.fromkeys(
        ("predictions", "targets", "prediction_lengths", "target_lengths"), "tensor(int64)"
    )
    edits = operators.node("EditCounts", of_sequences, {"counts": "tensor(int64)"})
    occupation, path = {"costs": "T", "posteriors": "T"}, {"states": "tensor(int64)", "scores": "T"}
    state = {"alpha": "T", "offset": "T"}
    walked = {"costs": "T", "alpha_out": "T", "offset_out": "T"}
    layer = {**dict.fromkeys(("hidden", "weight", "bias"), "T"), "input_lengths": "tensor(int64)"}
    lengths = dict.fromkeys(("input_lengths", "target_lengths"), "tensor(int64)")
    arcs_and_state = {"arcs": "T", **lengths, **state}
    forward = operators.node("TransducerForward", arcs_and_state, walked)
    fused_best = operators.node("FusedBest", layer, {"best": "tensor(int64)"})
    ours, aten = torch.ops.exportable_losses, torch.ops.aten
    arcs_loss, arcs_loss_grad, arcs_align = operators.arcs()
    return {
        **_lattice("ctc_loss", "CTCLoss", "log_probs"),
        ours.arcs_loss.default: _on_arcs(arcs_loss),
        ours.arcs_loss_grad.default: _on_arcs(arcs_loss_grad),
        ours.arcs_align.default: _on_arcs(arcs_align),
        ours.fused_joint.default: _fused_joint(0),
        ours.fused_joint_grad.default: _fused_joint(1),
        ours.fused_best.default: lambda *layer: fused_best(*layer),
        **_lattice("transducer_loss", "TransducerLoss", "logits"),
        ours.ctc_posterior.default: _on_lattice(
            operators.on_lattice("CTCPosterior", "log_probs", occupation)
        ),
        ours.ctc_forward.default: _on_lattice(operators.on_lattice("CTCForward", "log_probs", walked, state)),
        ours.transducer_forward.default: lambda *walk: forward(*walk),
        ours.ctc_align.default: _on_lattice(
            operators.on_lattice("CTCAlign", "log_probs", path, attributes=("free_ends",)), "free_ends"
        ),
        **torch_losses.translations(),
        **backward.translations(),
        ours.best_permutation.default: lambda costs: assignment(costs),
        ours.edit_counts.default: lambda *sequences: edits(*sequences),
        aten.sgn.default: lambda x: op.Sign(x),
        aten.scalar_tensor.default: _scalar_tensor,
        aten.full_like.default: _full_like,
        aten.mul.Scalar: _with_number(op.Mul),
        aten.add.Scalar: _with_number(op.Add),
        aten.sub.Scalar: _with_number(op.Sub),
        aten.rsub.Scalar: _from_number,
        # nothing to decompose is half of the exporter's time saved (`tracing.sparing`)
        aten.to.dtype: lambda x, dtype, *_, **__: aten__to_copy(x, dtype=dtype),
        aten.movedim.int: _moved,
        **dict.fromkeys((aten.index.Tensor, aten._unsafe_index.Tensor), _by_wide_indices(aten_index)),
        **dict.fromkeys(
            (aten.index_put.default, aten._unsafe_index_put.default), _by_wide_indices(aten_index_put)
        ),
        aten.avg_pool2d.default: _average_pool(aten_avg_pool2d),
        aten.avg_pool3d.default: _average_pool(aten_avg_pool3d),
        aten.log2.default: _logarithm(2),
        aten.log10.default: _logarithm(10),
        aten.linalg_vector_norm.default: _norm(aten_linalg_vector_norm),
        aten.softplus.default: _softplus,
        aten.sum.default: _sum,
        aten.mean.default: _mean,
        **dict.fromkeys((aten.any.default, aten.any.dim, aten.any.dims), _any),
    }


def add_bodies(program: torch.onnx.ONNXProgram) -> torch.onnx.ONNXProgram:
    """Add the functions of this package's nodes to a program, so that any runtime computes it.

    Args:
        program: the result of `torch.onnx.export` with `translations()`.

    Returns:
        The same program.

    Raises:
        ValueError: the program has such nodes in both float32 and float64 (each function has one dtype), or
            an opset in which the bodies would have another meaning.

    Examples:
        Save it afterwards::

            program = torch.onnx.export(model, batch, custom_translation_table=translations(), dynamo=True)
            add_bodies(program).save("model.onnx")
    """
    attach_bodies(program.model)
    return program


def attach_bodies(model: ir.Model) -> None:
    """`add_bodies` for a model; what a function calls stands before it."""
    types: dict[str, ir.DataType] = {}

    def attach(op_type: str, elem_type: ir.DataType) -> None:
        bodies = function_protos(op_type, elem_type.value, model.opset_imports[""])
        for name in (op_type, *(body.name for body in bodies)):
            had = types.setdefault(name, elem_type)
            if had != elem_type:
                raise ValueError(f"program: {name} is there in {had} and {elem_type}, expected one")
        for body in bodies:
            function = ir.serde.deserialize_function(body)
            model.functions[function.identifier()] = function

    floats = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN:  # the exporter does not give every value a type
            known = [v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype in floats]
            attach(node.op_type, known[0] if known else ir.DataType.FLOAT)
