"""What is true of every transducer, whatever its arcs: probabilities, gradients, padding, other lattices."""

import itertools
from typing import Any

import pytest
import torch
from enumeration import arcs_by_enumeration, best_arcs
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.ops import using
from exportable_losses.ops.computers import COMPUTERS

F64 = torch.float64
TDT = (0, 1, 2)
LOSSES: dict[str, nn.Module] = {
    "regular": el.TransducerLoss(0, "none"),
    "modified": el.TransducerLoss(0, "none", topology="modified"),
    "constrained": el.TransducerLoss(0, "none", topology="constrained"),
    "TDT": el.TDTLoss(0, TDT, reduction="none"),
    "multi-blank": el.MultiBlankTransducerLoss(1, (2,), reduction="none"),
    "HAT": el.HATLoss(0, "none"),
}
# of the lattice: blank durations, label durations, whether a label may end a path
SHAPES = {
    "regular": ((1,), (0,), True),
    "modified": ((1,), (1,), True),
    "constrained": ((1,), (1,), True),
    "TDT": ((1, 2), TDT, False),
    "multi-blank": ((1, 2), (0,), True),
    "HAT": ((1,), (0,), True),
}


def logits_of(kind: str, *shape: int, seed: int = 0) -> Tensor:
    """Random logits `[..., V]`, with those of the durations behind where there are any."""
    more = len(TDT) if kind == "TDT" else 0
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape[:-1], shape[-1] + more, generator=draw, dtype=F64)


def arcs_of(kind: str, logits: Tensor, labels: list[int]) -> Tensor:
    """The arcs of one item `[T, U+1, K]`, written out from the formulas, node by node."""
    frames, nodes = logits.shape[:2]
    blanks, emits, _ = SHAPES[kind]
    arcs = torch.full((frames, nodes, len(blanks) + len(emits)), -torch.inf, dtype=F64)
    classes = logits.shape[2] - (len(TDT) if kind == "TDT" else 0)
    for t, u in itertools.product(range(frames), range(nodes)):
        z = logits[t, u, :classes]
        p = z.softmax(0)
        if kind == "HAT":
            stay = torch.sigmoid(z[0])
            p = torch.cat([stay[None], (1 - stay) * z[1:].softmax(0)])
        lasting = logits[t, u, classes:].softmax(0)
        label = labels[u] if u < len(labels) else None
        if kind == "TDT":
            arcs[t, u, :2] = (p[0] * lasting[1:]).log()
            if label is not None:
                arcs[t, u, 2:] = (p[label] * lasting).log()
            continue
        arcs[t, u, 0] = p[1 if kind == "multi-blank" else 0].log()
        if kind == "multi-blank":
            arcs[t, u, 1] = p[0].log()
        if label is not None:
            after = logits[t, u + 1].softmax(0)[0].log() if kind == "constrained" else 0.0
            arcs[t, u, -1] = p[label].log() + after
    return arcs


def sequences(kind: str, classes: int, longest: int) -> list[tuple[int, ...]]:
    labels = range(2 if kind == "multi-blank" else 1, classes)
    return [s for n in range(longest + 1) for s in itertools.product(labels, repeat=n)]


def cost(kind: str, logits: Tensor, labels: tuple[int, ...], loss: Any = None) -> Tensor:
    """Of one item `[T, U+1, V]`."""
    targets = torch.tensor([labels], dtype=torch.int64).reshape(1, -1)
    lengths = torch.tensor([len(logits)]), torch.tensor([len(labels)])
    return (loss or LOSSES[kind])(logits[None], targets, *lengths)[0]


@pytest.mark.parametrize("kind", LOSSES)
def test_every_path_of_every_target(kind: str) -> None:
    for frames, labels in itertools.product((1, 2, 4), sequences(kind, 4, 2)):
        logits = logits_of(kind, frames, len(labels) + 1, 4, seed=frames)
        shape = SHAPES[kind]
        expected, _ = arcs_by_enumeration(arcs_of(kind, logits, list(labels)), len(labels), *shape)
        torch.testing.assert_close(cost(kind, logits, labels), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["regular", "modified", "HAT", "TDT"])
