"""The gradient of CTC as an ONNX function: Graves et al. 2006, section 4.1, equations 14 to 16."""

from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLossGrad(log_probs, targets, input_lengths, target_lengths, grad_costs, blank_index: int):
    """Costs [B], and the gradient [B, T, C] of their sum weighted by grad_costs [B].

    The gradient is torch's: exp(log_probs) minus the occupation of the lattice, zero where the cost
    is infinite.
    """
    costs, held = ours.CTCPosterior(
        log_probs, targets, input_lengths, target_lengths, blank_index=blank_index
    )
    t = op.Range(0, op.Squeeze(op.Shape(log_probs, start=1, end=2)), 1)
    within = t < op.Unsqueeze(op.Where(op.IsInf(costs), 0, input_lengths), [1])
    emitted = op.Where(op.Unsqueeze(within, [2]), op.Exp(log_probs), op.CastLike(0.0, log_probs))
    # every blank is one class
    on_blanks = op.ReduceSum(op.Slice(held, [0], [9223372036854775807], [2], [2]), [2], keepdims=1)
    on_labels = op.Slice(held, [1], [9223372036854775807], [2], [2])
    is_label = op.Range(0, op.Squeeze(op.Shape(targets, start=1)), 1) < op.Unsqueeze(target_lengths, [1])
    blank = op.Constant(value_int=blank_index)
    classes = op.Pad(op.Where(is_label, targets, blank), [0, 1, 0, 0], blank)
    weight = op.Unsqueeze(grad_costs, [1, 2])
    updates = op.Neg(weight * op.Concat(on_blanks, on_labels, axis=2))
    index = op.Expand(op.Unsqueeze(classes, [1]), op.Shape(updates))
    grad = op.ScatterElements(weight * emitted, index, updates, axis=2, reduction="add")
    return costs, grad
