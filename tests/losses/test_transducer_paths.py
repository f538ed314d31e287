"""The transducer's posterior and its best path, against the enumeration of all paths.

At sizes where there are too many, against a loop over the nodes in float64: autograd through its sum is
the posterior, and its maximum the best path.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from enumeration import (
    Labels,
    best_transducer_path,
    drawn_logits,
    label_sequences,
    padded,
    transducer_occupation,
)
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.ops import using
from exportable_losses.ops.computers import COMPUTERS

F64 = torch.float64
# frames, labels, classes, blank
LATTICES = [
    (t, u, v, blank)
    for t, u, v in ((1, 0, 2), (1, 1, 2), (1, 3, 2), (2, 2, 3), (3, 2, 3), (4, 1, 4), (4, 3, 2))
    for blank in range(v)
]
EVERYONE = ("native", "numba", "torch")


@pytest.fixture(params=[*EVERYONE, "scripted"])
def posterior(request: pytest.FixtureRequest) -> object:
    """Makes the module, and has one after the other compute it."""
    if request.param == "scripted":
        yield lambda blank=0: torch.jit.script(el.TransducerPosterior(blank))
        return
    why = COMPUTERS[request.param].unavailable(torch.zeros(1))
    if why:
        pytest.skip(f"{request.param}: {why}")
    with using(request.param):
        yield el.TransducerPosterior


def aligners(blank: int = 0) -> tuple[nn.Module, nn.Module]:
    return el.TransducerAlign(blank), torch.jit.script(el.TransducerAlign(blank))


@pytest.mark.parametrize("kind", ["ordinary", "huge", "with -inf", "equal"])
@pytest.mark.parametrize(("frames", "most", "classes", "blank"), LATTICES)
def test_posteriors_of_every_label_sequence(
    frames: int, most: int, classes: int, blank: int, kind: str, posterior: type[el.TransducerPosterior]
) -> None:
    # every sequence in one padded batch: the empty one and repeated labels among them
    item = drawn_logits(kind, frames, most + 1, classes)
    sequences = label_sequences(classes, blank, most)
    targets, target_lens = padded(sequences, most, padding=-99)
    logits = item.expand(len(sequences), -1, -1, -1)
    got = posterior(blank)(logits, targets, torch.ones(len(sequences)), target_lens)
    for nodes, emissions, cost, labels in zip(*got, sequences, strict=True):
        all_nodes, all_emissions, expected = transducer_occupation(item, labels, blank)
        torch.testing.assert_close(nodes, all_nodes, rtol=0, atol=1e-9)
        torch.testing.assert_close(emissions, all_emissions, rtol=0, atol=1e-9)
        assert cost.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["ordinary", "huge", "with -inf", "equal"])
@pytest.mark.parametrize(("frames", "most", "classes", "blank"), LATTICES)
def test_best_paths_of_every_label_sequence(
    frames: int, most: int, classes: int, blank: int, kind: str
) -> None:
    item = drawn_logits(kind, frames, most + 1, classes)
    log_probs = item.log_softmax(-1)
    sequences = label_sequences(classes, blank, most)
    targets, target_lens = padded(sequences, most, padding=-99)
    logits = item.expand(len(sequences), -1, -1, -1)
    for align in aligners(blank):
        got = align(logits, targets, torch.ones(len(sequences)), target_lens)
        for tokens, starts, ends, scores, path_score, labels in zip(*got, sequences, strict=True):
            expected, at = best_transducer_path(item, labels, blank)
            n = len(labels)
            assert tokens.tolist() == [*labels, *[-1] * (most - n)]
            assert path_score.item() == pytest.approx(expected, rel=1e-12)
            assert starts[n:].tolist() == ends[n:].tolist() == scores[n:].tolist() == [0] * (most - n)
            if expected == -math.inf:
                assert starts.tolist() == ends.tolist() == [0] * most
                assert scores[:n].tolist() == [-math.inf] * n
                continue
            assert starts[:n].tolist() == list(at)
            assert ends[:n].tolist() == [t + 1 for t in at]
            each = [log_probs[t, u, c] for u, (t, c) in enumerate(zip(at, labels, strict=True))]
            torch.testing.assert_close(scores[:n], torch.tensor(each, dtype=F64))


def by_nodes(logits: Tensor, labels: Labels, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors, emissions and cost of one item `[T, U+1, V]`: the gradient of a sum over the nodes."""
    log_probs = logits.log_softmax(-1)
    blanks = log_probs[..., blank].clone().requires_grad_()
    emits = log_probs[:, :-1].gather(2, torch.tensor(labels).expand(len(logits), -1)[..., None])[..., 0]
    emits = emits.clone().requires_grad_()
    alpha: dict[tuple[int, int], Tensor] = {(0, 0): torch.zeros((), dtype=F64)}
    for t in range(len(logits)):
        for u in range(len(labels) + 1):
            into = [alpha[t - 1, u] + blanks[t - 1, u]] if t else []
            into += [alpha[t, u - 1] + emits[t, u - 1]] if u else []
            if into:
                alpha[t, u] = torch.stack(into).logsumexp(0)
    cost = -(alpha[len(logits) - 1, len(labels)] + blanks[-1, -1])
    staying, emissions = torch.autograd.grad(cost, (blanks, emits), materialize_grads=True)
    return -staying - nn.functional.pad(emissions, [0, 1]), -emissions, cost.detach()


