"""The occupation of CTC's lattice as an ONNX function: Graves et al. 2006, equation 14."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCPosterior(log_probs, targets, input_lengths, target_lengths, blank_index: int):
    """Costs [B], and the probability [B, T, 2S+1] of each state at each frame given the target.

    Zero behind an item's frames and states, and where the cost is infinite. The occupation of a state
    is what reaches it from the front, before its emission, times the state from the back.
    """
    labels, skips, starts = ours.CTCLattice(log_probs, targets, target_lengths, blank_index=blank_index)
    frames = op.Squeeze(op.Shape(log_probs, start=1, end=2))
    t = op.Unsqueeze(op.Range(0, frames, 1), [1])
    front_active = t < op.Unsqueeze(input_lengths, [0])
    back_active = frames - 1 - t < op.Unsqueeze(input_lengths, [0])
    active = op.Unsqueeze(op.Concat(front_active, back_active, axis=1), [2])
    front = op.Transpose(log_probs, perm=[1, 0, 2])
    back = op.Slice(front, [-1], [-9223372036854775807], [0], [-1])

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
        reached = ours.CTCTransition(alpha, skips)
        emitted = op.GatherElements(op.Concat(front, back, axis=0), labels, axis=1)
        stepped = op.Where(active, reached + emitted, alpha)
        return stepped, op.Identity(skips), op.Identity(labels), op.Identity(reached), op.Identity(stepped)

    ended, _skips, _labels, reached, stepped = op.Scan(
        starts, skips, labels, front, back, active, body=step, num_scan_inputs=3
    )
    from_front, _back_reached = op.Split(reached, num_outputs=2, axis=1)
    _front_stepped, reversed_back = op.Split(stepped, num_outputs=2, axis=1)
    from_back = op.Slice(
        reversed_back, [-1, -1], [-9223372036854775807, -9223372036854775807], [0, 2], [-1, -1]
    )
    # behind the last frame all paths reach the last blank
    forward, _backward = op.Split(ended, num_outputs=2, axis=0)
    front_skips, _back_skips = op.Split(skips, num_outputs=2, axis=0)
    last = op.Unsqueeze(2 * target_lengths, [1])
    total = op.GatherElements(ours.CTCTransition(forward, front_skips), last, axis=1)
    costs = op.Neg(op.Squeeze(total, [1]))
    # every frame adds up to the same; divided by its own sum it has the rounding of that frame alone
    shares = op.Softmax(op.Transpose(from_front + from_back, perm=[1, 0, 2]), axis=2)
    held = op.And(op.Transpose(front_active), op.Unsqueeze(op.Not(op.IsInf(costs)), [1]))
    return costs, op.Where(op.Unsqueeze(held, [2]), shares, op.CastLike(0.0, log_probs))
