"""The best path through any transducer's lattice as an ONNX function: Viterbi's algorithm."""

from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from .arcs import ArcsCosts, ArcsEnds, ArcsEntering, ArcsSteps

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def ArcsAlign(arcs, durations, input_lengths, target_lengths, blanks: int, label_ends: int):
    """Where each label's arc begins on the best path, which of the labels' arcs it is, [B, U] both, and the
    score [B].

    One scan goes forward over the diagonals and keeps the best of the arcs into each node, the first of those
    that are as good; another goes back along them. Starts and arcs are zero behind the last label, and where
    no path is possible.
    """
    start, before, entering = ArcsEntering(
        arcs, durations, input_lengths, target_lengths, blanks=blanks, label_ends=label_ends
    )
    steps, right = ArcsSteps(durations, blanks=blanks)

    @graph()
    def forward(alpha: FLOAT["B", "P"], before: INT64["K", "U"], entering: FLOAT["B", "K", "U"]):
        reached = op.Gather(alpha, before, axis=1) + entering
        row = op.Pad(
            op.ReduceMax(reached, [1], keepdims=0), [0, 1, 0, 0], op.Constant(value_float=float("-inf"))
        )
        last = op.Concat(row, op.Slice(alpha, [0], op.Neg(op.Shape(row, start=1)), [1]), axis=1)
        scale = op.Max(op.ReduceMax(last, [1], keepdims=1), op.Constant(value_float=-3.4028235e38))
        chosen = op.ArgMax(reached, axis=1, keepdims=0)
        return last - scale, op.Identity(before), row - scale, scale, chosen

    @graph()
    def back(
        u: INT64["B", 1],
        at: INT64["B", 1],
        steps: INT64["K"],
        right: INT64["K"],
        chosen: INT64["B", "U"],
        n: INT64[1],
    ):
        arc = op.GatherElements(chosen, u, axis=1)
        here = op.Cast(at == n, to=7)
        emits = here * op.Gather(right, arc)
        left = op.Max(u - emits, op.Constant(value_int=0))  # an impossible path knows no bound
        since = at - here * op.Gather(steps, arc)
        label = (left + 1) * emits - 1
        return left, since, op.Identity(steps), op.Identity(right), label, since - left, op.Identity(arc)

    _alpha, _before, rows, scales, chosen = op.Scan(start, before, entering, body=forward, num_scan_inputs=1)
    _alphas, lost, end = ArcsEnds(start, rows, scales, input_lengths, target_lengths)
    score = op.Neg(ArcsCosts(lost, end, input_lengths, target_lengths))
    diagonals = op.Squeeze(op.Shape(chosen, start=0, end=1))
    _u, _at, _steps, _right, label, since, arc = op.Scan(
        op.Unsqueeze(target_lengths, [1]),
        op.Unsqueeze(input_lengths + target_lengths, [1]),
        steps,
        right,
        op.Slice(chosen, [-1], [-9223372036854775807], [0], [-1]),
        op.Unsqueeze(op.Range(diagonals, 0, -1), [1]),
        body=back,
        num_scan_inputs=2,
    )

    # what a step emits goes to its label, and what emits nothing behind all
    places = op.Shape(arcs, start=2, end=3)
    to = op.Transpose(op.Squeeze(op.Where(label < 0, places - 1, label), [2]))
    nothing = op.Expand(op.Constant(value_int=0), op.Concat(op.Shape(input_lengths), places, axis=0))
    frames = op.ScatterElements(nothing, to, op.Transpose(op.Squeeze(since, [2])), axis=1)
    arcs_of = op.ScatterElements(
        nothing, to, op.Transpose(op.Squeeze(arc, [2])) - op.Constant(value_int=blanks), axis=1
    )
    j = op.Range(0, op.Squeeze(places) - 1, 1)
    possible = score > op.CastLike(op.Constant(value_float=float("-inf")), score)
    on_path = op.And(j < op.Unsqueeze(target_lengths, [1]), op.Unsqueeze(possible, [1]))
    none = op.Constant(value_int=0)
    starts = op.Where(on_path, op.Slice(frames, [0], [-1], [1]), none)
    kinds = op.Where(on_path, op.Slice(arcs_of, [0], [-1], [1]), none)
    return starts, kinds, score
