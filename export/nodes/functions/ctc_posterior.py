"""The occupation of CTC's lattice as an ONNX function: Graves et al. 2006, equation 14."""

from onnxscript import BOOL, FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCPosterior(log_probs, targets, input_lengths, target_lengths, blank_index: int):
    """Costs [B], and the probability [B, T, 2S+1] of each state at each frame given the target.

    Zero behind an item's frames and states, and where the cost is infinite. The occupation of a state
    is what reaches it from the front, before its emission, times the state from the back.
    """
    front_emitted, front_skips = ours.CTCLattice(log_probs, targets, target_lengths, blank_index=blank_index)
    emitted, skips, starts = ours.CTCBothWays(front_emitted, front_skips, target_lengths)
    frames = op.Squeeze(op.Shape(log_probs, start=1, end=2))
    t = op.Unsqueeze(op.Range(0, frames, 1), [1])
    front_active = t < op.Unsqueeze(input_lengths, [0])
    back_active = frames - 1 - t < op.Unsqueeze(input_lengths, [0])
    active = op.Unsqueeze(op.Concat(front_active, back_active, axis=1), [2])

    @graph()
    def step(
        whole: FLOAT["N", "L"],
        rest: FLOAT["N", "L"],
        skips: FLOAT["N", "L"],
        emitted: FLOAT["N", "L"],
        active: BOOL["N", 1],
    ):
        whole, rest, reached_whole, reached = ours.CTCExactStep(whole, rest, skips, emitted, active)
        return whole, rest, op.Identity(skips), reached_whole, reached

    whole, rest, _skips, reached_whole, reached = op.Scan(
        starts, starts, skips, emitted, active, body=step, num_scan_inputs=2
    )
    # behind the last frame all paths reach the last blank
    forward, _backward = op.Split(whole + rest, num_outputs=2, axis=0)
    last = op.Unsqueeze(2 * target_lengths, [1])
    total = op.GatherElements(ours.CTCTransition(forward, front_skips), last, axis=1)
    costs = op.Neg(op.Squeeze(total, [1]))
    # every frame adds up to the same; divided by its own sum it has the rounding of that frame alone
    wholes = ours.CTCJoin(reached_whole)
    paths = (wholes - op.ReduceMax(wholes, [2])) + (ours.CTCJoin(reached) + front_emitted)
    shares = op.Softmax(op.Transpose(paths, perm=[1, 0, 2]), axis=2)
    held = op.And(op.Transpose(front_active), op.Unsqueeze(op.Not(op.IsInf(costs)), [1]))
    return costs, op.Where(op.Unsqueeze(held, [2]), shares, op.CastLike(0.0, log_probs))


@script(ours, default_opset=op)
def CTCJoin(reached):
    """What reached each state from the front plus what did from the back: [T, B, 2S+1] of [T, 2B, 2S+1]."""
    front, reversed_back = op.Split(reached, num_outputs=2, axis=1)
    return front + ours.CTCReversed(reversed_back)


@script(ours, default_opset=op)
def CTCExactStep(whole, rest, skips, emitted, active):
    """One frame: alpha behind it, and what reached each state before its emission, each as whole and rest.

    alpha(s) = [alpha(s) + alpha(s-1) + alpha(s-2) where it may skip] * y(label(s)), in logarithms. Each is
    the sum of a whole number, which is exact, and a rest of at most a half: a logarithm of thousands would
    lose its digits, and at most states alpha is far from the largest. An item past its last frame keeps
    its state.
    """
    never = op.Constant(value_float=float("-inf"))
    lowest = op.Constant(value_float=-3.4028235e38)
    before = op.Pad(whole, [0, 2, 0, 0], never)
    one = op.Slice(before, [1], [-1], [1])
    two = op.Slice(before, [0], [-2], [1]) + skips
    most = op.Max(whole, one, two, lowest)
    rest_before = op.Pad(rest, [0, 2, 0, 0], never)
    paths = op.Sum(
        op.Exp(rest + (whole - most)),
        op.Exp(op.Slice(rest_before, [1], [-1], [1]) + (one - most)),
        op.Exp(op.Slice(rest_before, [0], [-2], [1]) + (two - most)),
    )
    reached = op.Log(paths)
    moved = reached + emitted
    units = op.Max(op.Round(moved), lowest)
    stepped = op.Where(active, most + units, whole)
    return stepped, op.Where(active, moved - units, rest), op.Identity(most), reached
