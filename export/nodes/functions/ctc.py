"""CTC as an ONNX function: Graves et al. 2006, section 4.1."""

from onnxscript import BOOL, FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLoss(log_probs, targets, input_lengths, target_lengths, blank_index: int):
    """Costs [B] of targets [B, S] under log_probs [B, T, C]; infinite where none aligns.

    The lattice is walked from both ends at once and joined in the middle, so that the scan takes half
    as many steps. An item past its last frame keeps its state.
    """
    emitted, front_skips = ours.CTCLattice(log_probs, targets, target_lengths, blank_index=blank_index)
    emitted, skips, starts = ours.CTCBothWays(emitted, front_skips, target_lengths)
    frames = op.Squeeze(op.Shape(log_probs, start=1, end=2))
    half = (frames + 1) / 2
    step_index = op.Unsqueeze(op.Range(0, half, 1), [1])
    from_end = frames - 1 - step_index
    front_active = step_index < op.Unsqueeze(input_lengths, [0])
    back_active = op.And(from_end < op.Unsqueeze(input_lengths, [0]), from_end >= half)
    active = op.Unsqueeze(op.Concat(front_active, back_active, axis=1), [2])

    @graph()
    def step(alpha: FLOAT["N", "L"], skips: FLOAT["N", "L"], emitted: FLOAT["N", "L"], active: BOOL["N", 1]):
        stepped, taken = ours.CTCStep(alpha, skips, emitted, active)
        return stepped, op.Identity(skips), taken

    first_half = op.Slice(emitted, [0], op.Unsqueeze(half, [0]), [0])
    ended, _skips, taken = op.Scan(starts, skips, first_half, active, body=step, num_scan_inputs=2)

    # join: one transition from the state in front to the state behind it
    forward, backward_reversed = op.Split(ended, num_outputs=2, axis=0)
    backward = op.Slice(backward_reversed, [-1], [-9223372036854775807], [1], [-1])
    joined = ours.CTCTransition(forward, front_skips) + backward
    lowest = op.CastLike(op.Constant(value_float=-3.4028235e38), log_probs)
    top = op.Max(op.ReduceMax(joined, [1], keepdims=1), lowest)
    total = op.Log(op.ReduceSum(op.Exp(joined - top), [1], keepdims=1)) + top
    # thousands of numbers, added up without losing digits
    scale = op.CastLike(op.ReduceSum(op.Cast(taken, to=11), [0], keepdims=0), log_probs)
    front_scale, back_scale = op.Split(scale, num_outputs=2, axis=0)
    return op.Neg(op.Squeeze(total + (front_scale + back_scale), [1]))
