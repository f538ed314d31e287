"""The transducer against the enumeration of all its paths, eager and as portable TorchScript."""

import pytest
import torch
from enumeration import drawn_logits, label_sequences, padded, transducer_by_enumeration
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses import functional as F

F64 = torch.float64
# frames, labels, classes, blank: every blank of every small lattice
LATTICES = [
    (t, u, v, blank)
    for t, u, v in ((1, 0, 2), (1, 1, 2), (1, 3, 2), (2, 2, 3), (3, 2, 3), (4, 1, 4), (4, 3, 2))
    for blank in range(v)
]


def transducer(scripted: bool, blank: int, reduction: str = "none", normalize: bool = False) -> nn.Module:
    module = el.TransducerLoss(blank, reduction, normalize)
    return torch.jit.script(module) if scripted else module


@pytest.fixture(params=[False, True], ids=["eager", "scripted"])
def scripted(request: pytest.FixtureRequest) -> bool:
    return request.param


def enumerated(logits: Tensor, labels: tuple[int, ...], blank: int) -> tuple[Tensor, Tensor]:
    """The cost and its gradient in all of `logits` `[T, U+1, V]`; zero where the cost is infinite."""
    logits = logits.detach().clone().requires_grad_()
    cost = transducer_by_enumeration(logits[:, : len(labels) + 1], labels, blank)
    if cost.isinf():
        return cost.detach(), torch.zeros_like(logits)
    return cost.detach(), torch.autograd.grad(cost, logits)[0]


