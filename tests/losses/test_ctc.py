"""CTC against the enumeration of all its paths, eager and as portable TorchScript."""

import itertools

import pytest
import torch
from enumeration import ctc_by_enumeration, label_sequences, padded
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses import functional as F

F64 = torch.float64
# frames, classes, blank: every blank of every small lattice
LATTICES = [
    (t, c, blank) for t, c in ((1, 2), (1, 4), (2, 3), (3, 3), (4, 3), (5, 2), (6, 2)) for blank in range(c)
]


def ctc(scripted: bool, blank: int, reduction: str = "none", zero_infinity: bool = False) -> nn.Module:
    module = el.CTCLoss(blank, reduction, zero_infinity)
    return torch.jit.script(module) if scripted else module


@pytest.fixture(params=[False, True], ids=["eager", "scripted"])
def scripted(request: pytest.FixtureRequest) -> bool:
    return request.param


def drawn(kind: str, *shape: int) -> Tensor:
    """Log-probabilities in float64: of ordinary logits, of huge ones, or with a third of them -inf."""
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=F64)
    if kind == "huge":
        return (1e4 * logits).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    if kind == "with -inf":
        log_probs[torch.rand(shape, generator=generator) < 0.3] = -torch.inf
    return log_probs


def enumerated(log_probs: Tensor, sequences: list[tuple[int, ...]], blank: int) -> tuple[Tensor, Tensor]:
    """Costs `[B]` and gradients `[B, T, C]` of all sequences for one item `[T, C]`."""
    costs, gradients = zip(*(ctc_by_enumeration(log_probs, s, blank) for s in sequences), strict=True)
    return torch.stack(costs), torch.stack(gradients)


@pytest.mark.parametrize("kind", ["ordinary", "huge", "with -inf"])
@pytest.mark.parametrize(("frames", "classes", "blank"), LATTICES)
def test_every_label_sequence(frames: int, classes: int, blank: int, kind: str, scripted: bool) -> None:
    # every sequence in one padded batch: the empty one, repeated labels, and those too long to align
    item = drawn(kind, frames, classes)
    sequences = label_sequences(classes, blank, frames + 1)
    targets, target_lens = padded(sequences, frames + 1, padding=-99)
    log_probs = item.expand(len(sequences), -1, -1).clone().requires_grad_()
    arguments = (log_probs, targets, torch.ones(len(sequences), dtype=F64), target_lens)
    costs, gradients = enumerated(item, sequences, blank)

    got = ctc(scripted, blank)(*arguments)
    torch.testing.assert_close(got, costs, rtol=1e-10, atol=1e-10)
    got = ctc(scripted, blank, zero_infinity=True)(*arguments)
    torch.testing.assert_close(got, costs.masked_fill(costs.isinf(), 0.0), rtol=1e-10, atol=1e-10)
    if kind != "with -inf" or not scripted:  # torch's own gradient is NaN there
        (gradient,) = torch.autograd.grad(got.sum(), log_probs)
        torch.testing.assert_close(gradient, gradients, rtol=1e-8, atol=1e-10)
    if kind == "ordinary":
        assert (-costs).exp().sum() == pytest.approx(1.0)
        assert (-ctc(scripted, blank)(*arguments)).exp().sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("blank", [0, 2, 4])
