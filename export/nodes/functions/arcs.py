"""Any transducer's lattice, whose arcs are given, and its costs as ONNX functions."""

from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def ArcsSteps(durations, blanks: int):
    """How many diagonals each arc [K] leads on, and how many labels: d and 0 of blanks, d + 1 and 1 of
    labels.
    """
    kinds = op.Squeeze(op.Shape(durations))
    right = op.Cast(op.Range(0, kinds, 1) >= op.Constant(value_int=blanks), to=7)
    return durations + right, right


@script(ours, default_opset=op)
def ArcsOf(arcs, t, u, durations, right, input_lengths, target_lengths, label_ends: int):
    """The arcs [B, T, U+1, K] that leave the nodes (t, u), impossible where none does: [B, N, K, U+1].

    `t` is [N, K, U+1] and `u` [K, U+1]. A blank leads to frame T of its item at most, a label to the frame
    before unless it may end a path.
    """
    never = op.CastLike(op.Constant(value_float=float("-inf")), arcs)
    padded = op.Pad(arcs, [0, 0, 0, 0, 0, 1, 0, 0], never)  # there is a frame, always
    frames = op.Squeeze(op.Shape(arcs, start=1, end=2))
    places = op.Squeeze(op.Shape(arcs, start=2, end=3))
    kinds = op.Squeeze(op.Shape(durations))
    k = op.Unsqueeze(op.Range(0, kinds, 1), [1])
    node = op.Clip(t, 0, frames) * places + op.Clip(u, 0, places - 1)
    found = op.Gather(op.Flatten(padded, axis=1), node * kinds + k, axis=1)
    item_frames = op.Unsqueeze(input_lengths, [1, 2, 3])
    item_labels = op.Unsqueeze(target_lengths, [1, 2, 3])
    lasting = op.Unsqueeze(durations, [1])
    right = op.Unsqueeze(right, [1])
    latest = item_frames - right * (1 - op.Constant(value_int=label_ends))
    time = op.Unsqueeze(t, [0])
    in_time = op.And(op.And(time >= 0, time < item_frames), time + lasting <= latest)
    in_place = op.And(u >= 0, u + right <= item_labels)
    return op.Where(op.And(in_time, in_place), found, never)


@script(ours, default_opset=op)
def ArcsEntering(arcs, durations, input_lengths, target_lengths, blanks: int, label_ends: int):
    """What a forward recursion over diagonals n = t + u takes, from 0 to one behind T + U: there is always a
    step.

    Its start [B, P], the last few diagonals in a row, each behind an impossible node; where in it the arcs
    that enter the nodes of a diagonal come from [K, U+1]; and those arcs [T+U+1, B, K, U+1].
    """
    never = op.CastLike(op.Constant(value_float=float("-inf")), arcs)
    steps, right = ArcsSteps(durations, blanks=blanks)
    frames = op.Squeeze(op.Shape(arcs, start=1, end=2))
    places = op.Squeeze(op.Shape(arcs, start=2, end=3))
    width = places + 1

    # arc k that enters place u of diagonal n has left (n - u - d, u) or (n - u - d, u - 1)
    u = op.Unsqueeze(op.Range(0, places, 1), [0])
    n = op.Unsqueeze(op.Range(1, frames + places + 1, 1), [1, 2])
    left = u - op.Unsqueeze(right, [1])
    t = n - u - op.Unsqueeze(durations, [1])
    entering = ArcsOf(arcs, t, left, durations, right, input_lengths, target_lengths, label_ends=label_ends)

    place = op.Range(0, op.ReduceMax(steps, keepdims=0) * width, 1)
    first = op.Where(place == 1, op.CastLike(0.0, arcs), never)
    start = op.Expand(op.Unsqueeze(first, [0]), op.Concat(op.Shape(input_lengths), [1], axis=0))
    before = op.Unsqueeze(steps - 1, [1]) * width + left + 1
    return start, before, op.Transpose(entering, perm=[1, 0, 2, 3])


