"""The hard cases of the lattices, as ONNX files, against the enumeration of every path."""

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from enumeration import (
    assignment_by_enumeration,
    best_transducer_path,
    ctc_by_enumeration,
    label_sequences,
    padded,
    transducer_by_enumeration,
    transducer_occupation,
)
from export_cases import Case, Inputs
from onnx_runs import RUNTIMES, Run
from torch import Tensor

CLASSES = 3
KINDS = ("ordinary", "huge", "with -inf", "one class")
# float32 scores of up to 4e4 and up to five of them summed; float64 to ten digits
RTOL = {torch.float32: 8 * float(np.finfo(np.float32).eps), torch.float64: 1e-10}
# the first blank and the last, each in one of the dtypes, of which neither knows; one between is the same
# comparison of labels with a number
QUICK = ((0, torch.float32), (2, torch.float64))
each_blank = pytest.mark.parametrize(
    ("blank", "dtype"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.thorough, id="-".join(map(str, each)))
        for each in itertools.product(range(CLASSES), RTOL)
    ],
)


@pytest.fixture(params=RUNTIMES)
def runs(request: pytest.FixtureRequest) -> Callable[[Case], Run]:
    """A case's file in one of the runtimes."""
    return lambda case: RUNTIMES[request.param](case.graph())


def lattice(row: str, blank: int, dtype: torch.dtype = torch.float32, **settings: object) -> Case:
    """A case that returns costs."""
    name = f"lattice_{blank}_{str(dtype).removeprefix('torch.')}{''.join(f'_{v}' for v in settings.values())}"
    letter = "V" if row.lower().startswith("transducer") else "C"
    reduction = {"reduction": "none"} if row in ("ctc_loss", "transducer_loss") else {}
    settings = {"blank_index": blank, **reduction, **settings}
    return Case(row, name, settings, sizes={letter: CLASSES}, dtype=dtype)


