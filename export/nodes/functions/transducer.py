"""The transducer's lattice and its loss as ONNX functions: Graves 2012, section 2.4."""

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def TransducerArcs(logits, targets, input_lengths, target_lengths, blank_index: int):
    """The lattice of targets [B, U] under logits [B, T, U+1, V], by diagonals n = t + u.

    The nodes of a diagonal depend on the one before alone. Behind an item's last frame nothing is
    emitted: (T, U) keeps its probability, all else has none, so that the total stands at U of the last
    diagonal. Returns the log-probabilities of the classes, the label that leaves each u [B, U+1], alpha
    before the first diagonal [B, U+1], and the arcs by diagonal: stays and emissions [T+U, B, U+1].
    """
    log_probs = op.LogSoftmax(logits, axis=-1)
    never = op.CastLike(op.Constant(value_float=float("-inf")), logits)
    certain = op.CastLike(0.0, logits)

    # the label that leaves each u
    blank = op.Constant(value_int=blank_index)
    is_label = op.Range(0, op.Squeeze(op.Shape(targets, start=1)), 1) < op.Unsqueeze(target_lengths, [1])
    column = op.Shape(op.Unsqueeze(input_lengths, [1]))
    labels = op.Concat(op.Where(is_label, targets, blank), op.Expand(blank, column), axis=1)
    nodes = op.Shape(logits, start=0, end=3)
    label_index = op.Expand(op.Unsqueeze(labels, [1]), nodes)
    label = op.Squeeze(op.GatherElements(log_probs, op.Unsqueeze(label_index, [3]), axis=3), [3])
    no_label = op.Gather(log_probs, blank, axis=3)

    # frame t of the node at place u of diagonal n, and which nodes there are
    frames = op.Squeeze(op.Shape(logits, start=1, end=2))
    places = op.Squeeze(op.Shape(logits, start=2, end=3))
    u = op.Range(0, places, 1)
    t = op.Unsqueeze(op.Range(0, frames + places - 1, 1), [1]) - u
    item_frames = op.Unsqueeze(input_lengths, [1, 2])
    item_labels = op.Unsqueeze(target_lengths, [1, 2])
    inside = op.And(op.And(t >= 0, t < item_frames), u <= item_labels)
    ended = op.And(t >= item_frames, u == item_labels)
    frame = op.Expand(op.Clip(t, 0, frames - 1), op.Shape(inside))
    stay = op.Where(inside, op.GatherElements(no_label, frame, axis=1), op.Where(ended, certain, never))
    emits = op.And(inside, u < item_labels)
    emit = op.Where(emits, op.GatherElements(label, frame, axis=1), never)
    first = op.Where(u == 0, certain, never)
    start = op.Expand(op.Unsqueeze(first, [0]), op.Shape(labels))
    stays, emissions = op.Transpose(stay, perm=[1, 0, 2]), op.Transpose(emit, perm=[1, 0, 2])
    return log_probs, labels, start, stays, emissions


@script(ours, default_opset=op)
def TransducerArrivals(alpha, stay, emit):
    """What reaches each node of a diagonal by a blank, and what by a label: logarithms [B, U+1]."""
    by_label = op.Pad(alpha + emit, [0, 1, 0, 0], op.Constant(value_float=float("-inf")))
    return alpha + stay, op.Slice(by_label, [0], [-1], [1])


@script(ours, default_opset=op)
def TransducerEither(stayed, emitted):
    """The logarithm of the sum of both, which may be log 0."""
    most = op.Max(stayed, emitted, op.Constant(value_float=-3.4028235e38))
    return op.Log(op.Exp(stayed - most) + op.Exp(emitted - most)) + most


@script(ours, default_opset=op)
def TransducerLoss(logits, targets, input_lengths, target_lengths, blank_index: int):
    """Costs [B] of targets [B, U] under logits [B, T, U+1, V]; infinite where none aligns."""
    _log_probs, _labels, start, stays, emissions = TransducerArcs(
        logits, targets, input_lengths, target_lengths, blank_index=blank_index
    )

    @graph()
    def step(alpha: FLOAT["B", "P"], stay: FLOAT["B", "P"], emit: FLOAT["B", "P"]):
        # alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1), in logarithms
        stayed, emitted = TransducerArrivals(alpha, stay, emit)
        return TransducerEither(stayed, emitted)

    alpha = op.Scan(start, stays, emissions, body=step, num_scan_inputs=2)
    return op.Neg(op.Squeeze(op.GatherElements(alpha, op.Unsqueeze(target_lengths, [1]), axis=1), [1]))