def test_padded_batches(blank: int, scripted: bool) -> None:
    # what lies behind an item's frames and labels is garbage
    frames, labels = [5, 1, 3, 4], [(1, 3), (3,), (), (1, 1)]
    log_probs = drawn("ordinary", 4, 5, 5)
    for item, n in zip(log_probs, frames, strict=True):
        item[n:] = torch.tensor([1e30, -torch.inf, -1e30, 1e30, -torch.inf])
    targets, target_lens = padded(labels, 3, padding=blank)
    log_probs.requires_grad_()
    costs = ctc(scripted, blank)(log_probs, targets, torch.tensor(frames, dtype=F64) / 5, target_lens)
    costs.sum().backward()
    for b in range(4):
        cost, gradient = ctc_by_enumeration(log_probs[b, : frames[b]].detach(), labels[b], blank)
        torch.testing.assert_close(costs[b].detach(), cost, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(log_probs.grad[b, : frames[b]], gradient, rtol=1e-8, atol=1e-10)
        assert not log_probs.grad[b, frames[b] :].any()


def test_targets_without_any_label(scripted: bool) -> None:
    log_probs = drawn("ordinary", 2, 3, 4)
    empty = torch.zeros(2, 0, dtype=torch.int64)
    costs = ctc(scripted, 1)(log_probs, empty, torch.tensor([1.0, 2 / 3]), torch.zeros(2))
    expected = torch.stack([-log_probs[0, :, 1].sum(), -log_probs[1, :2, 1].sum()])
    torch.testing.assert_close(costs, expected)


def test_an_item_without_a_frame(scripted: bool) -> None:
    # a relative length above zero may still round to no frame: only the empty target is possible
    log_probs = drawn("ordinary", 2, 3, 4)
    targets, target_lens = padded([(), (1,)], 1, padding=0)
    costs = ctc(scripted, 0)(log_probs, targets, torch.tensor([0.1, 0.1]), target_lens)
    assert costs.tolist() == [0.0, torch.inf]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integer_targets_of_either_width(dtype: torch.dtype, scripted: bool) -> None:
    log_probs = drawn("ordinary", 1, 4, 3)
    cost = ctc(scripted, 0)(log_probs, torch.tensor([[1, 2]], dtype=dtype), torch.ones(1), torch.ones(1))
    torch.testing.assert_close(cost[0], ctc_by_enumeration(log_probs[0], (1, 2), 0)[0])


@pytest.mark.parametrize("blank", [0, 3])
def test_gradcheck_in_the_logits(blank: int) -> None:
    logits = torch.randn(3, 4, 4, dtype=F64, requires_grad=True)
    targets, target_lens = padded([(1, 1), (2,), ()], 2, padding=-1)
    frames = torch.tensor([1.0, 0.75, 0.5])

    def losses(logits: Tensor) -> Tensor:
        return F.ctc_loss(logits.log_softmax(-1), targets, frames, target_lens, blank, "none")

    assert torch.autograd.gradcheck(losses, logits)


def test_each_item_weighs_its_gradient() -> None:
    # an upstream gradient that differs between items reaches each item's own frames
    log_probs = drawn("ordinary", 3, 4, 3).requires_grad_()
    targets, target_lens = padded([(1, 2), (2,), (1,)], 2, padding=-1)
    costs = ctc(False, 0)(log_probs, targets, torch.ones(3), target_lens)
    (each,) = torch.autograd.grad(costs.sum(), log_probs, retain_graph=True)
    weight = torch.tensor([2.0, 0.0, -3.0], dtype=F64)
    (weighted,) = torch.autograd.grad((weight * costs).sum(), log_probs)
    torch.testing.assert_close(weighted, weight[:, None, None] * each)


def test_reductions_count_an_empty_target_as_one_label(scripted: bool) -> None:
    log_probs = drawn("ordinary", 3, 4, 3)
    targets, target_lens = padded([(1, 2), (), (2, 2, 1, 2)], 4, padding=-1)
    arguments = (log_probs, targets, torch.ones(3), target_lens)
    possible = torch.tensor([ctc_by_enumeration(log_probs[0], (1, 2), 0)[0], -log_probs[1, :, 0].sum(), 0.0])
    per_label = possible / torch.tensor([2, 1, 4])
    for reduction, expected in {
        "none": possible,
        "sum": possible.sum(),
        "batchmean": possible.sum() / 3,
        "batch": per_label,
        "mean": per_label.mean(),
    }.items():
        got = ctc(scripted, 0, reduction, zero_infinity=True)(*arguments)
        torch.testing.assert_close(got, expected.to(F64))
        impossible = ctc(scripted, 0, reduction, zero_infinity=False)(*arguments)
        assert impossible.flatten()[-1] == torch.inf


def test_lengths_round_half_to_even(scripted: bool) -> None:
    log_probs = drawn("ordinary", 2, 5, 3)
    targets = torch.tensor([[1, 2, 1, 2, 1]] * 2)
    costs = ctc(scripted, 0)(log_probs, targets, torch.tensor([0.5, 0.7]), torch.tensor([0.2, 0.5]))
    for b, (frames, labels) in enumerate([(2, (1,)), (4, (1, 2))]):
        torch.testing.assert_close(costs[b], ctc_by_enumeration(log_probs[b, :frames], labels, 0)[0])


def greedy(scores: Tensor, blank: int) -> tuple[int, ...]:
    return tuple(c for c, _ in itertools.groupby(scores.argmax(-1).tolist()) if c != blank)


@pytest.mark.parametrize("blank", [0, 2])
def test_distillation_is_the_loss_of_the_teachers_best_path(blank: int, scripted: bool) -> None:
    student = drawn("ordinary", 40, 5, 3)
    teacher = drawn("ordinary", 40, 5, 3).flip(0).exp()
    frames = torch.arange(40) % 5 + 1
    module = el.CTCDistillationLoss(blank)
    module = torch.jit.script(module) if scripted else module
    loss = module(student, teacher, frames / 5)
    labels = [greedy(teacher[b, :n], blank) for b, n in enumerate(frames)]
    assert {len(x) for x in labels} >= {0, 1, 2, 3}
    costs = [ctc_by_enumeration(student[b, :n], labels[b], blank)[0] for b, n in enumerate(frames)]
    per_label = [cost / max(len(x), 1) for cost, x in zip(costs, labels, strict=True)]
    torch.testing.assert_close(loss, torch.stack(per_label).mean())