def test_the_probabilities_of_all_targets_add_up_to_one(kind: str) -> None:
    """Of a model that does not look at what it has said: a row of logits for each frame.

    A TDT's paths end with a blank: with durations of one frame alone they add up to the last one. Where
    labels take no frame there is no end to them: they are made rare.
    """
    frames, classes = 3, 3
    losses = {"TDT": el.TDTLoss(0, (1,), reduction="none")}
    takes_frame = kind in ("modified", "TDT")
    longest = frames if takes_frame else 14
    draw = torch.Generator().manual_seed(3)
    by_frame = torch.randn(frames, classes, generator=draw, dtype=F64)
    if not takes_frame:
        by_frame[:, 0] += 4  # a label is rare, and fifteen of them are nothing
    if kind == "TDT":
        by_frame = torch.cat([by_frame, torch.zeros(frames, 1, dtype=F64)], 1)
    total = 0.0
    for n in range(longest + 1):
        # all label sequences of a length at once: their probabilities are products over labels, each of two
        for labels in itertools.product(range(1, classes), repeat=n) if n <= 4 else ():
            logits = by_frame.unsqueeze(1).expand(-1, n + 1, -1)
            total += (-cost(kind, logits, labels, losses.get(kind))).exp().item()
        if n > 4:
            merged = torch.cat([by_frame[:, :1], by_frame[:, 1:].logsumexp(1, keepdim=True)], 1)
            logits = merged.unsqueeze(1).expand(-1, n + 1, -1)
            total += (-cost(kind, logits, (1,) * n)).exp().item()
    if kind == "TDT":
        # the last arc is a blank: paths that end with a label are no target's
        log_probs = by_frame[:, :classes].log_softmax(1)
        assert total == pytest.approx(log_probs[-1, 0].exp().item(), rel=1e-9)
    else:
        assert total == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_differences(kind: str) -> None:
    targets = torch.tensor([[2, 3], [3, 2]])
    lengths = torch.tensor([4, 3]), torch.tensor([2, 1])
    logits = logits_of(kind, 2, 4, 3, 4).requires_grad_()
    loss = LOSSES[kind]
    assert torch.autograd.gradcheck(lambda x: loss(x, targets, *lengths), (logits,), fast_mode=True)


def test_gradients_of_the_simple_and_the_pruned_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    am = torch.randn(2, 5, 4, generator=draw, dtype=F64).requires_grad_()
    lm = torch.randn(2, 4, 4, generator=draw, dtype=F64).requires_grad_()
    more = torch.tensor([[1, 2, 3], [3, 1, 1]]), torch.tensor([5, 4]), torch.tensor([3, 2])
    for scales, topology in itertools.product(
        ((0.0, 0.0), (0.3, 0.2)), ("regular", "modified", "constrained")
    ):
        simple = el.SimpleTransducerLoss(0, "none", *scales, 0.1, topology)
        assert torch.autograd.gradcheck(lambda a, b, m=simple: m(a, b, *more), (am, lm), fast_mode=True)
        ranges = el.PruneRanges(2, 0, *scales, 0.1, topology)(am, lm, *more)
        logits = torch.randn(2, 5, 2, 4, generator=draw, dtype=F64).requires_grad_()
        pruned = el.PrunedTransducerLoss(0, "none", 0.1, topology)
        assert torch.autograd.gradcheck(
            lambda x, m=pruned, r=ranges: m(x, r, *more), (logits,), fast_mode=True
        )


@pytest.mark.parametrize("kind", LOSSES)
def test_a_delay_or_a_sigma_moves_what_it_says(kind: str) -> None:
    """By hand, on one path: a single frame with a single label."""
    logits = logits_of(kind, 1, 2, 4)
    if kind in ("TDT", "multi-blank"):
        settings = {"durations": TDT} if kind == "TDT" else {"big_blank_durations": (2,)}
        blank = 0 if kind == "TDT" else 1
        shifted = type(LOSSES[kind])(blank, **settings, sigma=0.3, reduction="none")
        expected = cost(kind, logits, (2,)) + 2 * 0.3  # a label and a blank
        torch.testing.assert_close(cost(kind, logits, (2,), shifted), expected)
    elif kind != "HAT":
        topology = kind
        early = el.TransducerLoss(0, "none", delay_penalty=0.2, topology=topology)
        three = logits_of(kind, 3, 2, 4)
        arcs = arcs_of(kind, three, [2])
        arcs[..., -1] += 0.2 * (1.0 - torch.arange(3.0, dtype=F64))[:, None]  # (T - 1) / 2 - t
        expected, _ = arcs_by_enumeration(arcs, 1, *SHAPES[kind])
        torch.testing.assert_close(cost(kind, three, (2,), early), expected)


def test_fastemit_scales_the_labels_share_of_the_gradient() -> None:
    logits = logits_of("regular", 1, 5, 3, 4).requires_grad_()
    more = torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2])
    plain, early = (el.TransducerLoss(0, "sum", fastemit_lambda=weight) for weight in (0.0, 0.5))
    torch.testing.assert_close(plain(logits, *more), early(logits, *more))
    (without,) = torch.autograd.grad(plain(logits, *more), logits)
    (with_it,) = torch.autograd.grad(early(logits, *more), logits)
    _, emissions, _ = el.TransducerPosterior()(logits, *more)
    label = torch.zeros_like(logits)
    for u, token in enumerate((1, 2)):
        label[:, :, u, token] = 1.0
    share = torch.nn.functional.pad(emissions, [0, 1]).unsqueeze(-1)
    torch.testing.assert_close(with_it - without, 0.5 * share * (logits.softmax(-1) - label).detach())