@script(ours, default_opset=op)
def ArcsEnds(start, rows, scales, input_lengths, target_lengths):
    """The diagonals behind the first, and what was taken off each, with the first, and alpha of each item's
    end.

    `rows` are [T+U+1, B, 1+U+1] and `scales` [T+U+1, B, 1]; both have one more then. The ends are [B, 1].
    """
    first = op.Unsqueeze(op.Slice(start, [0], op.Shape(rows, start=2), [1]), [0])
    alphas = op.Concat(first, rows, axis=0)
    nothing = op.Mul(op.Slice(scales, [0], [1], [0]), op.CastLike(0.0, start))
    ends = op.Unsqueeze(input_lengths + target_lengths, [0, 2])
    at_end = op.GatherElements(alphas, op.Expand(ends, op.Shape(first)), axis=0)
    end = op.GatherElements(op.Squeeze(at_end, [0]), op.Unsqueeze(target_lengths + 1, [1]), axis=1)
    return alphas, op.Concat(nothing, scales, axis=0), end


@script(ours, default_opset=op)
def ArcsForward(arcs, durations, input_lengths, target_lengths, blanks: int, label_ends: int):
    """The forward recursion: of each diagonal alpha of its nodes, an impossible one before them.

    They are [T+U+2, B, 1+U+1], less the largest of the last few diagonals each time; then what was taken off
    at each [T+U+2, B, 1], and alpha of each item's end [B, 1].
    """
    start, before, entering = ArcsEntering(
        arcs, durations, input_lengths, target_lengths, blanks=blanks, label_ends=label_ends
    )

    @graph()
    def step(alpha: FLOAT["B", "P"], before: INT64["K", "U"], entering: FLOAT["B", "K", "U"]):
        reached = op.Gather(alpha, before, axis=1) + entering
        most = op.Max(op.ReduceMax(reached, [1], keepdims=1), op.Constant(value_float=-3.4028235e38))
        here = op.Log(op.ReduceSum(op.Exp(reached - most), [1], keepdims=0)) + op.Squeeze(most, [1])
        row = op.Pad(here, [0, 1, 0, 0], op.Constant(value_float=float("-inf")))
        last = op.Concat(row, op.Slice(alpha, [0], op.Neg(op.Shape(row, start=1)), [1]), axis=1)
        scale = op.Max(op.ReduceMax(last, [1], keepdims=1), op.Constant(value_float=-3.4028235e38))
        return last - scale, op.Identity(before), row - scale, scale

    _alpha, _before, rows, scales = op.Scan(start, before, entering, body=step, num_scan_inputs=1)
    alphas, lost, end = ArcsEnds(start, rows, scales, input_lengths, target_lengths)
    return alphas, lost, end


@script(ours, default_opset=op)
def ArcsCosts(scales, end, input_lengths, target_lengths):
    """The costs [B] of what `ArcsForward` gives: what each item had lost at its end, and has there."""
    n = op.Unsqueeze(op.Range(0, op.Squeeze(op.Shape(scales, start=0, end=1)), 1), [1, 2])
    within = n <= op.Unsqueeze(input_lengths + target_lengths, [0, 2])
    lost = op.ReduceSum(op.Where(within, scales, op.CastLike(0.0, scales)), [0], keepdims=0)
    return op.Squeeze(op.Neg(end) - lost, [1])


@script(ours, default_opset=op)
def ArcsLoss(arcs, durations, input_lengths, target_lengths, blanks: int, label_ends: int):
    """Costs [B] of all paths from (0, 0) to (T, U) over arcs [B, T, U+1, K]; infinite where there is none."""
    _alphas, scales, end = ArcsForward(
        arcs, durations, input_lengths, target_lengths, blanks=blanks, label_ends=label_ends
    )
    return ArcsCosts(scales, end, input_lengths, target_lengths)
