"""CTC, the transducer and permutation-invariant training by looking at every path there is.

Slow and plain on purpose: what the tests hold the fast ones to.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

Labels = tuple[int, ...]


def drawn_logits(kind: str, *shape: int) -> Tensor:
    """Logits in float64: ordinary, huge, with a third of them -inf but one at each node, or all equal."""
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "huge":
        return 1e4 * logits
    if kind == "with -inf":
        gone = torch.rand(shape, generator=generator) < 0.3
        logits[gone & (logits < logits.amax(-1, keepdim=True))] = -torch.inf
    return torch.zeros_like(logits) if kind == "equal" else logits


def label_sequences(classes: int, blank: int, longest: int) -> list[Labels]:
    """Every sequence of labels other than the blank, from none to `longest` of them."""
    labels = [c for c in range(classes) if c != blank]
    return [s for n in range(longest + 1) for s in itertools.product(labels, repeat=n)]


def padded(sequences: list[Labels], width: int, padding: int) -> tuple[Tensor, Tensor]:
    """Sequences as targets `[B, width]` and their relative lengths `[B]`, zero where `width` is."""
    targets = torch.full((len(sequences), width), padding)
    for row, labels in zip(targets, sequences, strict=True):
        row[: len(labels)] = torch.tensor(labels, dtype=torch.int64)
    return targets, torch.tensor([len(labels) / max(width, 1) for labels in sequences], dtype=torch.float64)


def collapse(path: Labels, blank: int) -> Labels:
    """What a CTC path spells: repetitions merged, blanks removed."""
    return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def ctc_by_enumeration(log_probs: Tensor, labels: Labels, blank: int) -> tuple[Tensor, Tensor]:
    """The cost of `labels` for one item `[T, C]`, and its gradient in torch's convention `[T, C]`.

    The gradient is `exp(log_probs)` less the share of the paths through each frame's class; zero
    where no path spells the labels.
    """
    frames, classes = log_probs.shape
    paths = [p for p in itertools.product(range(classes), repeat=frames) if collapse(p, blank) == labels]
    index = torch.tensor(paths, dtype=torch.int64).reshape(-1, frames)
    scores = log_probs[torch.arange(frames), index].sum(1)
    cost = -scores.logsumexp(0)
    if cost.isinf():
        return cost, torch.zeros_like(log_probs)
    taken = torch.nn.functional.one_hot(index, classes).to(scores.dtype)
    share = ((scores + cost).exp()[:, None, None] * taken).sum(0)
    return cost, log_probs.exp() - share


def transducer_by_enumeration(logits: Tensor, labels: Labels, blank: int) -> Tensor:
    """The cost of `labels` for one item `[T, U+1, V]`, U being their number; autograd goes through."""
    log_probs = logits.log_softmax(-1)
    scores = [sum(log_probs[arc] for arc in path) for path in transducer_paths(len(logits), labels, blank)]
    return -torch.stack(scores).logsumexp(0)


def transducer_paths(frames: int, labels: Labels, blank: int) -> Iterator[list[tuple[int, int, int]]]:
    """The arcs (t, u, class) of every path; the last leaves the last frame with a blank."""
    steps = frames - 1 + len(labels)
    for emitting in itertools.combinations(range(steps), len(labels)):
        t = u = 0
        path = []
        for step in range(steps):
            if step in emitting:
                path.append((t, u, labels[u]))
                u += 1
            else:
                path.append((t, u, blank))
                t += 1
        yield [*path, (t, u, blank)]


def _scored_paths(
    logits: Tensor, labels: Labels, blank: int
) -> list[tuple[float, list[tuple[int, int, int]]]]:
    """Every path with its log-probability, for one item `[T, U+1, V]` whose U may be larger."""
    log_probs = logits.log_softmax(-1).tolist()
    paths = transducer_paths(len(logits), labels, blank)
    return [(math.fsum(log_probs[t][u][c] for t, u, c in path), path) for path in paths]


def transducer_occupation(logits: Tensor, labels: Labels, blank: int) -> tuple[Tensor, Tensor, float]:
    """The share of paths through each node `[T, U+1]` and label's arc `[T, U]`, and the cost."""
    nodes, arcs = torch.zeros(2, *logits.shape[:2], dtype=torch.float64)
    paths = _scored_paths(logits, labels, blank)
    cost = -torch.tensor([score for score, _ in paths], dtype=torch.float64).logsumexp(0).item()
    for score, path in paths if cost < math.inf else []:
        for t, u, c in path:
            nodes[t, u] += math.exp(score + cost)
            arcs[t, u] += math.exp(score + cost) * (c != blank)
    return nodes, arcs[:, :-1], cost


def best_transducer_path(logits: Tensor, labels: Labels, blank: int) -> tuple[float, list[int]]:
    """The best path's log-probability and its labels' frames; the last labels earliest among equals."""
    paths = _scored_paths(logits, labels, blank)
    most = max(score for score, _ in paths)
    ways = [[t for t, _, c in path if c != blank] for score, path in paths if score >= most - 1e-9]
    return most, min(ways, key=lambda frames: frames[::-1])