def batch(
    seed: int, confident: float = 0.0
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], list[int], list[Labels]]:
    """Items of unequal lengths, garbage behind each; where confident, a label or a blank stands out."""
    generator = torch.Generator().manual_seed(seed)
    frames, lengths = [40, 17, 31], [12, 3, 0]
    logits = torch.randn(3, 40, 13, 7, generator=generator, dtype=F64)
    labels = [tuple(torch.randint(1, 7, (n,), generator=generator).tolist()) for n in lengths]
    logits[..., 0] += confident
    for b, item in enumerate(labels):
        at = torch.randperm(frames[b], generator=generator)[: len(item)].sort()[0]
        for u, label in enumerate(item):
            logits[b, at[u], u, label] += 1.5 * confident
        logits[b, frames[b] :, :, 3:] = 1e30
        logits[b, :, lengths[b] + 1 :, 2] = -torch.inf
    targets, target_lens = padded(labels, 12, padding=1 << 40)
    return (logits, targets, torch.tensor(frames) / 40, target_lens), frames, labels


@pytest.mark.parametrize("confident", [0.0, 8.0])
def test_posteriors_are_the_gradient_of_a_loop(
    confident: float, posterior: type[el.TransducerPosterior]
) -> None:
    inputs, frames, labels = batch(1, confident)
    got = posterior()(*inputs)
    single = posterior()(inputs[0].float(), *inputs[1:])
    for b, (t, item) in enumerate(zip(frames, labels, strict=True)):
        truth = by_nodes(inputs[0][b, :t, : len(item) + 1], item, 0)
        for each, tolerance in ((got, 1e-10), (single, 2e-5)):
            nodes, emissions, cost = (x[b].double() for x in each)
            torch.testing.assert_close(nodes[:t, : len(item) + 1], truth[0], rtol=0, atol=tolerance)
            torch.testing.assert_close(emissions[:t, : len(item)], truth[1], rtol=0, atol=tolerance)
            torch.testing.assert_close(cost, truth[2], rtol=tolerance, atol=tolerance)
            assert not nodes[t:].any()
            assert not nodes[:, len(item) + 1 :].any()
            assert not emissions[t:].any()
            assert not emissions[:, len(item) :].any()
            # one node of each diagonal is on a path, and each label is emitted once
            on_diagonal = [nodes.flip(0).diagonal(n - 39).sum().item() for n in range(t + len(item))]
            assert on_diagonal == pytest.approx([1.0] * len(on_diagonal), abs=5 * tolerance)
            assert emissions.sum(0)[: len(item)].tolist() == pytest.approx([1.0] * len(item), abs=1e-4)


