"""CTC as an ONNX function: Graves et al. 2006, section 4.1."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLoss(log_probs, targets, input_lengths, target_lengths, blank_index: int):
    """Costs [B] of targets [B, S] under log_probs [B, T, C]; infinite where none aligns.

    The lattice is walked from both ends at once and joined in the middle, so that the scan takes half
    as many steps. An item past its last frame keeps its state.
    """
    labels, skips, starts = ours.CTCLattice(log_probs, targets, target_lengths, blank_index=blank_index)
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
        skips: FLOAT["N", "L"],
        labels: INT64["N", "L"],
        front: FLOAT["B", "C"],
        back: FLOAT["B", "C"],
        active: BOOL["N", 1],
    ):
        # alpha(s) = [alpha(s) + alpha(s-1) + alpha(s-2) where it may skip] * y(label(s)), in logarithms
        emitted = op.GatherElements(op.Concat(front, back, axis=0), labels, axis=1)
        stepped = op.Where(active, ours.CTCTransition(alpha, skips) + emitted, alpha)
        return stepped, op.Identity(skips), op.Identity(labels)

    ended, _skips, _labels = op.Scan(starts, skips, labels, front, back, active, body=step, num_scan_inputs=3)

    # join: one transition from the state in front to the state behind it
    forward, backward_reversed = op.Split(ended, num_outputs=2, axis=0)
    backward = op.Slice(backward_reversed, [-1], [-9223372036854775807], [1], [-1])
    front_skips, _back_skips = op.Split(skips, num_outputs=2, axis=0)
    joined = ours.CTCTransition(forward, front_skips) + backward
    lowest = op.CastLike(op.Constant(value_float=-3.4028235e38), log_probs)
    top = op.Max(op.ReduceMax(joined, [1], keepdims=1), lowest)
    total = op.Log(op.ReduceSum(op.Exp(joined - top), [1], keepdims=0)) + op.Squeeze(top, [1])
    return op.Neg(total)