@pytest.mark.parametrize("kind", ["ordinary", "huge", "with -inf"])
@pytest.mark.parametrize(("frames", "most", "classes", "blank"), LATTICES)
def test_every_label_sequence(
    frames: int, most: int, classes: int, blank: int, kind: str, scripted: bool
) -> None:
    # every sequence in one padded batch: the empty one and repeated labels among them
    item = drawn_logits(kind, frames, most + 1, classes)
    sequences = label_sequences(classes, blank, most)
    targets, target_lens = padded(sequences, most, padding=-99)
    logits = item.expand(len(sequences), -1, -1, -1).clone().requires_grad_()
    costs = transducer(scripted, blank)(logits, targets, torch.ones(len(sequences)), target_lens)
    (gradient,) = torch.autograd.grad(costs.sum(), logits)
    expected, gradients = zip(*(enumerated(item, s, blank) for s in sequences), strict=True)
    torch.testing.assert_close(costs.detach(), torch.stack(expected), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, torch.stack(gradients), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize(("frames", "most"), [(1, 2), (3, 2), (5, 3)])
def test_all_label_sequences_together_are_certain(frames: int, most: int, blank: int, scripted: bool) -> None:
    # where nothing but the blank is possible after the last label, no sequence is longer
    item = drawn_logits("ordinary", frames, most + 1, 3)
    item[:, most] = -torch.inf
    item[:, most, blank] = 0.0
    sequences = label_sequences(3, blank, most)
    targets, target_lens = padded(sequences, most, padding=blank)
    logits = item.expand(len(sequences), -1, -1, -1)
    costs = transducer(scripted, blank)(logits, targets, torch.ones(len(sequences)), target_lens)
    assert (-costs).exp().sum().item() == pytest.approx(1.0)


def test_impossible_targets_cost_infinity_and_give_no_gradient(scripted: bool) -> None:
    logits = drawn_logits("ordinary", 2, 3, 3, 4)
    logits[0, :, :, 2] = -torch.inf  # label 2 of the first item has no probability anywhere
    logits.requires_grad_()
    costs = transducer(scripted, 0)(logits, torch.tensor([[1, 2], [1, 2]]), torch.ones(2), torch.ones(2))
    assert costs[0] == torch.inf
    assert costs[1].isfinite()
    (gradient,) = torch.autograd.grad(costs.sum(), logits)
    assert not gradient[0].any()
    torch.testing.assert_close(gradient[1], enumerated(logits[1], (1, 2), 0)[1])


@pytest.mark.parametrize("garbage", [1e30, -1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("blank", [0, 4])
def test_padded_batches(blank: int, garbage: float) -> None:
    # what lies behind an item's frames and labels is garbage
    frames, labels = [5, 1, 3, 4], [(1, 3), (3,), (), (1, 1)]
    logits = drawn_logits("ordinary", 4, 5, 4, 5)
    clean = logits.clone()
    for b in range(4):
        logits[b, frames[b] :, :, 1:3] = garbage
        logits[b, :, len(labels[b]) + 1 :, 1:3] = garbage
    targets, target_lens = padded(labels, 3, padding=blank)
    logits.requires_grad_()
    costs = transducer(False, blank)(logits, targets, torch.tensor(frames) / 5, target_lens)
    costs.sum().backward()
    for b in range(4):
        cost, gradient = enumerated(clean[b, : frames[b]], labels[b], blank)
        torch.testing.assert_close(costs[b].detach(), cost, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(logits.grad[b, : frames[b]], gradient, rtol=1e-8, atol=1e-10)
        assert not logits.grad[b, frames[b] :].any()


def test_scripted_padded_batches() -> None:
    # the same through autograd: garbage may be huge there, not infinite
    frames, labels = [4, 2], [(1,), (2, 2)]
    logits = drawn_logits("ordinary", 2, 4, 3, 3)
    clean = logits.clone()
    logits[0, :, 2:] = torch.tensor([1e30, -1e30, 0.0])
    logits[1, 2:] = torch.tensor([-1e30, 0.0, 1e30])
    targets, target_lens = padded(labels, 2, padding=0)
    logits.requires_grad_()
    costs = transducer(True, 0)(logits, targets, torch.tensor(frames) / 4, target_lens)
    costs.sum().backward()
    for b in range(2):
        cost, gradient = enumerated(clean[b, : frames[b]], labels[b], 0)
        torch.testing.assert_close(costs[b].detach(), cost, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(logits.grad[b, : frames[b]], gradient, rtol=1e-8, atol=1e-10)
        assert not logits.grad[b, frames[b] :].any()


def test_targets_without_any_label(scripted: bool) -> None:
    logits = drawn_logits("ordinary", 2, 3, 1, 4)
    empty = torch.zeros(2, 0, dtype=torch.int64)
    costs = transducer(scripted, 1)(logits, empty, torch.tensor([1.0, 2 / 3]), torch.zeros(2))
    stay = -logits.log_softmax(-1)[:, :, 0, 1]
    torch.testing.assert_close(costs, torch.stack([stay[0].sum(), stay[1, :2].sum()]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integer_targets_of_either_width(dtype: torch.dtype, scripted: bool) -> None:
    logits = drawn_logits("ordinary", 1, 4, 3, 3)
    cost = transducer(scripted, 0)(logits, torch.tensor([[1, 2]], dtype=dtype), torch.ones(1), torch.ones(1))
    torch.testing.assert_close(cost[0], enumerated(logits[0], (1, 2), 0)[0])


@pytest.mark.parametrize("blank", [0, 3])
@pytest.mark.parametrize("use_torchaudio", [True, False])
def test_gradcheck(blank: int, use_torchaudio: bool) -> None:
    logits = torch.randn(3, 4, 3, 4, dtype=F64, requires_grad=True)
    targets, target_lens = padded([(1, 1), (2,), ()], 2, padding=-1)
    frames = torch.tensor([1.0, 0.75, 0.5])

    def losses(logits: Tensor) -> Tensor:
        return F.transducer_loss(logits, targets, frames, target_lens, blank, "none", use_torchaudio)

    assert torch.autograd.gradcheck(losses, logits)


def test_each_item_weighs_its_gradient() -> None:
    logits = drawn_logits("ordinary", 3, 4, 3, 3).requires_grad_()
    targets, target_lens = padded([(1, 2), (2,), (1,)], 2, padding=-1)
    costs = transducer(False, 0)(logits, targets, torch.ones(3), target_lens)
    (each,) = torch.autograd.grad(costs.sum(), logits, retain_graph=True)
    weight = torch.tensor([2.0, 0.0, -3.0], dtype=F64)
    (weighted,) = torch.autograd.grad((weight * costs).sum(), logits)
    torch.testing.assert_close(weighted, weight[:, None, None, None] * each)


def test_huge_logits_in_float32(scripted: bool) -> None:
    logits = drawn_logits("huge", 2, 6, 4, 5)
    arguments = (torch.tensor([[1, 2, 3], [4, 4, 1]]), torch.ones(2), torch.ones(2))
    single = transducer(scripted, 0)(logits.float(), *arguments)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), transducer(False, 0)(logits, *arguments), rtol=1e-5, atol=1e-5
    )


def test_normalized_costs_are_per_frame(scripted: bool) -> None:
    logits = drawn_logits("ordinary", 2, 4, 2, 3)
    arguments = (logits, torch.tensor([[1], [2]]), torch.tensor([1.0, 0.5]), torch.ones(2))
    expected = transducer(False, 0)(*arguments) / torch.tensor([4, 2])
    torch.testing.assert_close(transducer(scripted, 0, normalize=True)(*arguments), expected)
