"""The gradient of the costs of any transducer's lattice, in its arcs, as an ONNX function."""

from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from .arcs import ArcsCosts, ArcsForward, ArcsOf, ArcsSteps

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def ArcsLossGrad(arcs, durations, input_lengths, target_lengths, grad_costs, blanks: int, label_ends: int):
    """Costs [B], and the gradient [B, T, U+1, K] of their sum weighted by grad_costs [B].

    That of an arc is minus its occupation, alpha times the arc times beta, zero where the cost is infinite.
    Beta loses what alpha has lost behind it, and the rest of the total, so that the three multiply to a
    probability.
    """
    alphas, scales, end = ArcsForward(
        arcs, durations, input_lengths, target_lengths, blanks=blanks, label_ends=label_ends
    )
    costs = ArcsCosts(scales, end, input_lengths, target_lengths)
    never = op.CastLike(op.Constant(value_float=float("-inf")), arcs)
    steps, right = ArcsSteps(durations, blanks=blanks)
    frames = op.Squeeze(op.Shape(arcs, start=1, end=2))
    places = op.Squeeze(op.Shape(arcs, start=2, end=3))
    kinds = op.Squeeze(op.Shape(durations))
    width = places + 1

    # the arcs that leave place u of diagonal n, at t = n - u
    u = op.Unsqueeze(op.Range(0, places, 1), [0])
    n = op.Unsqueeze(op.Range(0, frames + places + 1, 1), [1, 2])
    each = op.Expand(op.CastLike(0, durations), op.Shape(op.Unsqueeze(durations, [1])))
    leaving = ArcsOf(
        arcs, n - u + each, u + each, durations, right, input_lengths, target_lengths, label_ends=label_ends
    )
    leaving = op.Transpose(leaving, perm=[1, 0, 2, 3])

    # where each of them leads to among the last diagonals in a row, each before an impossible node
    kept = op.ReduceMax(steps, keepdims=0)
    beta = op.Expand(never, op.Concat(op.Shape(input_lengths), op.Unsqueeze(kept * width, [0]), axis=0))
    behind = op.Unsqueeze(steps - 1, [1]) * width + u + op.Unsqueeze(right, [1])
    ends = op.Unsqueeze(input_lengths + target_lengths, [1])
    at_end = op.And(n == op.Unsqueeze(ends, [0]), op.Unsqueeze(u == op.Unsqueeze(target_lengths, [1]), [0]))
    last = op.Where(at_end, op.Unsqueeze(op.Where(op.IsInf(end), never, op.Neg(end)), [0]), never)
    alpha = op.Slice(alphas, [1], [9223372036854775807], [2])
    no_more = op.Unsqueeze(op.Mul(op.Slice(scales, [0], [1], [0]), op.CastLike(0.0, arcs)), [0])
    taken_off = op.Concat(op.Slice(scales, [1], [9223372036854775807], [0]), op.Squeeze(no_more, [0]), axis=0)

    @graph()
    def step(
        beta: FLOAT["B", "P"],
        behind: INT64["K", "U"],
        leaving: FLOAT["B", "K", "U"],
        alpha: FLOAT["B", "U"],
        last: FLOAT["B", "U"],
        scale: FLOAT["B", 1],
    ):
        beta = beta - scale
        through = op.Gather(beta, behind, axis=1) + leaving
        taken = op.Exp(op.Unsqueeze(alpha, [1]) + through)
        most = op.Max(op.ReduceMax(through, [1], keepdims=1), op.Constant(value_float=-3.4028235e38))
        sums = op.Log(op.ReduceSum(op.Exp(through - most), [1], keepdims=0)) + op.Squeeze(most, [1])
        row = op.Pad(op.Max(sums, last), [0, 0, 0, 1], op.Constant(value_float=float("-inf")))
        rows = op.Concat(row, op.Slice(beta, [0], op.Neg(op.Shape(row, start=1)), [1]), axis=1)
        return rows, op.Identity(behind), taken

    _beta, _behind, taken = op.Scan(
        beta,
        behind,
        op.Slice(leaving, [-1], [-9223372036854775807], [0], [-1]),
        op.Slice(alpha, [-1], [-9223372036854775807], [0], [-1]),
        op.Slice(last, [-1], [-9223372036854775807], [0], [-1]),
        op.Slice(taken_off, [-1], [-9223372036854775807], [0], [-1]),
        body=step,
        num_scan_inputs=4,
    )

    # between two diagonals each path takes one arc: all that lead over have lost the same digits
    left = op.ReduceSum(taken, [3], keepdims=0)
    diagonals = op.Shape(left, start=0, end=1)
    room = op.Expand(
        op.CastLike(0.0, arcs), op.Concat(op.Unsqueeze(kept, [0]), op.Shape(left, start=1), axis=0)
    )
    earlier = op.Unsqueeze(op.Range(0, kept, 1), [0])
    rows = op.Unsqueeze(op.Range(0, op.Squeeze(diagonals), 1), [1]) + earlier
    leading = op.Less(op.Unsqueeze(earlier, [2, 3]), op.Unsqueeze(steps, [0, 1, 2]))
    counted = op.Gather(op.Concat(left, room, axis=0), rows, axis=0) * op.CastLike(leading, arcs)
    over = op.ReduceSum(counted, [1, 3], keepdims=0)
    one = op.CastLike(1.0, arcs)
    taken = taken / op.Unsqueeze(op.Where(over > op.CastLike(0.0, arcs), over, one), [2, 3])

    # back from diagonals, the last first, to frames
    by_item = op.Flatten(op.Transpose(taken, perm=[1, 0, 3, 2]), axis=1)
    time = op.Unsqueeze(op.Range(0, frames, 1), [1, 2])
    place = op.Unsqueeze(op.Range(0, places, 1), [1])
    from_end = frames + places - time - place
    index = (from_end * places + place) * kinds + op.Range(0, kinds, 1)
    occupation = op.Gather(by_item, index, axis=1)
    finite = op.Unsqueeze(op.Not(op.IsInf(costs)), [1, 2, 3])
    inside = op.And(
        op.Unsqueeze(time, [0]) < op.Unsqueeze(input_lengths, [1, 2, 3]),
        op.Unsqueeze(place, [0]) <= op.Unsqueeze(target_lengths, [1, 2, 3]),
    )
    weighted = op.Unsqueeze(grad_costs, [1, 2, 3]) * occupation
    return costs, op.Neg(op.Where(op.And(inside, finite), weighted, op.CastLike(0.0, arcs)))