@pytest.mark.parametrize("kind", LOSSES)
def test_alignments_are_the_best_of_all_paths(kind: str) -> None:
    aligns = {
        "TDT": el.TDTAlign(0, TDT),
        "multi-blank": el.MultiBlankTransducerAlign(1, (2,)),
        "HAT": el.HATAlign(0),
    }
    align = aligns.get(kind) or el.TransducerAlign(0, kind)
    emits = SHAPES[kind][1]
    for frames, labels in itertools.product((1, 3, 4), sequences(kind, 4, 2)):
        logits = logits_of(kind, frames, len(labels) + 1, 4, seed=frames)
        arcs = arcs_of(kind, logits, list(labels))
        best, path = best_arcs(arcs, len(labels), *SHAPES[kind])
        targets = torch.tensor([labels], dtype=torch.int64).reshape(1, -1)
        lengths = torch.tensor([frames]), torch.tensor([len(labels)])
        tokens, starts, ends, scores, path_scores = align(logits[None], targets, *lengths)
        assert tokens[0].tolist() == list(labels)
        assert path_scores[0].item() == pytest.approx(best, abs=1e-9)
        if best == -torch.inf:
            assert not starts.any()
            assert scores.isneginf().all()
            continue
        assert starts[0].tolist() == [t for t, _, _ in path]
        lasting = [emits[k] if kind == "TDT" else 1 for _, _, k in path]
        assert (ends - starts)[0].tolist() == lasting
        blanks = len(SHAPES[kind][0])
        of_arcs = [arcs[t, u, blanks + k].item() for t, u, k in path]
        assert scores[0].tolist() == pytest.approx(of_arcs, abs=1e-9)


@pytest.mark.parametrize("kind", LOSSES)
def test_posteriors_are_what_the_paths_take(kind: str) -> None:
    posteriors = {
        "TDT": el.TDTPosterior(0, TDT),
        "multi-blank": el.MultiBlankTransducerPosterior(1, (2,)),
        "HAT": el.HATPosterior(0),
    }
    posterior = posteriors.get(kind) or el.TransducerPosterior(0, kind)
    for frames, labels in itertools.product((1, 3, 4), sequences(kind, 4, 2)):
        logits = logits_of(kind, frames, len(labels) + 1, 4, seed=frames)
        expected, taken = arcs_by_enumeration(arcs_of(kind, logits, list(labels)), len(labels), *SHAPES[kind])
        targets = torch.tensor([labels], dtype=torch.int64).reshape(1, -1)
        lengths = torch.tensor([frames]), torch.tensor([len(labels)])
        nodes, emissions, costs = posterior(logits[None], targets, *lengths)
        torch.testing.assert_close(costs[0], expected)
        torch.testing.assert_close(nodes[0], taken.sum(2))
        torch.testing.assert_close(emissions[0], taken[:, :-1, len(SHAPES[kind][0]) :].sum(2))


@pytest.mark.parametrize("big", [0, 1, 2])
def test_every_blank_index(big: int) -> None:
    """Classes may stand in any order: the same loss of the same logits, moved."""
    order = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]][big])  # where each class goes
    logits = logits_of("multi-blank", 4, 3, 4)
    moved = torch.empty_like(logits)
    moved[..., order] = logits
    labels = tuple(int(order[k]) for k in (2, 3))
    blank = int(order[1])
    if blank == 0:
        with pytest.raises(ValueError, match="blank_index"):
            cost("multi-blank", moved, labels, el.MultiBlankTransducerLoss(blank, (2,), reduction="none"))
        return
    found = cost("multi-blank", moved, labels, el.MultiBlankTransducerLoss(blank, (2,), reduction="none"))
    torch.testing.assert_close(found, cost("multi-blank", logits, (2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: el.MultiBlankTransducerLoss(1, (2, 4)),
            "blank_index: got 1, expected an index of at least 2",
        ),
        (
            lambda: el.MultiBlankTransducerAlign(0, (2,)),
            "blank_index: got 0, expected an index of at least 1",
        ),
        (lambda: el.TDTLoss(-1), "blank_index: got -1, expected an index of at least 0"),
        (lambda: el.HATLoss(-1), "blank_index: got -1"),
        (lambda: el.TransducerAlign(-1), "blank_index: got -1"),
        (lambda: el.TDTLoss(sigma=-0.1), "sigma: got -0.1, expected a finite number of at least 0"),
        (lambda: el.TDTLoss(sigma=float("nan")), "sigma: got nan"),
        (lambda: el.TransducerLoss(fastemit_lambda=-2.0), "fastemit_lambda: got -2.0"),
        (lambda: el.TransducerLoss(delay_penalty=float("inf")), "delay_penalty: got inf, expected a finite"),
        (lambda: el.TDTLoss(durations=(0, 1, 1)), r"durations: got \(0, 1, 1\), expected different"),
        (lambda: el.TDTLoss(durations=(0,)), r"durations: got \(0,\), expected one above 0"),
    ],
)
def test_settings_that_no_lattice_has(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_may_change_and_arcs_may_not() -> None:
    logits = logits_of("regular", 1, 5, 3, 4)
    more = torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2])
    loss = el.TransducerLoss()
    before = loss(logits, *more)
    loss.delay_penalty = 0.3
    torch.testing.assert_close(loss(logits, *more), el.TransducerLoss(delay_penalty=0.3)(logits, *more))
    loss.delay_penalty = 0.0
    assert loss(logits, *more) == before
    tdt = el.TDTLoss(0, TDT)
    tdt.sigma = 0.2
    wide = logits_of("TDT", 1, 5, 3, 4)
    torch.testing.assert_close(tdt(wide, *more), el.TDTLoss(0, TDT, 0.2)(wide, *more))
    with pytest.raises(
        AttributeError, match=r"TDTLoss.durations: it was made with \(0, 1, 2\); make another"
    ):
        tdt.durations = (0, 2)


