"""What CTC's functions share: the lattice of a batch of targets, and one step of the recursion in it."""

from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCLattice(log_probs, targets, target_lengths, blank_index: int):
    """The lattice of each target, and reversed, as one batch: labels, skips and starts, [2B, 2S+1] each.

    Reversed in time and states, the backward variable obeys the forward recursion: the first half is
    walked from the first frame, the second from the last. A state has the class `labels`; `skips` is 0
    where an arc leads into it from two before, and `starts` where a walk begins: -inf elsewhere.
    """
    # the state s of the lattice: blanks at even s, the label (s - 1) / 2 at odd s
    blank = op.Constant(value_int=blank_index)
    is_label = op.Range(0, op.Squeeze(op.Shape(targets, start=1)), 1) < op.Unsqueeze(target_lengths, [1])
    padded = op.Pad(op.Where(is_label, targets, blank), [0, 0, 0, 1], blank)
    states = 2 * op.Squeeze(op.Shape(targets, start=1)) + 1
    s = op.Range(0, states, 1)
    front_labels = op.Where(op.Mod(s, 2) == 1, op.Gather(padded, s / 2, axis=1), blank)
    back_labels = op.Slice(front_labels, [-1], [-9223372036854775807], [1], [-1])
    labels = op.Concat(front_labels, back_labels, axis=0)
    # a label may follow another without a blank between, unless they are equal; two blanks are
    two_before = op.Slice(op.Pad(labels, [0, 2, 0, 0], blank), [0], [-2], [1])
    never = op.CastLike(op.Constant(value_float=float("-inf")), log_probs)
    skips = op.Where(labels == two_before, never, op.CastLike(0.0, log_probs))
    # before the first frame all probability is on the first blank, behind the last on the last
    last = states - 1 - 2 * target_lengths
    first = op.Unsqueeze(op.Concat(last - last, last, axis=0), [1])
    starts = op.Where(s == first, op.CastLike(0.0, log_probs), never)
    return labels, skips, starts


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
