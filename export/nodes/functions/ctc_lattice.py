"""What CTC's functions share: the lattice of a batch of targets, and one step of the recursion in it."""

from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLattice(log_probs, targets, target_lengths, blank_index: int):
    """What each state emits at each frame [T, B, 2S+1], and each arc over a blank: 0, or -inf [B, 2S+1].

    Blanks are the even states, the label (s - 1) / 2 the odd ones. An arc leads into a state from two before.
    """
    blank = op.Constant(value_int=blank_index)
    is_label = op.Range(0, op.Squeeze(op.Shape(targets, start=1)), 1) < op.Unsqueeze(target_lengths, [1])
    padded = op.Pad(op.Where(is_label, targets, blank), [0, 0, 0, 1], blank)
    s = op.Range(0, 2 * op.Squeeze(op.Shape(targets, start=1)) + 1, 1)
    labels = op.Where(op.Mod(s, 2) == 1, op.Gather(padded, s / 2, axis=1), blank)
    index = op.Unsqueeze(op.Cast(labels, to=6), [1])  # half the memory
    frames = op.Concat(op.Shape(log_probs, end=2), op.Shape(labels, start=1), axis=0)
    emitted = op.GatherElements(log_probs, op.Expand(index, frames), axis=2)
    # a label may follow another without a blank between, unless they are equal; two blanks are
    two_before = op.Slice(op.Pad(labels, [0, 2, 0, 0], blank), [0], [-2], [1])
    never = op.CastLike(op.Constant(value_float=float("-inf")), log_probs)
    skips = op.Where(labels == two_before, never, op.CastLike(0.0, log_probs))
    return op.Transpose(emitted, perm=[1, 0, 2]), skips


@script(ours, default_opset=op)
def CTCBothWays(emitted, skips, target_lengths):
    """The lattice, and it reversed, as one batch: emitted [T, 2B, 2S+1], skips and starts [2B, 2S+1].

    Reversed in time and states, the backward variable obeys the forward recursion: the first half is
    walked from the first frame, the second from the last. Before a walk all probability is on the state
    where `starts` is 0: the first blank, or the one behind the last label; elsewhere it is -inf.
    """
    never = op.CastLike(op.Constant(value_float=float("-inf")), skips)
    # the arc that skips into s + 2 comes from s: reversed, it leads into s
    behind = op.Slice(op.Pad(skips, [0, 0, 0, 2], never), [2], [9223372036854775807], [1])
    back_skips = op.Slice(behind, [-1], [-9223372036854775807], [1], [-1])
    states = op.Squeeze(op.Shape(skips, start=1))
    last = states - 1 - 2 * target_lengths
    first = op.Unsqueeze(op.Concat(last - last, last, axis=0), [1])
    starts = op.Where(op.Range(0, states, 1) == first, op.CastLike(0.0, skips), never)
    both = op.Concat(emitted, ours.CTCReversed(emitted), axis=1)
    return both, op.Concat(skips, back_skips, axis=0), starts


@script(ours, default_opset=op)
def CTCReversed(x):
    """[T, B, 2S+1] reversed in time and states."""
    return op.Slice(x, [-1, -1], [-9223372036854775807, -9223372036854775807], [0, 2], [-1, -1])


@script(ours, default_opset=op)
def CTCTransition(alpha, skips):
    """What reaches each state from the frame before: alpha(s) + alpha(s-1) + alpha(s-2) where it may skip.

    Logarithms [N, 2S+1] all.
    """
    before = op.Pad(alpha, [0, 2, 0, 0], op.Constant(value_float=float("-inf")))
    one = op.Slice(before, [1], [-1], [1])
    two = op.Slice(before, [0], [-2], [1]) + skips
    most = op.Max(alpha, one, two, op.Constant(value_float=-3.4028235e38))
    paths = op.Sum(op.Exp(alpha - most), op.Exp(one - most), op.Exp(two - most))
    return op.Log(paths) + most


@script(ours, default_opset=op)
def CTCStep(alpha, skips, emitted, active):
    """One frame of the recursion: alpha behind it, and the largest, which is taken out of it [N, 1].

    alpha(s) = [alpha(s) + alpha(s-1) + alpha(s-2) where it may skip] * y(label(s)), in logarithms, which so
    do not grow with time. An item past its last frame keeps its state.
    """
    moved = ours.CTCTransition(alpha, skips) + emitted
    top = op.ReduceMax(moved, [1], keepdims=1)
    # `Less`, since ONNX Runtime up to 1.22 loses the shape of `LessOrEqual` in a loop
    nothing = op.Less(top, op.CastLike(op.Constant(value_float=-3.4e38), alpha))
    taken = op.Where(op.And(active, op.Not(nothing)), top, op.CastLike(0.0, alpha))
    return op.Where(active, moved - taken, alpha), taken
