"""The edits between token sequences as an ONNX function: Wagner and Fischer's programme (1974)."""

from onnxscript import INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def EditCounts(predictions, targets, prediction_lengths, target_lengths):
    """Insertions, deletions and substitutions [B, 3] of predictions [B, K] for targets [B, S].

    A substitution costs W, a gap W + 1, and W is more than there can be gaps: the least cost is the
    fewest edits, and among those the fewest gaps. The scan goes over the anti-diagonals of the
    table, one for each token of the prediction and then of the target: all cells of one depend on
    the two before alone. Cell (i, j) is at j; those with a negative i are out of reach.
    """
    tokens = op.Transpose(predictions, perm=[1, 0])  # the batch last: a shift is along the first axis
    target = op.Transpose(targets, perm=[1, 0])
    number = op.Shape(tokens, end=1)
    size = op.Shape(target, end=1)
    batch = op.Shape(targets, end=1)
    one = op.Constant(value_ints=[1])
    zero = op.Constant(value_int=0)
    weight = number + size + one
    seen = op.Expand(zero, op.Concat(size, batch, axis=0))  # the tokens beside each of the target's
    # what is out of reach costs more than anything, and less than 32 bits hold: some runtimes have no more
    behind = op.Expand(weight * weight, op.Concat(size + one, batch, axis=0))
    nothing = op.Expand(zero, op.Concat(one, batch, axis=0))
    first = op.Concat(nothing, op.Slice(behind, [1], size + one), axis=0)
    place = op.Unsqueeze(target_lengths, [0])
    goal = op.Unsqueeze(prediction_lengths + target_lengths, [0])
    # one step more than there are anti-diagonals: a scan takes at least one
    steps = op.Unsqueeze(op.Range(1, op.Squeeze(number + size) + 2, 1), [1])

    @graph()
    def step(
        before: INT64["R", "B"],
        last: INT64["R", "B"],
        seen: INT64["S", "B"],
        cost: INT64[1, "B"],
        target: INT64["S", "B"],
        place: INT64[1, "B"],
        goal: INT64[1, "B"],
        weight: INT64[1],
        token: INT64["B"],
        at: INT64[1],
    ):
        size = op.Shape(target, end=1)
        changed = op.Where(seen == target, op.Constant(value_int=0), weight)
        kept = op.Slice(before, [0], size, [0]) + changed
        gap = op.Min(op.Slice(last, [0], size, [0]), op.Slice(last, [1], size + 1, [0])) + weight + 1
        now = op.Concat(op.Slice(last, [0], [1], [0]) + weight + 1, op.Min(kept, gap), axis=0)
        shifted = op.Slice(op.Concat(op.Unsqueeze(token, [0]), seen, axis=0), [0], size, [0])
        reached = op.Where(goal == at, op.GatherElements(now, place, axis=0), cost)
        return (
            op.Identity(last),
            now,
            shifted,
            reached,
            op.Identity(target),
            op.Identity(place),
            op.Identity(goal),
            op.Identity(weight),
        )

    _before, _last, _seen, cost, _target, _place, _goal, _weight = op.Scan(
        behind,
        first,
        seen,
        goal - goal,
        target,
        place,
        goal,
        weight,
        op.Concat(tokens, seen, nothing, axis=0),
        steps,
        body=step,
        num_scan_inputs=2,
    )
    least = op.Transpose(cost, perm=[1, 0])
    edits = least / weight
    gaps = least - edits * weight
    longer = op.Unsqueeze(prediction_lengths - target_lengths, [1])
    return op.Concat((gaps + longer) / 2, (gaps - longer) / 2, edits - gaps, axis=1)