def scores(kind: str, *shape: int) -> Tensor:
    """Log-probabilities in float64: of ordinary logits, of ±1e4, all equal, or many impossible.

    They are numbers of float32, so that what is enumerated is the same for both dtypes.
    """
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "huge":
        return (1e4 * logits.sign() + logits).log_softmax(-1)
    log_probs = (torch.zeros_like(logits) if kind == "equal" else logits).log_softmax(-1)
    if kind == "with -inf":
        log_probs[torch.rand(shape, generator=generator) < 0.3] = -torch.inf
    if kind == "one class":  # a frame in the middle that can be one class alone
        log_probs[shape[0] // 2] = -torch.inf
        log_probs[shape[0] // 2, 1] = 0.0
    return log_probs.float().double()


class Enumerated:
    """What enumeration gives of the scores of a kind: once, for every dtype and runtime."""

    def __init__(self, kind: str, blank: int, *shape: int) -> None:
        self.item = scores("ordinary" if kind == "gone" else kind, *shape)
        if kind == "gone":  # a label that no path can emit
            self.item[..., (blank + 1) % CLASSES] = -torch.inf
        self.ctc = functools.cache(lambda labels: ctc_by_enumeration(self.item, labels, blank)[0])
        self.transducer = functools.cache(
            lambda labels: transducer_by_enumeration(self.item[:, : len(labels) + 1], labels, blank)
        )
        self.occupation = functools.cache(lambda labels: transducer_occupation(self.item, labels, blank))
        self.best = functools.cache(lambda labels: alignment(self.item, labels, blank))


def alignment(item: Tensor, labels: tuple[int, ...], blank: int) -> dict[str, float | list[float]]:
    """The best path as the row gives it, without padding."""
    score, frames = best_transducer_path(item, labels, blank)
    if score == -np.inf:
        none = [0.0] * len(labels)
        return {"path_scores": score, "starts": none, "ends": none, "scores": [score] * len(labels)}
    log_probs = item.log_softmax(-1)
    scores = [log_probs[t, u, labels[u]].item() for u, t in enumerate(frames)]
    return {"path_scores": score, "starts": frames, "ends": [t + 1 for t in frames], "scores": scores}


enumerated = functools.cache(Enumerated)


def agree(got: np.ndarray, expected: Tensor, dtype: torch.dtype, exponents: Tensor | None = None) -> None:
    """Equal but for rounding, that of its `exponents` where it is a probability."""
    rounded = expected if exponents is None else exponents
    largest = max([1.0, *rounded[rounded.isfinite()].abs().tolist()])
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=RTOL[dtype] * largest)


def in_dtype(dtype: torch.dtype, **inputs: Tensor) -> Inputs:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def every_sequence(
    item: Tensor, blank: int, longest: int, width: int
) -> tuple[Inputs, list[tuple[int, ...]]]:
    """A batch of every target of up to `longest` labels for one item, with garbage behind each."""
    sequences = label_sequences(CLASSES, blank, longest)
    targets, target_lens = padded(sequences, width, padding=-1)
    targets[1::2][targets[1::2] == -1] = 9999
    log_probs = item.expand(len(sequences), *item.shape).contiguous()
    lens = torch.ones(len(sequences), dtype=torch.float64)
    return {
        "scores": log_probs,
        "targets": targets,
        "input_lens": lens,
        "target_lens": target_lens,
    }, sequences


@each_blank
def test_ctc_of_every_label_sequence(blank: int, dtype: torch.dtype, runs: Callable[[Case], Run]) -> None:
    # from the empty target to those too long to align; repeated labels are among them
    strict = runs(lattice("ctc_loss", blank, dtype, zero_infinity=False))
    lenient = runs(lattice("ctc_loss", blank, dtype))
    for kind in KINDS:
        for frames in (1, 2, 3, 4):
            known = enumerated(kind, blank, frames, CLASSES)
            inputs, sequences = every_sequence(known.item, blank, frames + 1, frames + 2)
            call = in_dtype(dtype, log_probs=inputs.pop("scores"), **inputs)
            expected = torch.stack([known.ctc(labels) for labels in sequences])
            assert expected.isinf().any()
            agree(strict(call)["loss"], expected, dtype)
            agree(lenient(call)["loss"], expected.masked_fill(expected.isinf(), 0.0), dtype)


@each_blank
def test_transducer_of_every_label_sequence(
    blank: int, dtype: torch.dtype, runs: Callable[[Case], Run]
) -> None:
    run = runs(lattice("transducer_loss", blank, dtype))
    longest = 3
    for kind in ("ordinary", "huge"):
        for frames in (1, 2, 3):
            known = enumerated(kind, blank, frames, longest + 1, CLASSES)
            inputs, sequences = every_sequence(known.item, blank, longest, longest)
            call = in_dtype(dtype, logits=inputs.pop("scores"), **inputs)
            agree(run(call)["loss"], torch.stack([known.transducer(s) for s in sequences]), dtype)


def test_transducer_of_impossible_classes(runs: Callable[[Case], Run]) -> None:
    run = runs(lattice("transducer_loss", 0))
    item = scores("ordinary", 3, 3, CLASSES)
    item[..., 2] = -torch.inf  # no path can emit it
    item[1, 1] = torch.tensor([-torch.inf, 0.0, -torch.inf])
    inputs, sequences = every_sequence(item, 0, 2, 2)
    call = in_dtype(torch.float32, logits=inputs.pop("scores"), **inputs)
    expected = torch.stack([transducer_by_enumeration(item[:, : len(s) + 1], s, 0) for s in sequences])
    assert expected.isinf().any()
    assert expected.isfinite().any()
    agree(run(call)["loss"], expected, torch.float32)


@each_blank
def test_transducer_paths_of_every_label_sequence(
    blank: int, dtype: torch.dtype, runs: Callable[[Case], Run]
) -> None:
    # the posterior, and the best path with its rule for paths that are as good
    posterior, align = (runs(lattice(f"Transducer{row}", blank, dtype)) for row in ("Posterior", "Align"))
    longest = 3
    for kind in ("ordinary", "huge", "equal", "gone"):
        for frames in (1, 2, 3):
            known = enumerated(kind, blank, frames, longest + 1, CLASSES)
            inputs, sequences = every_sequence(known.item, blank, longest, longest)
            call = in_dtype(dtype, logits=inputs.pop("scores"), **inputs)
            nodes, emissions, costs = zip(*map(known.occupation, sequences), strict=True)
            got = posterior(call)
            exponents = torch.tensor(costs, dtype=torch.float64)
            agree(got["costs"], exponents, dtype)
            agree(got["posteriors"], torch.stack(nodes), dtype, exponents)
            agree(got["emissions"], torch.stack(emissions), dtype, exponents)
            best = align(call)
            for at, labels in enumerate(sequences):
                behind = [0] * (longest - len(labels))
                assert best["tokens"][at].tolist() == [*labels, *[-1] * len(behind)]
                for name, values in known.best(labels).items():
                    values = [*values, *behind] if isinstance(values, list) else values
                    agree(best[name][at], torch.tensor(values, dtype=torch.float64), dtype)


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss"])
def test_targets_of_no_width(row: str, runs: Callable[[Case], Run]) -> None:
    for frames in (1, 2, 5):
        item = scores("ordinary", frames, CLASSES)
        call = in_dtype(
            torch.float32,
            **{"log_probs": item[None]} if row == "ctc_loss" else {"logits": item[None, :, None]},
            targets=torch.zeros(1, 0, dtype=torch.int64),
            input_lens=torch.ones(1),
            target_lens=torch.zeros(1),
        )
        agree(runs(lattice(row, 0))(call)["loss"], -item[:, 0].sum()[None], torch.float32)


@pytest.mark.parametrize("garbage", [-torch.inf, torch.inf, 1e30, -1e30])
@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss", "TransducerPosterior", "TransducerAlign"])
def test_nothing_behind_a_length_is_read(row: str, garbage: float, runs: Callable[[Case], Run]) -> None:
    # every item is shorter than the batch, in frames and in labels
    case = lattice(row, 0)
    run = runs(case)
    for frames, input_lengths in ((8, (4, 5, 7)), (9, (1, 2, 8)), (10, (4, 5, 6))):
        call = case.inputs() | case.entry.example_inputs(3, B=3, T=frames, **dict(case.sizes))
        call["input_lens"] = torch.tensor(input_lengths) / frames
        call["target_lens"] = torch.tensor([1, 0, 2]) / call["targets"].shape[1]
        name = case.entry.inputs[0].name
        clean, filled = dict(call), {**call, name: call[name].clone(), "targets": call["targets"].clone()}
        for item, (t, u) in enumerate(zip(input_lengths, (1, 0, 2), strict=True)):
            filled[name][item, t:] = garbage
            filled["targets"][item, u:] = 10**9
            if name == "logits":
                filled[name][item, :, u + 1 :] = garbage
        truth = case.truth(clean)
        for call in (clean, filled):
            got = run(call)
            for output, expected in truth.items():
                assert expected.isfinite().all()
                agree(got[output], expected, torch.float32, truth.get("costs"))


@each_blank
def test_ctc_distillation_of_every_teacher(
    blank: int, dtype: torch.dtype, runs: Callable[[Case], Run]
) -> None:
    # all teachers of a few frames, one a batch of its own since the row returns a mean
    run = runs(lattice("ctc_loss_kd", blank, dtype))
    for kind in KINDS:
        for frames in (1, 2, 3):
            known = enumerated(kind, blank, frames, CLASSES)
            for path in torch.cartesian_prod(*[torch.arange(CLASSES)] * frames).reshape(-1, frames):
                teacher = torch.nn.functional.one_hot(path, CLASSES).to(torch.float64)
                call = in_dtype(
                    dtype, log_probs=known.item[None], targets=teacher[None], input_lens=torch.ones(1)
                )
                merged = path.unique_consecutive()
                labels = tuple(merged[merged != blank].tolist())
                cost = known.ctc(labels) / max(len(labels), 1)
                agree(run(call)["loss"], cost.masked_fill(cost.isinf(), 0.0), dtype)


@pytest.mark.parametrize("sources", range(1, 7))
def test_the_best_permutation_of_all(sources: int, runs: Callable[[Case], Run]) -> None:
    run = runs(Case("PitWrapper"))
    call = Case("PitWrapper").entry.example_inputs(5, B=4, X0=3, S=sources)
    costs = (call["preds"].double().unsqueeze(-2) - call["targets"].double().unsqueeze(-1)).square().mean(1)
    best = [assignment_by_enumeration(item) for item in costs]
    got = run(call)
    agree(got["loss"], torch.stack([cost for cost, _ in best]), torch.float32)
    assert got["permutations"].tolist() == [list(permutation) for _, permutation in best]


def test_the_first_of_equal_permutations(runs: Callable[[Case], Run]) -> None:
    zeros = torch.zeros(2, 3, 4)
    got = runs(Case("PitWrapper"))({"preds": zeros, "targets": zeros})
    assert got["permutations"].tolist() == [[0, 1, 2, 3]] * 2


def test_ten_sources(runs: Callable[[Case], Run]) -> None:
    # 10! permutations cannot be looked at: the sources are shuffled, so the best one is known
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(2, 20, 10, generator=generator)
    order = torch.stack([torch.randperm(10, generator=generator) for _ in range(2)])
    preds = targets.gather(2, order[:, None].expand_as(targets)) + 0.01
    got = runs(Case("PitWrapper"))({"preds": preds, "targets": targets})
    np.testing.assert_array_equal(got["permutations"], order.argsort(1))
    np.testing.assert_allclose(got["loss"], 1e-4, rtol=1e-3)  # 0.01 added to numbers near one: ten bits left
