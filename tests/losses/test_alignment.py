"""The best path of a target, against every path there is: wildcards, free ends, priors, and the kernel."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from enumeration import collapse
from torch import Tensor

import exportable_losses as el
from exportable_losses.lattice.wildcard import WILDCARDS
from exportable_losses.ops import native, plain

RECORDED = Path(__file__).parents[1] / "data" / "lattices" / "wildcard_ctc"
TOKENS = [
    case
    for case in json.loads(RECORDED.with_suffix(".json").read_text())["cases"]
    if "kind" in case["settings"]
]


def test_there_are_cases() -> None:
    assert len(TOKENS) == 16


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("case", TOKENS, ids=[case["name"] for case in TOKENS])
def test_wildcards_cost_what_they_were_recorded_to(case: dict, scripted: bool) -> None:
    with np.load(RECORDED.with_suffix(".npz")) as arrays:
        x = {name: torch.from_numpy(arrays[key]) for name, key in (case["inputs"] | case["outputs"]).items()}
    settings = case["settings"]
    loss = el.CTCLoss(settings["blank"], "none", zero_infinity=False, wildcard=settings["kind"])
    logits = x["logits"].requires_grad_()
    given = logits.log_softmax(-1), x["targets"], x["input_lengths"], x["target_lengths"]
    costs = (torch.jit.script(loss) if scripted else loss)(*given)
    torch.testing.assert_close(costs, x["cost"], rtol=1e-10, atol=1e-10)
    costs[costs.isfinite()].sum().backward()
    torch.testing.assert_close(logits.grad, x["grad_logits"], rtol=1e-9, atol=1e-9)


def emission(log_probs: Tensor, blank: int, wildcard: str) -> Tensor:
    """What a wildcard has at each frame `[T]`, by its definition."""
    kept = log_probs.exp()[:, [c for c in range(log_probs.shape[1]) if c != blank]]
    named = {"max": kept.amax(1), "sum": kept.sum(1), "mean": kept.mean(1), "zero": torch.ones(len(kept))}
    return named[wildcard].double().log()


def best_by_enumeration(scores: Tensor, labels: tuple[int, ...], blank: int, free_ends: bool) -> float:
    """The best of all paths through `[T, N]`; with free ends, of those through any piece, label to label."""
    frames = scores.shape[0]
    pieces = [(a, b) for a in range(frames + 1) for b in range(a, frames + 1)] if free_ends else [(0, frames)]
    best = -torch.inf
    for a, b in pieces:
        for path in itertools.product(range(scores.shape[1]), repeat=b - a):
            if free_ends and blank in (*path[:1], *path[-1:]):
                continue
            if collapse(path, blank) == labels:
                best = max(best, float(scores[torch.arange(a, b), list(path)].sum()))
    return best


@pytest.mark.parametrize("free_ends", [False, True])
@pytest.mark.parametrize("wildcard", WILDCARDS)
@pytest.mark.parametrize("blank", [0, 2])
def test_the_best_of_all_paths(blank: int, wildcard: str, free_ends: bool) -> None:
    generator = torch.Generator().manual_seed(blank)
    log_probs = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    priors = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    a, b = (c for c in range(3) if c != blank)
    star = 3 if wildcard != "none" else a
    for labels in ((), (a,), (a, b), (b, b), (star,), (star, b), (a, star, b), (a, a, b, b)):
        for log_priors in (None, priors):
            scores = log_probs[0] if log_priors is None else log_probs[0] - log_priors.float()
            if wildcard != "none":
                scores = torch.cat([scores, emission(log_probs[0], blank, wildcard)[:, None]], 1)
            wanted = best_by_enumeration(scores, labels, blank, free_ends)
            align = el.CTCAlign(blank, wildcard, free_ends, log_priors)
            targets = torch.tensor([labels], dtype=torch.int64).reshape(1, len(labels))
            tokens, starts, ends, means, path = align(
                log_probs, targets, torch.tensor([5]), torch.tensor([len(labels)])
            )
            assert path.item() == pytest.approx(wanted, abs=1e-6), labels
            assert tokens.tolist() == [list(labels)]
            if path.isfinite():
                flat = [
                    edge for pair in zip(starts[0].tolist(), ends[0].tolist(), strict=True) for edge in pair
                ]
                assert flat == sorted(flat)
                assert (ends > starts).all()
                raw = log_probs[0]
                if wildcard != "none":
                    raw = torch.cat([raw, emission(raw, blank, wildcard)[:, None]], 1)
                for i, label in enumerate(labels):  # without priors, so that it is a probability
                    assert means[0, i].item() == pytest.approx(
                        raw[starts[0, i] : ends[0, i], label].mean().item(), abs=1e-6
                    )


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int, bool]:
    """A batch with ties, impossible scores and NaN, lengths of all kinds, and labels of several strips."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    frames, labels = rng.choice([0, 1, 5, 63, 64, 65, 300]), rng.choice([0, 1, 2, 15, 16, 40, 255, 256, 300])
    batch, classes = rng.randint(1, 3), rng.choice([2, 3, 8, 300])
    blank = rng.randrange(classes)
    scores = torch.randn(batch, frames, classes).log_softmax(-1)
    if rng.random() < 0.4:
        scores = torch.randint(-2, 1, (batch, frames, classes)).float()
    if rng.random() < 0.2 and frames:
        wrong = rng.choice([torch.nan, torch.inf, -torch.inf])
        scores[0, rng.randrange(frames), rng.randrange(classes)] = wrong
    targets = torch.randint(classes - 1, (batch, labels))
    targets += (targets >= blank).long()
    lengths = torch.randint(labels + 1, (batch,))
    if rng.random() < 0.6:
        lengths = lengths.clamp(max=frames // 2)
    return scores, targets, torch.randint(frames + 1, (batch,)), lengths, blank, rng.random() < 0.5


@pytest.mark.skipif(bool(native.unavailable(torch.zeros(1))), reason="native: not here")
def test_the_kernel_takes_the_path_that_the_recursion_takes() -> None:
    for seed in range(150):
        *lattice, free_ends = drawn(seed)
        for found, wanted in zip(
            native.ctc_align(*lattice, free_ends), plain.ctc_align(*lattice, free_ends), strict=True
        ):
            assert torch.equal(found.nan_to_num(nan=7.0), wanted.nan_to_num(nan=7.0)), seed


@pytest.mark.skipif(bool(native.unavailable(torch.zeros(1))), reason="native: not here")
def test_the_kernel_occupies_the_states_that_the_recursion_occupies() -> None:
    for seed in range(80):
        *lattice, _ = drawn(seed)
        for found, wanted in zip(native.ctc_posterior(*lattice), plain.ctc_posterior(*lattice), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=3e-5, equal_nan=True)


@pytest.mark.skipif(bool(native.unavailable(torch.zeros(1))), reason="native: not here")
def test_states_add_up_to_one_however_long_it_is() -> None:
    scores = 3 * torch.randn(1, 6000, 30, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(300).remainder(29).add(1).unsqueeze(0)
    _, states = native.ctc_posterior(
        scores.log_softmax(-1), targets, torch.tensor([6000]), torch.tensor([300]), 0
    )
    torch.testing.assert_close(states.double().sum(2), torch.ones(1, 6000).double(), rtol=0, atol=3e-7)


@pytest.mark.skipif(bool(native.unavailable(torch.zeros(1))), reason="native: not here")
def test_the_kernel_takes_the_arcs_that_the_recursion_takes() -> None:
    """Of transducers: any durations in any order, ties, impossible arcs, NaN."""
    for seed in range(300):
        torch.manual_seed(seed)
        rng = random.Random(seed)
        batch, frames, labels = rng.randint(1, 3), rng.choice([0, 1, 2, 5, 12]), rng.choice([0, 1, 2, 5])
        blanks, tokens = (
            rng.sample([1, 2, 3, 4], rng.randint(1, 3)),
            rng.sample([0, 1, 2, 3], rng.randint(1, 3)),
        )
        arcs = torch.randn(batch, frames, labels + 1, len(blanks) + len(tokens))
        if rng.random() < 0.5:
            arcs = torch.randint(-2, 1, arcs.shape).float()
        if rng.random() < 0.2:
            arcs[torch.rand(arcs.shape) < 0.3] = -torch.inf
        if rng.random() < 0.2 and arcs.numel():
            arcs.view(-1)[rng.randrange(arcs.numel())] = rng.choice([torch.nan, torch.inf])
        lengths = torch.randint(frames + 1, (batch,)), torch.randint(labels + 1, (batch,))
        lattice = (arcs, *lengths, blanks, tokens, rng.random() < 0.5)
        for found, wanted in zip(native.arcs_align(*lattice), plain.arcs_align(*lattice), strict=True):
            torch.testing.assert_close(found, wanted, equal_nan=True, msg=str(seed))


@pytest.mark.skipif(bool(native.unavailable(torch.zeros(1))), reason="native: not here")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_long_item_on_several_threads(dtype: torch.dtype, threads: int) -> None:
    """Blocks of frames by strips of labels, in whatever order: the same path and the same bits."""
    torch.manual_seed(3)
    scores = torch.randn(1, 1700, 40).log_softmax(-1).to(dtype)
    targets = torch.randint(1, 40, (1, 800))
    lattice = (scores, targets, torch.tensor([1650]), torch.tensor([790]), 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        states, path = native.ctc_align(*lattice, False)
    finally:
        torch.set_num_threads(before)
    wanted_states, wanted = plain.ctc_align(*lattice, False)
    assert torch.equal(states, wanted_states)
    assert torch.equal(path, wanted)


@pytest.mark.skipif(bool(native.unavailable(torch.zeros(1))), reason="native: not here")
def test_a_lattice_whose_states_fit_nowhere() -> None:
    """8.7e9 of them, most within reach of no path; those that are kept are kept again of a part."""
    generator = torch.Generator().manual_seed(0)
    frames, labels, classes = 93_500, 93_200, 8
    steps = torch.randint(1, classes - 1, (labels,), generator=generator)  # no label is there twice in a row
    targets = 1 + steps.cumsum(0).remainder(classes - 1)
    scores = (2 * torch.randn(frames, classes, generator=generator)).log_softmax(-1)
    lattice = scores.unsqueeze(0), targets.unsqueeze(0), torch.tensor([frames]), torch.tensor([labels]), 0
    states, path = native.ctc_align(*lattice, False)
    assert path.item() == pytest.approx(best_of_a_band(scores.numpy(), targets.numpy()), rel=1e-6)
    state = states[0]
    moves, odd = state.diff(), state.remainder(2) == 1
    assert bool(((moves == 0) | (moves == 1) | ((moves == 2) & odd[1:])).all())
    assert state[0] <= 1
    assert state[-1] >= 2 * labels - 1
    classes_of = torch.where(odd, targets[(state // 2).clamp(max=labels - 1)], 0)
    own = scores.double().gather(1, classes_of.unsqueeze(1)).sum()
    assert path.item() == pytest.approx(own.item(), rel=1e-6)


def best_of_a_band(scores: np.ndarray, targets: np.ndarray) -> float:
    """Viterbi over what is within reach, of a target without repetitions and D frames more than labels.

    At frame t these are the labels t - D to t, and the blanks before them.
    """
    spare = len(scores) - len(targets)
    padded = np.concatenate([np.zeros(spare, int), targets, np.zeros(spare, int)])
    blank, label = np.full((2, spare + 2), -np.inf)  # the last is out of reach, but before the first frame
    blank[-1] = 0.0
    for t, y in enumerate(scores.astype(np.float64)):
        blanks = np.maximum(blank[1:], label[:-1]) + y[0]
        labels = np.maximum(np.maximum(label[1:], blank[1:]), label[:-1]) + y[padded[t : t + spare + 1]]
        labels[: max(spare - t, 0)] = labels[len(targets) - t + spare :] = -np.inf  # there are none
        blank, label = np.append(blanks, -np.inf), np.append(labels, -np.inf)
    return float(max(blank[1], label[0]))


@pytest.mark.parametrize("wildcard", WILDCARDS)
def test_costs_less_priors_have_their_own_gradient(wildcard: str) -> None:
    """Of scores that are no softmax's, too; what lies behind the frames has none."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64).requires_grad_()
    priors = torch.randn(5, generator=generator).log_softmax(0)
    star = 2 if wildcard == "none" else 5
    more = torch.tensor([[1, star, 3], [2, 2, 0]]), torch.tensor([7, 5]), torch.tensor([3, 2])
    loss = el.CTCLoss(0, "none", wildcard=wildcard, log_priors=priors)
    for x in (scores, scores.detach().log_softmax(-1).requires_grad_()):
        assert torch.autograd.gradcheck(lambda x: loss(x, *more), (x,))
    torch.testing.assert_close(torch.jit.script(loss)(scores, *more), loss(scores, *more))
    if wildcard == "none":
        plain_loss = el.CTCLoss(0, "none")(scores - priors.double(), *more)
        torch.testing.assert_close(loss(scores, *more), plain_loss)
    garbage = scores.detach().clone()
    garbage[1, 5:] = torch.nan
    loss(garbage.requires_grad_(), *more).sum().backward()
    assert not garbage.grad[1, 5:].any()
    assert loss(scores, *more[:1], torch.tensor([2, 5]), more[2])[0].item() == 0  # no room: as without priors


@pytest.mark.parametrize("wildcard", WILDCARDS[1:])
def test_padding_has_no_gradient(wildcard: str) -> None:
    scores = torch.randn(1, 6, 4).log_softmax(-1)
    scores[:, 4:] = torch.nan
    scores.requires_grad_()
    loss = el.CTCLoss(wildcard=wildcard)
    loss(scores, torch.tensor([[1, 4]]), torch.tensor([4]), torch.tensor([2])).backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[:, :4].any()
    assert not scores.grad[:, 4:].any()


def test_priors_that_are_none() -> None:
    for wrong in ([0.5, 0.5], [[-1.0]], [float("-inf"), -1.0]):
        with pytest.raises(ValueError, match="log_priors: got"):
            el.CTCAlign(0, log_priors=wrong)
    given = torch.zeros(1, 2, 3), torch.ones(1, 1).long(), torch.ones(1), torch.ones(1)
    for row in (el.CTCAlign(0, log_priors=[-1.0, -1.0]), el.CTCLoss(0, log_priors=[-1.0, -1.0])):
        with pytest.raises(ValueError, match="log_priors: got 2 classes, expected 3, one for each of"):
            row(*given)
        with pytest.raises(torch.jit.Error, match="log_priors: got 2 classes, expected 3, one for each of"):
            torch.jit.script(row)(*given)


def test_scores_that_no_exponential_holds() -> None:
    """A wildcard's gradient goes by its exponential; the cost is what it is."""
    scores = torch.randn(1, 6, 4, dtype=torch.float64)
    given = torch.tensor([[1, 4]]), torch.tensor([6]), torch.tensor([2])
    loss = el.CTCLoss(0, "none", wildcard="max")
    torch.testing.assert_close(loss(1000 + scores, *given) + 6000, loss(scores, *given))


def test_frames_of_no_probability() -> None:
    """They cost infinity, or lie outside of a keyword; neither makes a NaN."""
    scores = torch.randn(1, 6, 4).log_softmax(-1)
    scores[0, 5] = -torch.inf
    given = torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2])
    priors = torch.full((4,), 0.25).log()
    assert el.CTCLoss(0, "none", zero_infinity=False, log_priors=priors)(scores, *given).item() == torch.inf
    odds, _, ends = el.CTCKeywordScore()(scores, *given)
    assert odds.isfinite().all()
    assert ends.item() < 6


def test_what_cannot_be_aligned_has_no_gradient_less_priors() -> None:
    scores = torch.randn(1, 2, 4).log_softmax(-1).requires_grad_()
    loss = el.CTCLoss(0, "sum", zero_infinity=False, log_priors=torch.tensor([0.4, 0.3, 0.2, 0.1]).log())
    cost = loss(scores, torch.tensor([[1, 2, 3]]), torch.tensor([2]), torch.tensor([3]))
    cost.backward()
    assert cost.item() == torch.inf
    assert not scores.grad.any()


def test_priors_are_a_modules_own() -> None:
    priors = torch.full((3,), 1 / 3).log().requires_grad_()
    align, loss = el.CTCAlign(log_priors=priors), el.CTCLoss(log_priors=priors)
    loss.log_priors.copy_(torch.tensor([-1.0, -2.0, -3.0]))
    assert torch.equal(align.log_priors, priors.detach())
    assert not loss.log_priors.requires_grad


def test_a_wildcard_is_a_label_where_there_is_one() -> None:
    given = torch.zeros(1, 2, 3), torch.tensor([[3]]), torch.ones(1), torch.ones(1)
    with pytest.raises(ValueError, match=r"targets: .*expected an index in \[0, 2\]"):
        el.CTCAlign(0)(*given)
    assert el.CTCAlign(0, "zero")(*given)[4].item() == 0
    with pytest.raises(ValueError, match=r"targets: .*expected an index in \[0, 3\]"):
        el.CTCLoss(0, wildcard="zero")(given[0], torch.tensor([[4]]), *given[2:])
    with pytest.raises(ValueError, match="wildcard: got 'any', expected"):
        el.CTCLoss(0, wildcard="any")
    with pytest.raises(ValueError, match="log_probs: got 1 class, expected some besides the blank"):
        el.CTCAlign(0, "mean")(torch.zeros(1, 2, 1), torch.tensor([[1]]), *given[2:])
