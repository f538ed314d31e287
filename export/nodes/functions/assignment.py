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
    rows = op.Transpose(costs, perm=[1, 2, 0])  # the batch last: a set is looked up for all items at once
    start = op.Expand(op.CastLike(0.0, costs), op.Concat(op.Shape(sets, end=1), batch, axis=0))

    @graph()
    def rest_of(
        rest: FLOAT["M", "B"], joined: INT64["M", "S"], taken: BOOL["M", "S", 1], row: FLOAT["S", "B"]
    ):
        cost = op.Gather(rest, joined, axis=0) + row
        cheapest = op.ReduceMin(op.Where(taken, op.Constant(value_float=float("inf")), cost), [1], keepdims=0)
        return cheapest, op.Identity(joined), op.Identity(taken), op.Identity(rest)

    last_first = op.Slice(rows, [-1], [-9223372036854775807], [0], [-1])
    _rest, _joined, _taken, rests_last_first = op.Scan(
        start, joined, op.Unsqueeze(taken, [2]), last_first, body=rest_of, num_scan_inputs=1
    )
    rests = op.Slice(rests_last_first, [-1], [-9223372036854775807], [0], [-1])

    @graph()
    def pick(chosen: INT64[1, "B"], bit: INT64["S", 1], row: FLOAT["S", "B"], rest: FLOAT["M", "B"]):
        used = op.Mod(chosen / bit, 2) == 1
        cost = row + op.GatherElements(rest, op.Where(used, chosen, chosen + bit), axis=0)
        best = op.ArgMin(op.Where(used, op.Constant(value_float=float("inf")), cost), axis=0, keepdims=1)
        return chosen + op.Squeeze(op.Gather(bit, best), [2]), op.Identity(bit), best

    none = op.Expand(op.Constant(value_int=0), op.Concat(op.Constant(value_ints=[1]), batch, axis=0))
    _chosen, _bit, permutations = op.Scan(
        none, op.Unsqueeze(bit, [1]), rows, rests, body=pick, num_scan_inputs=2
    )
    return op.Transpose(op.Squeeze(permutations, [1]), perm=[1, 0])
