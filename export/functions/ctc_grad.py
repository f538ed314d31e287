"""The gradient of CTC as an ONNX function: Graves et al. 2006, section 4.1, equations 14 to 16."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLossGrad(log_probs, targets, input_lengths, target_lengths, grad_costs, blank_index: int):
    """Costs [B], and the gradient [B, T, C] of their sum weighted by grad_costs [B].

    The gradient is torch's: exp(log_probs) minus the occupation of the lattice, zero where the cost
    is infinite. The occupation of a state is what reaches it from the front, before its emission,
    times the state from the back. Reversed in time and labels the backward variable obeys the
    forward recursion, so both are one scan over a batch of 2B.
    """
    costs = ours.CTCLoss(log_probs, targets, input_lengths, target_lengths, blank_index=blank_index)

    # the state s of the lattice: blanks at even s, the label (s - 1) / 2 at odd s
    blank = op.Constant(value_int=blank_index)
    width = op.Squeeze(op.Shape(targets, start=1))
    is_label = op.Range(0, width, 1) < op.Unsqueeze(target_lengths, [1])
    column = op.Shape(op.Unsqueeze(input_lengths, [1]))
    own_labels = op.Where(is_label, targets, blank)
    padded = op.Concat(own_labels, op.Expand(blank, column), axis=1)
    states = 2 * width + 1
    s = op.Range(0, states, 1)
    front_labels = op.Where(op.Mod(s, 2) == 1, op.Gather(padded, s / 2, axis=1), blank)
    back_labels = op.Slice(front_labels, [-1], [-9223372036854775807], [1], [-1])
    labels = op.Concat(front_labels, back_labels, axis=0)
    two_before = op.Slice(op.Pad(labels, [0, 2, 0, 0], blank), [0], [-2], [1])
    may_skip = op.And(op.Not(labels == blank), op.Not(labels == two_before))
    never = op.CastLike(op.Constant(value_float=float("-inf")), log_probs)
    skip = op.Where(may_skip, op.CastLike(0.0, log_probs), never)
    last = states - 1 - 2 * target_lengths
    starts = op.Unsqueeze(op.Concat(last - last, last, axis=0), [1])
    start = op.Where(s == starts, op.CastLike(0.0, log_probs), never)

    frames = op.Squeeze(op.Shape(log_probs, start=1, end=2))
    t = op.Unsqueeze(op.Range(0, frames, 1), [1])
    front_active = t < op.Unsqueeze(input_lengths, [0])
    back_active = frames - 1 - t < op.Unsqueeze(input_lengths, [0])
    active = op.Unsqueeze(op.Concat(front_active, back_active, axis=1), [2])
    front = op.Transpose(log_probs, perm=[1, 0, 2])
    back = op.Slice(front, [-1], [-9223372036854775807], [0], [-1])

    @graph()
    def step(
        alpha: FLOAT["N", "L"],
        skip: FLOAT["N", "L"],
        labels: INT64["N", "L"],
        front: FLOAT["B", "C"],
        back: FLOAT["B", "C"],
        active: BOOL["N", 1],
    ):
        # alpha(s) = [alpha(s) + alpha(s-1) + alpha(s-2) where it may skip] * y(label(s)), in logarithms
        before = op.Pad(alpha, [0, 2, 0, 0], op.Constant(value_float=float("-inf")))
        one = op.Slice(before, [1], [-1], [1])
        two = op.Slice(before, [0], [-2], [1]) + skip
        most = op.Max(alpha, one, two, op.Constant(value_float=-3.4028235e38))
        paths = op.Sum(op.Exp(alpha - most), op.Exp(one - most), op.Exp(two - most))
        reached = op.Log(paths) + most
        emitted = op.GatherElements(op.Concat(front, back, axis=0), labels, axis=1)
        stepped = op.Where(active, reached + emitted, alpha)
        return stepped, op.Identity(skip), op.Identity(labels), op.Identity(reached), op.Identity(stepped)

    _ended, _skip, _labels, reached, stepped = op.Scan(
        start, skip, labels, front, back, active, body=step, num_scan_inputs=3
    )
    from_front, _back_reached = op.Split(reached, num_outputs=2, axis=1)
    _front_stepped, reversed_back = op.Split(stepped, num_outputs=2, axis=1)
    from_back = op.Slice(
        reversed_back,
        [-1, -1],
        [-9223372036854775807, -9223372036854775807],
        [0, 2],
        [-1, -1],
    )
    occupation = op.Transpose(op.Exp(from_front + from_back + op.Unsqueeze(costs, [0, 2])), perm=[1, 0, 2])

    # what is emitted minus what the lattice holds, weighted, within the item's frames
    finite = op.Not(op.IsInf(costs))
    within = op.And(op.Transpose(front_active), op.Unsqueeze(finite, [1]))
    held = op.Where(op.Unsqueeze(within, [2]), occupation, op.CastLike(0.0, log_probs))
    emitted = op.Where(op.Unsqueeze(within, [2]), op.Exp(log_probs), op.CastLike(0.0, log_probs))
    weight = op.Unsqueeze(grad_costs, [1, 2])
    on_blanks = op.ReduceSum(op.Slice(held, [0], [9223372036854775807], [2], [2]), [2], keepdims=1)
    on_labels = op.Slice(held, [1], [9223372036854775807], [2], [2])
    updates = op.Neg(weight * op.Concat(on_blanks, on_labels, axis=2))
    classes = op.Concat(op.Expand(blank, column), own_labels, axis=1)
    index = op.Expand(op.Unsqueeze(classes, [1]), op.Shape(updates))
    grad = op.ScatterElements(weight * emitted, index, updates, axis=2, reduction="add")
    return costs, grad
