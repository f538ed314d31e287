"""A transducer's forward recursion with its state as input and output, as an ONNX function."""

from onnxscript import BOOL, FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def TransducerForward(arcs, input_lengths, target_lengths, alpha, offset):
    """Costs [B] so far, alpha [B, U+1] and offset [B, 2], from the alpha and offset of the frames before.

    `arcs` [B, T, U+1, 2] are a blank and a label. Each item's largest alpha is taken out at every frame and
    goes to its offset, a number and its rounding, so that how the frames are divided among calls changes no
    bit.
    """
    never = op.CastLike(op.Constant(value_float=float("-inf")), arcs)
    last = op.Unsqueeze(target_lengths, [1])
    within = op.Range(0, op.Squeeze(op.Shape(alpha, start=1)), 1) <= last
    more = op.Pad(arcs, [0, 0, 0, 0, 0, 1, 0, 0])  # there is a frame, always
    stay, emit = op.Split(more, num_outputs=2, axis=3)
    stay = op.Where(within, op.Transpose(op.Squeeze(stay, [3]), perm=[1, 0, 2]), never)
    emit = op.Where(within, op.Transpose(op.Squeeze(emit, [3]), perm=[1, 0, 2]), never)
    alpha = op.Where(within, alpha, never)
    high, low = op.Split(offset, num_outputs=2, axis=1)
    frames = op.Unsqueeze(op.Range(0, op.Squeeze(op.Shape(more, start=1, end=2)), 1), [1])
    active = op.Unsqueeze(frames < op.Unsqueeze(input_lengths, [0]), [2])

    @graph()
    def step(
        alpha: FLOAT["B", "U"],
        high: FLOAT["B", 1],
        low: FLOAT["B", 1],
        stay: FLOAT["B", "U"],
        emit: FLOAT["B", "U"],
        active: BOOL["B", 1],
    ):
        # what emits from each v to each u is a sum of its own, of 64 bits
        nothing = op.Cast(op.Constant(value_float=float("-inf")), to=11)
        zero = op.Cast(op.Constant(value_float=0.0), to=11)
        u = op.Range(0, op.Squeeze(op.Shape(alpha, start=1)), 1)
        before = op.Less(u, op.Unsqueeze(u, [1]))
        labels = op.Where(before, zero, op.Unsqueeze(op.Cast(emit, to=11), [1]))
        emitted = op.CumSum(labels, 2, exclusive=1)
        ways = op.Where(before, nothing, op.Unsqueeze(op.Cast(alpha, to=11), [2]) + emitted)
        least = op.Cast(op.Constant(value_float=-3.4028235e38), to=11)
        top = op.Max(op.ReduceMax(ways, [1], keepdims=1), least)
        reached = op.Log(op.ReduceSum(op.Exp(ways - top), [1], keepdims=0)) + op.Squeeze(top, [1])
        left = op.CastLike(reached, alpha) + stay
        most = op.ReduceMax(left, [1], keepdims=1)
        some = op.And(active, op.Not(op.IsInf(most)))
        taken = op.Where(some, most, op.CastLike(op.Constant(value_float=0.0), most))
        # Knuth's sum of two numbers, and what it has rounded away
        total = high + taken
        added = total - high
        rounded = (high - (total - added)) + (taken - added)
        return op.Where(active, left - taken, alpha), total, low + rounded

    alpha, high, low = op.Scan(alpha, high, low, stay, emit, active, body=step, num_scan_inputs=3)
    ended = op.GatherElements(alpha, last, axis=1)
    return op.Squeeze(op.Neg(high + (low + ended)), [1]), alpha, op.Concat(high, low, axis=1)
