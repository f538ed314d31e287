"""`drop_in.torchaudio` held to sums over all alignments, and to its own conventions."""

import math

import pytest
import torch
from enumeration import transducer_paths
from torch import Tensor

import exportable_losses as el
from exportable_losses.drop_in import torchaudio as drop_in

T, U, V = 4, 3, 5
TARGETS = torch.tensor([[1, 2, 2], [3, -7, 99]])
FRAMES, LABELS = torch.tensor([4, 3]), torch.tensor([3, 1])


def scores() -> Tensor:
    return 2 * torch.randn(2, T, U + 1, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_enumeration(log_probs: Tensor, blank: int) -> Tensor:
    """The costs of all ways through each item's arcs, whose scores are taken as they are."""
    costs = []
    for item, target, frames, labels in zip(
        log_probs, TARGETS.tolist(), FRAMES.tolist(), LABELS.tolist(), strict=True
    ):
        paths = transducer_paths(frames, tuple(target[:labels]), blank)
        costs.append(-torch.stack([sum(item[arc] for arc in path) for path in paths]).logsumexp(0))
    return torch.stack(costs)


def gradients(costs: Tensor, x: Tensor) -> list[Tensor]:
    return [torch.autograd.grad(cost, x, retain_graph=True)[0] for cost in costs]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("clamp", [-1, 0.1])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("blank", [0, -1])
def test_rnnt_loss(blank: int, fused: bool, clamp: float, reduction: str) -> None:
    x = (scores() if fused else scores().log_softmax(-1)).requires_grad_()
    costs = by_enumeration(x.log_softmax(-1) if fused else x, blank % V)
    each = gradients(costs, x)
    weights = {"none": [1.0, 2.0], "mean": [0.5, 0.5], "sum": [1.0, 1.0]}[reduction]
    limit = clamp if clamp > 0 else math.inf
    expected = sum(weight * grad.clamp(-limit, limit) for weight, grad in zip(weights, each, strict=True))
    value = {"none": costs, "mean": costs.mean(), "sum": costs.sum()}[reduction]
    module = drop_in.RNNTLoss(blank, clamp, reduction, fused)
    for loss in (module, lambda *given: drop_in.rnnt_loss(*given, blank, clamp, reduction, fused)):
        got = loss(x, TARGETS, FRAMES.int(), LABELS.int())
        torch.testing.assert_close(got, value)
        weighted = got * torch.tensor([1.0, 2.0]) if reduction == "none" else got
        torch.testing.assert_close(torch.autograd.grad(weighted.sum(), x)[0], expected)


def test_defaults_are_torchaudio_s() -> None:
    """The last class is the blank, costs are averaged, logits are normalised, nothing is clamped."""
    x = scores()
    expected = by_enumeration(x.log_softmax(-1), V - 1).mean()
    torch.testing.assert_close(drop_in.rnnt_loss(x, TARGETS, FRAMES, LABELS), expected)
    torch.testing.assert_close(drop_in.RNNTLoss()(x, TARGETS, FRAMES, LABELS), expected)


def test_scores_that_are_no_log_probabilities_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^logits: got scores whose probabilities are .* nats from one in all"
    ):
        drop_in.rnnt_loss(scores(), TARGETS, FRAMES, LABELS, fused_log_softmax=False)
    x = scores().log_softmax(-1)
    x[1, 3:], x[1, :, 2:] = math.nan, math.nan  # padding may be anything
    assert drop_in.rnnt_loss(x, TARGETS, FRAMES, LABELS, fused_log_softmax=False).isfinite()