@pytest.mark.parametrize(
    "loss",
    [
        el.TDTLoss(sigma=0),
        el.TransducerLoss(fastemit_lambda=1),
        el.MultiBlankTransducerLoss(sigma=0),
        el.SimpleTransducerLoss(lm_only_scale=0),
        el.PrunedTransducerLoss(delay_penalty=1),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_whole_numbers_are_weights(loss: nn.Module) -> None:
    inputs = el.catalog.find(loss).example_inputs()
    torch.testing.assert_close(torch.jit.script(loss)(**inputs), loss(**inputs))


def test_where_the_cost_is_infinite_the_gradient_is_zero() -> None:
    """Whatever the rows hold that no path takes."""
    x = torch.zeros(1, 1, 3, 4)
    x[0, 0, 0, 3] = torch.nan
    x.requires_grad_()
    cost = el.TransducerLoss(0, "none", topology="modified")(
        x, torch.tensor([[1, 2]]), torch.tensor([1]), torch.tensor([2])
    )
    if cost.isinf().all():  # the native library; plain torch has a NaN there
        (grad,) = torch.autograd.grad(cost.sum(), x)
        assert not grad.any()


@pytest.mark.parametrize("computer", ["native", "numba", "torch"])
def test_the_operator_refuses_weights_of_other_items(computer: str) -> None:
    arcs, lengths = torch.zeros(3, 2, 2, 2), torch.ones(3, dtype=torch.int64)
    operator = torch.ops.exportable_losses.arcs_loss_grad
    why = COMPUTERS[computer].unavailable(arcs)
    if why:
        pytest.skip(f"{computer}: {why}")
    with using(computer):
        for weights in (torch.ones(1), torch.tensor(1.0), torch.ones(3, 1)):
            with pytest.raises(ValueError, match=r"grad_costs: got shape"):
                operator(arcs, lengths, lengths, [1], [0], False, weights)
        for durations, name in (([0], "blank"), ([], "blank")):
            with pytest.raises(ValueError, match=f"{name}_durations: got"):
                operator(
                    arcs[..., : len(durations) + 1], lengths, lengths, durations, [0], False, torch.ones(3)
                )
        with pytest.raises(ValueError, match=r"label_durations: got \[-1\]"):
            operator(arcs, lengths, lengths, [1], [-1], False, torch.ones(3))


def test_no_second_derivative_is_made_up() -> None:
    draw = torch.Generator().manual_seed(0)
    am, lm = (torch.randn(1, n, 4, generator=draw, dtype=F64).requires_grad_() for n in (3, 2))
    more = torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1])
    loss, _ = el.functional.simple_loss_and_ranges(am, lm, *more)
    for value in (loss, el.SimpleTransducerLoss()(am, lm, *more)):
        (grad,) = torch.autograd.grad(value, am, create_graph=True)
        with pytest.raises(NotImplementedError, match="is not implemented"):
            torch.autograd.grad(grad.sum(), am)


def test_logits_without_tokens_or_labels() -> None:
    more = torch.zeros(1, 0, dtype=torch.int64), torch.tensor([2]), torch.tensor([0])
    with pytest.raises(ValueError, match="logits: got size 3 along dimension 3, expected more than the 3"):
        el.TDTLoss(0, TDT)(torch.zeros(1, 2, 1, 3), *more)
    with pytest.raises(ValueError, match="logits: got 1 class, expected the blank and others"):
        el.HATLoss()(torch.zeros(1, 2, 1, 1), *more)