@pytest.mark.parametrize(("confident", "tolerance"), [(0, 4e-5), (10, 5e-6), (30, 5e-6)])
def test_a_thousand_frames_in_float32(
    confident: float, tolerance: float, posterior: type[el.TransducerPosterior]
) -> None:
    # costs of 2096, 2 and 0 nats: what so many arcs multiply to must not take digits from the rest
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1000, 101, 8, generator=generator, dtype=F64)
    targets = torch.randint(1, 8, (1, 100), generator=generator)
    at = torch.randperm(1000, generator=generator)[:100].sort()[0]
    logits[..., 0] += confident
    logits[0, at, torch.arange(100), targets[0]] += 1.5 * confident
    arguments = (targets, torch.ones(1), torch.ones(1))
    single = posterior()(logits.float(), *arguments)
    with using("torch"):
        double = el.TransducerPosterior()(logits, *arguments)
    for got, expected in zip(single[:2], double[:2], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(single[2].double(), double[2], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("garbage", [torch.inf, -torch.inf, torch.nan])
def test_nothing_behind_a_length_is_read(garbage: float, posterior: type[el.TransducerPosterior]) -> None:
    clean, frames, labels = batch(7)
    filled = (clean[0].clone(), *clean[1:])
    for b, item in enumerate(labels):
        filled[0][b, frames[b] :] = garbage
        filled[0][b, :, len(item) + 1 :] = garbage
    for module in (posterior(), *aligners()):
        for got, expected in zip(module(*filled), module(*clean), strict=True):
            assert torch.equal(got, expected)


def test_costs_are_those_of_the_loss(posterior: type[el.TransducerPosterior]) -> None:
    inputs, _, _ = batch(2)
    expected = el.TransducerLoss(reduction="none")(*inputs)
    torch.testing.assert_close(posterior()(*inputs)[2], expected)
    impossible = inputs[0].clone()
    impossible[0, :, 4, 1:] = -torch.inf  # the fifth label of the first item
    nodes, emissions, costs = posterior()(impossible, *inputs[1:])
    assert costs[0] == math.inf
    torch.testing.assert_close(costs[1:], expected[1:])
    assert not nodes[0].any()
    assert not emissions[0].any()
    assert nodes[1].any()


def test_probabilities_are_in_their_range(posterior: type[el.TransducerPosterior]) -> None:
    for confident in (0.0, 3.0, 30.0, 300.0):
        inputs, _, _ = batch(3, confident)
        nodes, emissions, _ = posterior()(inputs[0].float(), *inputs[1:])
        for x in (nodes, emissions):
            assert 0 <= x.min() <= x.max() <= 1


def best_by_nodes(logits: Tensor, labels: Labels, blank: int) -> tuple[float, list[int]]:
    """Viterbi's algorithm, a node after the other."""
    log_probs = logits.log_softmax(-1).numpy()
    score = np.full((len(logits), len(labels) + 1), -np.inf)
    frames: dict[tuple[int, int], list[int]] = {(0, 0): []}
    score[0, 0] = 0.0
    for t in range(len(logits)):
        for u in range(len(labels) + 1):
            if t:
                score[t, u], frames[t, u] = score[t - 1, u] + log_probs[t - 1, u, blank], frames[t - 1, u]
            if u and (through := score[t, u - 1] + log_probs[t, u - 1, labels[u - 1]]) > score[t, u]:
                score[t, u], frames[t, u] = through, [*frames[t, u - 1], t]
    return score[-1, -1] + log_probs[-1, -1, blank], frames[len(logits) - 1, len(labels)]


@pytest.mark.parametrize("confident", [0.0, 8.0])
def test_best_paths_are_those_of_a_loop(confident: float) -> None:
    inputs, frames, labels = batch(4, confident)
    for align in aligners():
        tokens, starts, ends, scores, path_scores = align(*inputs)
        for b, (t, item) in enumerate(zip(frames, labels, strict=True)):
            expected, at = best_by_nodes(inputs[0][b, :t, : len(item) + 1], item, 0)
            assert path_scores[b].item() == pytest.approx(expected, rel=1e-12)
            assert tokens[b].tolist() == [*item, *[-1] * (12 - len(item))]
            assert starts[b].tolist() == [*at, *[0] * (12 - len(item))]
            assert (ends - starts)[b].tolist() == [1] * len(item) + [0] * (12 - len(item))
            assert all(a <= b for a, b in pairwise(at))
            assert not scores[b, len(item) :].any()


def test_a_posterior_of_one_path_is_the_best_path() -> None:
    inputs, frames, labels = batch(5, confident=60.0)
    nodes, emissions, costs = el.TransducerPosterior()(*inputs)
    _, starts, _, scores, path_scores = el.TransducerAlign()(*inputs)
    torch.testing.assert_close(path_scores, -costs)
    for b, item in enumerate(labels):
        assert emissions[b].argmax(0)[: len(item)].tolist() == starts[b, : len(item)].tolist()
        assert nodes[b].sum().item() == pytest.approx(frames[b] + len(item))
    assert scores.min() > -1e-6


def test_targets_without_any_label(posterior: type[el.TransducerPosterior]) -> None:
    logits = drawn_logits("ordinary", 2, 3, 1, 4)
    arguments = (torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1.0, 2 / 3]), torch.zeros(2))
    nodes, emissions, costs = posterior()(logits, *arguments)
    torch.testing.assert_close(nodes[..., 0], torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=F64))
    assert emissions.shape == (2, 3, 0)
    for align in aligners():
        *by_label, path_scores = align(logits, *arguments)
        assert all(x.shape == (2, 0) for x in by_label)
        torch.testing.assert_close(path_scores, -costs)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integer_targets_of_either_width(dtype: torch.dtype, posterior: type[el.TransducerPosterior]) -> None:
    logits, targets = drawn_logits("ordinary", 1, 4, 3, 3), torch.tensor([[1, 2]], dtype=dtype)
    arguments = (logits, targets, torch.ones(1), torch.ones(1))
    torch.testing.assert_close(posterior()(*arguments)[0][0], transducer_occupation(logits[0], (1, 2), 0)[0])
    for align in aligners():
        tokens, starts, *_ = align(*arguments)
        assert (tokens.dtype, starts.dtype) == (torch.int64, torch.int64)
        assert starts[0].tolist() == list(best_transducer_path(logits[0], (1, 2), 0)[1])


def test_a_nan_is_seen() -> None:
    inputs, _, _ = batch(6)
    inputs[0][0, 0, 0, 0] = torch.nan
    assert el.TransducerPosterior()(*inputs)[2].isnan().tolist() == [True, False, False]
    _, starts, _, scores, path_scores = el.TransducerAlign()(*inputs)
    assert path_scores.isnan().tolist() == [True, False, False]
    assert not starts[0].any()
    assert scores[1].isfinite().all()
