"""The best path through a transducer's lattice as an ONNX function: Viterbi's algorithm."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from .transducer import TransducerArcs, TransducerArrivals

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def TransducerAlign(logits, targets, input_lengths, target_lengths, blank_index: int):
    """The frame of each label [B, U] on the best path, and the log-probability of that path [B].

    One scan goes forward over the diagonals and keeps the better of the two arcs into each node, the
    blank if both are as good; another goes back along them. Frames are zero behind the last label, and
    where no path is possible.
    """
    _log_probs, _labels, start, stays, emissions = TransducerArcs(
        logits, targets, input_lengths, target_lengths, blank_index=blank_index
    )

    @graph()
    def forward(alpha: FLOAT["B", "P"], stay: FLOAT["B", "P"], emit: FLOAT["B", "P"]):
        # alpha(t, u) = max of alpha(t-1, u) blank(t-1, u) and alpha(t, u-1) label(t, u-1), in logarithms
        stayed, emitted = TransducerArrivals(alpha, stay, emit)
        return op.Max(stayed, emitted), emitted > stayed

    @graph()
    def back(u: INT64["B", 1], by_label: BOOL["B", "P"]):
        before = u - op.Cast(op.GatherElements(by_label, u, axis=1), to=7)
        return before, op.Identity(before)

    last = op.Unsqueeze(target_lengths, [1])
    alpha, by_label = op.Scan(start, stays, emissions, body=forward, num_scan_inputs=2)
    score = op.Squeeze(op.GatherElements(alpha, last, axis=1), [1])
    _first, emitted_before = op.Scan(
        last, op.Slice(by_label, [-1], [-9223372036854775807], [0], [-1]), body=back, num_scan_inputs=1
    )
    # label j leaves the last diagonal n on which no more than j labels have been emitted, at t = n - j
    j = op.Range(0, op.Squeeze(op.Shape(targets, start=1)), 1)
    no_more = op.Cast(emitted_before <= j, to=7)
    frames = op.ReduceSum(no_more, [0], keepdims=0) - 1 - j
    possible = score > op.CastLike(op.Constant(value_float=float("-inf")), score)
    on_path = op.And(j < last, op.Unsqueeze(possible, [1]))
    return op.Where(on_path, frames, op.Constant(value_int=0)), score