def assignment_by_enumeration(costs: Tensor) -> tuple[Tensor, Labels]:
    """The least mean cost of `[S, S]` over all permutations, and the first permutation that has it."""
    sources = len(costs)
    permutations = list(itertools.permutations(range(sources)))
    means = costs[torch.arange(sources), torch.tensor(permutations)].mean(1)
    best = int(means.argmin())
    return means[best], permutations[best]


def ctc_paths(frames: int, labels: Labels) -> Iterator[Labels]:
    """The states of every path through a target's lattice: blanks at even ones, labels at odd ones."""
    for stays in itertools.combinations_with_replacement(range(2 * len(labels) + 1), frames):
        # a path never goes back: it is a sorted choice of states that leaves no label out
        if set(range(1, 2 * len(labels), 2)) <= set(stays) and not any(
            a % 2 and b == a + 2 and labels[a // 2] == labels[b // 2] for a, b in itertools.pairwise(stays)
        ):
            yield stays


def ctc_lattice_by_enumeration(
    log_probs: Tensor, labels: Labels, blank: int
) -> tuple[Tensor, Tensor, Tensor, Labels | None]:
    """For one item `[T, C]`: cost, occupation `[T, 2n+1]`, the best path's log-probability and its states.

    Of paths as good it is the one that, looking back from the end, came over the fewest states. There is
    none where no path has a probability; the occupation is zero there.
    """
    frames, states = len(log_probs), 2 * len(labels) + 1
    classes = torch.tensor([labels[s // 2] if s % 2 else blank for s in range(states)])
    paths = list(ctc_paths(frames, labels))
    index = torch.tensor(paths, dtype=torch.int64).reshape(len(paths), frames)
    scores = log_probs[torch.arange(frames), classes[index]].sum(1)
    cost = -scores.logsumexp(0)
    if cost.isinf():
        return cost, log_probs.new_zeros(frames, states), -cost, None
    taken = torch.nn.functional.one_hot(index, states).to(scores.dtype)
    occupation = ((scores + cost).exp()[:, None, None] * taken).sum(0)
    best = scores.max()
    ends = [(*path, states - 1) for path, score in zip(paths, scores, strict=True) if score == best]
    moves = [[b - a for a, b in itertools.pairwise((0, *path))][::-1] for path in ends]
    return cost, occupation, best, min(zip(moves, ends, strict=True))[1][:-1]


Arc = tuple[int, int, int]  # t, u and the number of the arc


def arc_paths(
    frames: int, labels: int, blanks: tuple[int, ...], emits: tuple[int, ...], label_ends: bool
) -> Iterator[list[Arc]]:
    """Every path from (0, 0) to (frames, labels) over arcs of these durations, blanks before labels."""
    durations = [*((d, 0) for d in blanks), *((d, 1) for d in emits)]

    def on_from(t: int, u: int) -> Iterator[list[Arc]]:
        if (t, u) == (frames, labels):
            yield []
        if t >= frames:
            return
        for k, (duration, right) in enumerate(durations):
            latest = frames if not right or label_ends else frames - 1
            if t + duration <= latest and u + right <= labels:
                for rest in on_from(t + duration, u + right):
                    yield [(t, u, k), *rest]

    return on_from(0, 0)


def arcs_by_enumeration(
    arcs: Tensor, labels: int, blanks: tuple[int, ...], emits: tuple[int, ...], label_ends: bool
) -> tuple[Tensor, Tensor]:
    """The cost of one item's arcs `[T, U+1, K]`, and how often each is taken."""
    paths = list(arc_paths(len(arcs), labels, blanks, emits, label_ends))
    taken = torch.zeros_like(arcs)
    if not paths:
        return torch.tensor(math.inf, dtype=arcs.dtype), taken
    scores = torch.stack([sum((arcs[arc] for arc in path), arcs.new_zeros(())) for path in paths])
    cost = -scores.logsumexp(0)
    for score, path in zip(scores, paths, strict=True):
        for arc in path if cost.isfinite() else []:
            taken[arc] += (score + cost).exp()
    return cost, taken


def best_arcs(
    arcs: Tensor, labels: int, blanks: tuple[int, ...], emits: tuple[int, ...], label_ends: bool
) -> tuple[float, list[Arc]]:
    """The best path's log-probability and the arcs of its labels; of equals, the first arcs from its end."""
    paths = list(arc_paths(len(arcs), labels, blanks, emits, label_ends))
    scores = [math.fsum(arcs[arc].item() for arc in path) for path in paths]
    most = max(scores, default=-math.inf)
    if most == -math.inf:
        return most, []
    ways = [path for score, path in zip(scores, paths, strict=True) if score >= most - 1e-9]
    best = min(ways, key=lambda path: [k for _, _, k in path[::-1]])
    return most, [(t, u, k - len(blanks)) for t, u, k in best if k >= len(blanks)]
