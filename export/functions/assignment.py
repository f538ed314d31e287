"""The cheapest assignment as an ONNX function: Held and Karp's programme over subsets (1962)."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def BestPermutation(costs):
    """For costs [B, S, S] the permutations [B, S] that minimise the sum of costs[i, p[i]].

    With the first i rows assigned to a set of columns, what the other rows cost depends on the
    set alone. The first scan computes that for every set, last row first; the second picks the
    best column of each row, first row first.
    """
    size = op.Squeeze(op.Shape(costs, start=2))
    bit = op.Pow(2, op.Range(0, size, 1))
    sets = op.Unsqueeze(op.Range(0, op.Pow(2, size), 1), [1])
    taken = op.Mod(sets / bit, 2) == 1
    joined = op.Where(taken, sets, sets + bit)
    batch = op.Shape(costs, end=1)
    start = op.Expand(op.CastLike(0.0, costs), op.Concat(batch, op.Shape(sets, end=1), axis=0))

    @graph()
    def rest_of(rest: FLOAT["B", "M"], joined: INT64["M", "S"], taken: BOOL["M", "S"], row: FLOAT["B", "S"]):
        cost = op.Gather(rest, joined, axis=1) + op.Unsqueeze(row, [1])
        cheapest = op.ReduceMin(op.Where(taken, op.Constant(value_float=float("inf")), cost), [2], keepdims=0)
        return cheapest, op.Identity(joined), op.Identity(taken), op.Identity(rest)

    _rest, _joined, _taken, rests = op.Scan(
        start,
        joined,
        taken,
        costs,
        body=rest_of,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_input_directions=[1],
        scan_output_directions=[1],
    )

    @graph()
    def pick(chosen: INT64["B", 1], bit: INT64["S"], row: FLOAT["B", "S"], rest: FLOAT["B", "M"]):
        used = op.Mod(chosen / bit, 2) == 1
        cost = row + op.GatherElements(rest, op.Where(used, chosen, chosen + bit), axis=1)
        best = op.ArgMin(op.Where(used, op.Constant(value_float=float("inf")), cost), axis=1, keepdims=1)
        return chosen + op.Gather(bit, best), op.Identity(bit), best

    none = op.Expand(op.Constant(value_int=0), op.Concat(batch, op.Constant(value_ints=[1]), axis=0))
    _chosen, _bit, permutations = op.Scan(
        none,
        bit,
        costs,
        rests,
        body=pick,
        num_scan_inputs=2,
        scan_input_axes=[1, 0],
        scan_output_axes=[1],
    )
    return op.Squeeze(permutations, [2])
