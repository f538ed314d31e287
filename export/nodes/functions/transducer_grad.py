"""The gradient of the transducer loss as an ONNX function: Graves 2012, sections 2.4 and 2.5."""

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from .transducer import TransducerArcs, TransducerArrivals, TransducerEither

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def TransducerLossGrad(logits, targets, input_lengths, target_lengths, grad_costs, blank_index: int):
    """Costs [B], and the gradient [B, T, U+1, V] of their sum weighted by grad_costs [B].

    A logit's gradient is its probability times the occupation of the node, minus the occupation of
    its arc; zero where the cost is infinite. Each step takes the largest of its variables off them all,
    since the logarithm of what thousands of arcs multiply to has few digits behind the point.
    """
    log_probs, labels, start, stays, emissions = TransducerArcs(
        logits, targets, input_lengths, target_lengths, blank_index=blank_index
    )
    never = op.CastLike(op.Constant(value_float=float("-inf")), logits)
    certain = op.CastLike(0.0, logits)

    @graph()
    def forward(alpha: FLOAT["B", "P"], stay: FLOAT["B", "P"], emit: FLOAT["B", "P"]):
        # alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1), in logarithms
        stayed, emitted = TransducerArrivals(alpha, stay, emit)
        after = TransducerEither(stayed, emitted)
        scale = op.Max(op.ReduceMax(after, [1]), op.Constant(value_float=-3.4028235e38))
        return after - scale, op.Identity(alpha), op.Identity(scale)

    @graph()
    def backward(beta: FLOAT["B", "P"], stay: FLOAT["B", "P"], emit: FLOAT["B", "P"]):
        # beta(t, u) = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1); each arc with what follows it
        stayed = beta + stay
        emitted = emit + op.Slice(
            op.Pad(beta, [0, 0, 0, 1], op.Constant(value_float=float("-inf"))),
            [1],
            [9223372036854775807],
            [1],
        )
        before = TransducerEither(stayed, emitted)
        scale = op.Max(op.ReduceMax(before, [1]), op.Constant(value_float=-3.4028235e38))
        return before - scale, op.Identity(stayed), op.Identity(emitted)

    last, alpha, scales = op.Scan(start, stays, emissions, body=forward, num_scan_inputs=2)
    total = op.GatherElements(last, op.Unsqueeze(target_lengths, [1]), axis=1)
    costs = op.Neg(op.Squeeze(total + op.ReduceSum(scales, [0], keepdims=0), [1]))
    u = op.Range(0, op.Squeeze(op.Shape(logits, start=2, end=3)), 1)
    end = op.Where(u == op.Unsqueeze(target_lengths, [1]), certain, never)
    _first, stays_on, emits_on = op.Scan(
        end,
        op.Slice(stays, [-1], [-9223372036854775807], [0], [-1]),
        op.Slice(emissions, [-1], [-9223372036854775807], [0], [-1]),
        body=backward,
        num_scan_inputs=2,
    )
    # a path takes one arc of each diagonal: over those it is a softmax
    arcs_on = op.Slice(op.Concat(stays_on, emits_on, axis=2), [-1], [-9223372036854775807], [0], [-1])
    arcs = op.Softmax(op.Concat(alpha, alpha, axis=2) + arcs_on, axis=2)
    staying, emitting = op.Split(arcs, num_outputs=2, axis=2)

    # back from diagonals to frames, zero outside of the item, weighted
    nodes = op.Shape(logits, start=0, end=3)
    time = op.Unsqueeze(op.Range(0, op.Squeeze(op.Shape(logits, start=1, end=2)), 1), [1])
    diagonal = op.Expand(op.Unsqueeze(time + u, [0]), nodes)
    finite = op.Unsqueeze(op.Not(op.IsInf(costs)), [1, 2])
    inside = op.And(time < op.Unsqueeze(input_lengths, [1, 2]), u <= op.Unsqueeze(target_lengths, [1, 2]))
    within = op.And(inside, finite)
    weight = op.Unsqueeze(grad_costs, [1, 2])
    by_frame = op.GatherElements(op.Transpose(staying, perm=[1, 0, 2]), diagonal, axis=1)
    on_blank = weight * op.Where(within, by_frame, certain)
    label_by_frame = op.GatherElements(op.Transpose(emitting, perm=[1, 0, 2]), diagonal, axis=1)
    on_label = weight * op.Where(within, label_by_frame, certain)
    probabilities = op.Where(op.Unsqueeze(within, [3]), op.Exp(log_probs), certain)
    occupied = probabilities * op.Unsqueeze(on_blank + on_label, [3])
    updates = op.Neg(op.Concat(op.Unsqueeze(on_blank, [3]), op.Unsqueeze(on_label, [3]), axis=3))
    blank = op.Expand(op.Constant(value_int=blank_index), nodes)
    label = op.Expand(op.Unsqueeze(labels, [1]), nodes)
    index = op.Concat(op.Unsqueeze(blank, [3]), op.Unsqueeze(label, [3]), axis=3)
    grad = op.ScatterElements(occupied, index, updates, axis=3, reduction="add")
    return costs, grad