def test_what_is_clamped_has_no_second_derivative() -> None:
    x = scores().requires_grad_()
    (grad,) = torch.autograd.grad(
        drop_in.rnnt_loss(x, TARGETS, FRAMES, LABELS, clamp=1.0), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("settings", [{}, {"clamp": 0.5}, {"fused_log_softmax": False}], ids=str)
def test_sixteen_bits(settings: dict[str, object], dtype: torch.dtype) -> None:
    x = scores().log_softmax(-1).to(dtype).requires_grad_()
    value = drop_in.rnnt_loss(x, TARGETS, FRAMES, LABELS, **settings)
    value.backward()
    y = x.detach().double().requires_grad_()
    exact = by_enumeration(y if "fused_log_softmax" in settings else y.log_softmax(-1), V - 1).mean()
    torch.testing.assert_close(
        value.double(), exact, rtol=0.02 if "fused_log_softmax" in settings else 1e-6, atol=0
    )
    assert (value.dtype, x.grad.dtype) == (torch.float32, dtype)


def test_forced_align() -> None:
    log_probs = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    targets, frames, labels = torch.tensor([[1, 2, 2], [3, 9, 9]]), torch.tensor([7, 5]), torch.tensor([3, 1])
    path, along = drop_in.forced_align(log_probs, targets.int(), frames, labels)
    assert path.dtype == torch.int32
    tokens, starts, ends, scores, path_scores = el.CTCAlign()(log_probs, targets, frames, labels)
    torch.testing.assert_close(along.sum(1), path_scores)
    for i in range(2):
        spans = drop_in.merge_tokens(path[i, : frames[i]], along[i, : frames[i]])
        found = [(span.token, span.start, span.end, len(span)) for span in spans]
        expected = zip(tokens[i].tolist(), starts[i].tolist(), ends[i].tolist(), strict=True)
        assert found == [(t, s, e, e - s) for t, s, e in expected if t >= 0]
        torch.testing.assert_close(torch.tensor([span.score for span in spans]), scores[i, : len(spans)])
    assert not along[1, 5:].any()
    assert not path[1, 5:].any()
    alone = drop_in.forced_align(log_probs[:1], targets[:1])
    torch.testing.assert_close(alone, (path[:1].long(), along[:1]))


def test_what_cannot_be_aligned() -> None:
    log_probs = torch.zeros(2, 3, 4).log_softmax(-1)
    with pytest.raises(ValueError, match=r"^targets: got 2 frames for item 1, expected a frame for"):
        drop_in.forced_align(log_probs, torch.tensor([[1, 2], [3, 3]]), torch.tensor([3, 2]))
    nan, never = log_probs.clone(), log_probs.clone()
    nan[1, 1, 1] = torch.nan
    never[1, :, 3] = -torch.inf
    targets = torch.tensor([[1, 2], [1, 3]])
    with pytest.raises(ValueError, match=r"^log_probs: got a NaN or infinity in item 1, expected"):
        drop_in.forced_align(nan, targets)
    with pytest.raises(ValueError, match=r"^log_probs: got a probability of zero on each path of item 1"):
        drop_in.forced_align(never, targets)
    with pytest.raises(ValueError, match=r"^log_probs: got shape \[3, 4\], expected \[B, T, C\]"):
        drop_in.forced_align(log_probs[0], targets[:1])


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("kitten", "sitting", 3), ("", "", 0), ("", "ab", 2), (["a", "b"], ["b"], 1), ((1, 2), (1, 2), 0)],
)
def test_edit_distance(one: object, other: object, distance: int) -> None:
    assert drop_in.edit_distance(one, other) == distance


def test_spans_of_another_blank_and_shapes_that_do_not_fit() -> None:
    spans = drop_in.merge_tokens(torch.tensor([2, 0, 0, 2, 0]), torch.arange(5.0), blank=2)
    assert [(span.token, span.start, span.end, span.score) for span in spans] == [
        (0, 1, 3, 1.5),
        (0, 4, 5, 4.0),
    ]
    assert drop_in.merge_tokens(torch.zeros(0, dtype=torch.int64), torch.zeros(0)) == []
    with pytest.raises(ValueError, match=r"^tokens, scores: got \[3\] and \[2\], expected one dimension"):
        drop_in.merge_tokens(torch.zeros(3), torch.zeros(2))
