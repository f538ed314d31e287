"""CTC as an ONNX function: Graves et al. 2006, section 4.1."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLoss(log_probs, targets, input_lengths, target_lengths, blank_index: int):
    """Costs [B] of targets [B, S] under log_probs [B, T, C]; infinite where none aligns.

    The lattice is walked from both ends at once and joined in the middle: reversed in time and
    labels, the backward variable obeys the forward recursion, so both are one batch of 2B, and
    the scan takes half as many steps. An item past its last frame keeps its state.
    """
    # the state s of the lattice: blanks at even s, the label (s - 1) / 2 at odd s
    blank = op.Constant(value_int=blank_index)
    is_label = op.Range(0, op.Squeeze(op.Shape(targets, start=1)), 1) < op.Unsqueeze(target_lengths, [1])
    padded = op.Concat(
        op.Where(is_label, targets, blank),
        op.Expand(blank, op.Shape(op.Unsqueeze(input_lengths, [1]))),
        axis=1,
    )
    states = 2 * op.Squeeze(op.Shape(targets, start=1)) + 1
    s = op.Range(0, states, 1)
    front_labels = op.Where(op.Mod(s, 2) == 1, op.Gather(padded, s / 2, axis=1), blank)
    back_labels = op.Slice(front_labels, [-1], [-9223372036854775807], [1], [-1])
    labels = op.Concat(front_labels, back_labels, axis=0)
    # a label may follow another without a blank between, unless they are equal
    two_before = op.Slice(op.Pad(labels, [0, 2, 0, 0], blank), [0], [-2], [1])
    may_skip = op.And(op.Not(labels == blank), op.Not(labels == two_before))
    never = op.CastLike(op.Constant(value_float=float("-inf")), log_probs)
    skip = op.Where(may_skip, op.CastLike(0.0, log_probs), never)

    # before the first frame all probability is on the first blank, behind the last on the last
    last = states - 1 - 2 * target_lengths
    starts = op.Unsqueeze(op.Concat(last - last, last, axis=0), [1])
    start = op.Where(s == starts, op.CastLike(0.0, log_probs), never)

    frames = op.Squeeze(op.Shape(log_probs, start=1, end=2))
    half = (frames + 1) / 2
    step_index = op.Unsqueeze(op.Range(0, half, 1), [1])
    from_end = frames - 1 - step_index
    front_active = step_index < op.Unsqueeze(input_lengths, [0])
    back_active = op.And(from_end < op.Unsqueeze(input_lengths, [0]), from_end >= half)
    active = op.Unsqueeze(op.Concat(front_active, back_active, axis=1), [2])
    by_frame = op.Transpose(log_probs, perm=[1, 0, 2])
    front = op.Slice(by_frame, [0], op.Unsqueeze(half, [0]), [0])
    back = op.Slice(by_frame, [-1], op.Unsqueeze(-1 - half, [0]), [0], [-1])

    @graph()
    def step(
        alpha: FLOAT["N", "L"],
        skip: FLOAT["N", "L"],
        labels: INT64["N", "L"],
        front: FLOAT["B", "C"],
        back: FLOAT["B", "C"],
        active: BOOL["N", 1],
    ):
        # alpha(s) = [alpha(s) + alpha(s-1) + alpha(s-2) where it may skip] * y(label(s)), in logarithms
        before = op.Pad(alpha, [0, 2, 0, 0], op.Constant(value_float=float("-inf")))
        one = op.Slice(before, [1], [-1], [1])
        two = op.Slice(before, [0], [-2], [1]) + skip
        most = op.Max(alpha, one, two, op.Constant(value_float=-3.4028235e38))
        paths = op.Sum(op.Exp(alpha - most), op.Exp(one - most), op.Exp(two - most))
        emitted = op.GatherElements(op.Concat(front, back, axis=0), labels, axis=1)
        stepped = op.Where(active, op.Sum(op.Log(paths), most, emitted), alpha)
        return stepped, op.Identity(skip), op.Identity(labels)

    ended, _skip, _labels = op.Scan(
        start,
        skip,
        labels,
        front,
        back,
        active,
        body=step,
        num_scan_inputs=3,
    )

    # join: one transition from the state in front to the state behind it
    forward, backward_reversed = op.Split(ended, num_outputs=2, axis=0)
    backward = op.Slice(backward_reversed, [-1], [-9223372036854775807], [1], [-1])
    front_skip, _unused = op.Split(skip, num_outputs=2, axis=0)
    reached = op.Pad(forward, [0, 2, 0, 0], never)
    joined = op.Concat(
        forward + backward,
        op.Slice(reached, [1], [-1], [1]) + backward,
        op.Slice(reached, [0], [-2], [1]) + front_skip + backward,
        axis=1,
    )
    lowest = op.CastLike(op.Constant(value_float=-3.4028235e38), log_probs)
    top = op.Max(op.ReduceMax(joined, [1], keepdims=1), lowest)
    total = op.Log(op.ReduceSum(op.Exp(joined - top), [1], keepdims=0)) + op.Squeeze(top, [1])
    return op.Neg(total)
