"""The best path through CTC's lattice as an ONNX function: Viterbi's algorithm."""

from onnxscript import BOOL, FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def CTCAlign(log_probs, targets, input_lengths, target_lengths, blank_index: int, free_ends: int):
    """The state of the best path at each frame [B, T], and the path's log-probability [B].

    States are -1 behind an item's frames and where no path has a probability. The first scan keeps
    over how many states the best path came into each (the fewest of equals); the second goes back
    over them. With `free_ends` what the first and the last state emit has probability one.
    """
    emitted, skips = ours.CTCLattice(log_probs, targets, target_lengths, blank_index=blank_index)
    never = op.CastLike(op.Constant(value_float=float("-inf")), log_probs)
    state = op.Range(0, op.Squeeze(op.Shape(skips, start=1)), 1)
    is_first = state == op.Unsqueeze(target_lengths - target_lengths, [1])
    is_end = op.Or(is_first, state == op.Unsqueeze(2 * target_lengths, [1]))
    is_free = op.And(is_end, op.Constant(value_int=free_ends) > 0)
    emitted = op.Where(op.Unsqueeze(is_free, [0]), op.CastLike(0.0, log_probs), emitted)
    starts = op.Where(is_first, op.CastLike(0.0, log_probs), never)
    t = op.Unsqueeze(op.Range(0, op.Squeeze(op.Shape(log_probs, start=1, end=2)), 1), [1])
    active = op.Unsqueeze(t < op.Unsqueeze(input_lengths, [0]), [2])

    @graph()
    def step(
        alpha: FLOAT["B", "L"],
        skips: FLOAT["B", "L"],
        emitted: FLOAT["B", "L"],
        active: BOOL["B", 1],
    ):
        before = op.Pad(alpha, [0, 2, 0, 0], op.Constant(value_float=float("-inf")))
        one = op.Slice(before, [1], [-1], [1])
        two = op.Slice(before, [0], [-2], [1]) + skips
        nearer = op.Max(alpha, one)
        move = op.Where(two > nearer, 2, op.Cast(one > alpha, to=7))
        best = op.Max(nearer, two) + emitted
        return op.Where(active, best, alpha), op.Identity(skips), op.Where(active, move, 0)

    ended, _skips, moves = op.Scan(starts, skips, emitted, active, body=step, num_scan_inputs=2)
    # a path ends on the last blank or on the last label, where there is one
    last = op.Unsqueeze(2 * target_lengths, [1])
    on_blank = op.GatherElements(ended, last, axis=1)
    on_label = op.GatherElements(op.Pad(ended, [0, 1, 0, 0], never), last, axis=1)
    best = op.Max(on_blank, on_label)
    end = last - op.Cast(on_label > on_blank, to=7)

    @graph()
    def back(state: INT64["B", 1], moves: INT64["B", "L"]):
        return state - op.GatherElements(moves, state, axis=1), op.Identity(state)

    last_first = op.Slice(moves, [-1], [-9223372036854775807], [0], [-1])
    _state, states_last_first = op.Scan(end, last_first, body=back, num_scan_inputs=1)
    states = op.Slice(states_last_first, [-1], [-9223372036854775807], [0], [-1])
    reached = op.And(active, best > never)
    path = op.Where(reached, states, -1)
    return op.Transpose(op.Squeeze(path, [2]), perm=[1, 0]), op.Squeeze(best, [1])
