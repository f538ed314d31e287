"""CTC's forward recursion with its state as input and output, as an ONNX function."""

from onnxscript import BOOL, FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCForward(log_probs, targets, input_lengths, target_lengths, alpha, offset, blank_index: int):
    """Costs [B] so far, alpha [B, 2, S+1] and offset [B, 2], from the alpha and offset of the frames before.

    Each item's largest state is taken out at every frame and goes to its offset, a number and its rounding,
    so that how the frames are divided among calls changes no bit.
    """
    emitted, skips = ours.CTCLattice(log_probs, targets, target_lengths, blank_index=blank_index)
    never = op.CastLike(op.Constant(value_float=float("-inf")), log_probs)
    last = op.Unsqueeze(2 * target_lengths, [1])
    within = op.Range(0, op.Squeeze(op.Shape(skips, start=1)), 1) <= last
    emitted = op.Where(within, emitted, never)
    by_state = op.Flatten(op.Transpose(alpha, perm=[0, 2, 1]), axis=1)  # blank, label, blank, ...
    states = op.Where(within, op.Slice(by_state, [0], [-1], [1]), never)
    high, low = op.Split(offset, num_outputs=2, axis=1)
    frames = op.Unsqueeze(op.Range(0, op.Squeeze(op.Shape(log_probs, start=1, end=2)), 1), [1])
    active = op.Unsqueeze(frames < op.Unsqueeze(input_lengths, [0]), [2])

    @graph()
    def step(
        states: FLOAT["B", "L"],
        high: FLOAT["B", 1],
        low: FLOAT["B", 1],
        skips: FLOAT["B", "L"],
        emitted: FLOAT["B", "L"],
        active: BOOL["B", 1],
    ):
        stepped, taken = ours.CTCStep(states, skips, emitted, active)
        # Knuth's sum of two numbers, and what it has rounded away
        total = high + taken
        added = total - high
        rounded = (high - (total - added)) + (taken - added)
        return stepped, total, low + rounded, op.Identity(skips)

    states, high, low, _skips = op.Scan(
        states, high, low, skips, emitted, active, body=step, num_scan_inputs=2
    )
    ended = op.GatherElements(ours.CTCTransition(states, skips), last, axis=1)
    costs = op.Squeeze(op.Neg(high + (low + ended)), [1])
    pairs = op.Shape(targets, start=1) + op.Constant(value_ints=[1])  # of a blank and a label
    shape = op.Concat(op.Shape(targets, end=1), pairs, op.Constant(value_ints=[2]), axis=0)
    rows = op.Reshape(op.Pad(states, [0, 0, 0, 1], never), shape)
    return costs, op.Transpose(rows, perm=[0, 2, 1]), op.Concat(high, low, axis=1)
