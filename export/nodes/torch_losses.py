"""The losses of torch and torchaudio as nodes of our domain: `ctc_loss` and `rnnt_loss`.

Both are several operators to the exporter, of which all but one are ordinary: `aten::_ctc_loss` and
`torchaudio::rnnt_loss_forward` hold the lattice. For those two there are translations here, and what
`torch.export` wants to know of them before: the shapes they return.
"""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import Tensor

from . import operators

_CTC, _CTC_GRAD = operators.lattice("CTCLoss", "log_probs")
_TRANSDUCER, _TRANSDUCER_GRAD = operators.lattice("TransducerLoss", "logits")
_RNNT = "torchaudio::rnnt_loss_forward"


def translations() -> dict[Any, Callable[..., Any]]:
    """The part of the table that is about them; torchaudio's where its operators are loaded."""
    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {
        aten._ctc_loss.Tensor: _ctc_loss,
        aten._ctc_loss_backward.Tensor: _ctc_loss_backward,
    }
    if hasattr(torch.ops.torchaudio, "rnnt_loss_forward"):
        _register_rnnt()
        table[torch.ops.torchaudio.rnnt_loss_forward.default] = _rnnt_loss
    return table


# CTC


def _ctc_shapes(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    """Costs `[B]` and the forward variables `[B, T, 2S+1]`, S the labels of the longest target."""
    frames, batch = log_probs.shape[:2]
    for of_batch, dimensions in ((targets, 2), (input_lengths, 1), (target_lengths, 1)):
        if of_batch.dim() == dimensions:
            torch._check(of_batch.shape[0] == batch)
    if torch.compiler.is_exporting():  # nothing in a graph reads the forward variables
        states: Any = 2 * targets.shape[-1] + 1
    else:  # known when it runs: `torch.compile` must not take it for anything else
        states = torch.library.get_ctx().new_dynamic_size()
    return log_probs.new_empty(batch), log_probs.new_empty((batch, frames, states))


def _ctc_gradient_shape(grad: Tensor, log_probs: Tensor, *_: Any) -> Tensor:
    return log_probs.new_empty(log_probs.shape)


def _ctc_of_numbers(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, *settings: Any
) -> Tensor:
    """Lengths that the model fixes; in a trace alone. torch's own way takes none for ``mean``."""
    lengths = (torch.tensor(numbers) for numbers in (input_lengths, target_lengths))
    return torch.ops.aten.ctc_loss.Tensor(log_probs, targets, *lengths, *settings)


torch.library.register_fake("aten::_ctc_loss.Tensor", _ctc_shapes, allow_override=True)
torch.library.register_fake("aten::_ctc_loss_backward.Tensor", _ctc_gradient_shape, allow_override=True)
torch.ops.aten.ctc_loss.IntList.py_impl(torch._C.DispatchKey.CompositeImplicitAutograd)(_ctc_of_numbers)


def _ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    zero_infinity: bool = False,  # decides about gradients alone; the costs are infinite all the same
) -> Any:
    """`aten::_ctc_loss`, log-probabilities `[T, B, C]`; in place of the forward variables something."""
    lattice = _batch_first(log_probs, targets, input_lengths, target_lengths)
    return _CTC(*lattice, blank_index=blank), op.Identity(log_probs)


def _ctc_loss_backward(
    grad: Any,
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    neg_log_likelihood: Any,
    log_alpha: Any,
    blank: int,
    zero_infinity: bool = False,
) -> Any:
    """Its gradient. Where a cost is infinite it is zero, which torch gives with `zero_infinity` alone."""
    lattice = _batch_first(log_probs, targets, input_lengths, target_lengths)
    _, gradient = _CTC_GRAD(*lattice, grad, blank_index=blank)
    return op.Transpose(gradient, perm=[1, 0, 2])


def _batch_first(log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any) -> tuple[Any, ...]:
    """What our operators take: `[B, T, C]`, `[B, S]`, lengths `[B]`."""
    every = _constant([-1])  # torch takes a scalar for a batch of one
    input_lengths, target_lengths = (op.Reshape(_int64(x), every) for x in (input_lengths, target_lengths))
    targets = _int64(targets)
    if len(targets.shape) == 1:
        targets = _rows(targets, target_lengths)
    return op.Transpose(log_probs, perm=[1, 0, 2]), targets, input_lengths, target_lengths


def _rows(targets: Any, target_lengths: Any) -> Any:
    """Concatenated targets as rows `[B, S]`; behind an item's last label stands the next item's."""
    none = _constant([0])
    longest = op.ReduceMax(op.Concat(target_lengths, none, axis=0), keepdims=0)
    starts = op.CumSum(target_lengths, _constant(0), exclusive=1)
    places = op.Add(op.Unsqueeze(starts, _constant([1])), op.Range(_constant(0), longest, _constant(1)))
    return op.Gather(op.Concat(targets, none, axis=0), op.Min(places, op.Size(targets)))


# The transducer


def _register_rnnt() -> None:
    """Tell torch the shapes and the gradient of torchaudio's operator, which it is not told otherwise."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(_RNNT, "Meta"):
        return

    def shapes(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return logits.new_empty(logits.shape[0]), logits.new_empty(logits.shape)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])

    def backward(ctx: Any, grad_costs: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_costs[:, None, None, None], *([None] * 6)

    torch.library.register_fake(_RNNT, shapes)
    torch.library.register_autograd(_RNNT, backward, setup_context=setup_context)


def _rnnt_loss(
    logits: Any,
    targets: Any,
    logit_lengths: Any,
    target_lengths: Any,
    blank: int,
    clamp: float,
    fused_log_softmax: bool,
) -> Any:
    """`torchaudio::rnnt_loss_forward`: the costs, and the gradient of each. What is not used falls away.

    Without `fused_log_softmax` scores are log-probabilities, which our log-softmax leaves as they are; the
    gradient is that of the logits behind them.
    """
    if clamp > 0 and not fused_log_softmax:
        raise ValueError("rnnt_loss: got clamp without fused_log_softmax, expected one of them at most")
    lattice = (logits, _int64(targets), _int64(logit_lengths), _int64(target_lengths))
    costs = _TRANSDUCER(*lattice, blank_index=blank)
    ones = op.Expand(op.CastLike(_constant(1), logits), op.Shape(logit_lengths))
    _, gradient = _TRANSDUCER_GRAD(*lattice, ones, blank_index=blank)
    if clamp > 0:
        largest: Any = op.Constant(value_float=float(clamp))
        most = op.CastLike(largest, logits)
        gradient = op.Clip(gradient, op.Neg(most), most)
    return costs, gradient


def _int64(x: Any) -> Any:
    return x if x.dtype == ir.DataType.INT64 else op.Cast(x, to=ir.DataType.INT64.value)


def _constant(value: Any) -> Any:
    tensor: Any = ir.tensor(value, ir.DataType.INT64)
    return op.Constant(value=tensor)
