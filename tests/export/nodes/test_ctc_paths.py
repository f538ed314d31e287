"""The occupation and the best path of CTC's lattice against every path: eager, scripted and exported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from enumeration import (
    collapse,
    ctc_by_enumeration,
    ctc_lattice_by_enumeration,
    ctc_paths,
    label_sequences,
    padded,
)
from export_cases import Case, Inputs
from onnx_runs import RUNTIMES, Arrays, Run, as_arrays
from torch import Tensor

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.runtime import LossSession

F64 = torch.float64
ROWS = {"CTCPosterior": el.CTCPosterior, "CTCAlign": el.CTCAlign}
CLASSES = 3
KINDS = ("ordinary", "huge", "with -inf", "whole")


def scores(kind: str, *shape: int) -> Tensor:
    """Log-probabilities in float64: of ordinary logits, of huge ones, many impossible, or many ties."""
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=F64)
    if kind == "huge":
        return (1e4 * logits.sign() + logits).log_softmax(-1)
    if kind == "whole":  # sums of them are exact, so that many paths are equally good
        return -torch.randint(2, shape, generator=generator).to(F64)
    log_probs = logits.log_softmax(-1)
    if kind == "with -inf":
        log_probs[torch.rand(shape, generator=generator) < 0.3] = -torch.inf
    return log_probs


def batch_of(items: list[tuple[Tensor, tuple[int, ...]]], garbage: float = 0.0, more: int = 0) -> Inputs:
    """Items (log-probabilities and labels) padded with garbage, `more` than they need."""
    frames = max(len(log_probs) for log_probs, _ in items) + more
    width = max(len(labels) for _, labels in items) + more
    log_probs = torch.full((len(items), frames, items[0][0].shape[1]), garbage, dtype=F64)
    for row, (item, _) in zip(log_probs, items, strict=True):
        row[: len(item)] = item
    targets, target_lens = padded([labels for _, labels in items], width, padding=-99)
    targets[1::2][targets[1::2] == -99] = 9999
    lens = torch.tensor([len(item) / frames for item, _ in items], dtype=F64)
    return {"log_probs": log_probs, "targets": targets, "input_lens": lens, "target_lens": target_lens}


def spans(states: tuple[int, ...] | None, labels: int) -> tuple[list[int], list[int]]:
    """The first frame of each label, and the one behind its last."""
    if states is None:
        return [0] * labels, [0] * labels
    on = [[t for t, s in enumerate(states) if s == 2 * u + 1] for u in range(labels)]
    return [frames[0] for frames in on], [frames[-1] + 1 for frames in on]


def close(got: np.ndarray, expected: Tensor, epsilon: float) -> None:
    finite = expected[expected.isfinite()].abs()
    largest = max([1.0, *finite.tolist()])
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=epsilon * largest)


def check_occupation(
    got: Arrays, items: list[tuple[Tensor, tuple[int, ...]]], blank: int, epsilon: float
) -> None:
    for b, (log_probs, labels) in enumerate(items):
        cost, occupation, _, _ = ctc_lattice_by_enumeration(log_probs, labels, blank)
        frames, states = occupation.shape
        # an occupation is the exponential of logarithms as large as the scores, with their rounding
        size = max([1.0, *log_probs[log_probs.isfinite()].abs().tolist()])
        close(got["costs"][b], cost, epsilon)
        close(got["posteriors"][b, :frames, :states], occupation, epsilon * size)
        assert not got["posteriors"][b, frames:].any()
        assert not got["posteriors"][b, :, states:].any()


def check_path(got: Arrays, items: list[tuple[Tensor, tuple[int, ...]]], blank: int, epsilon: float) -> None:
    for b, (log_probs, labels) in enumerate(items):
        _, _, best, states = ctc_lattice_by_enumeration(log_probs, labels, blank)
        starts, ends = spans(states, len(labels))
        n, width = len(labels), got["tokens"].shape[1]
        means = [
            log_probs[s:e, c].mean().item() if states else -np.inf
            for s, e, c in zip(starts, ends, labels, strict=True)
        ]
        behind = [0] * (width - n)
        assert got["tokens"][b].tolist() == [*labels, *([-1] * (width - n))]
        assert got["starts"][b].tolist() == starts + behind
        assert got["ends"][b].tolist() == ends + behind
        close(got["scores"][b], torch.tensor([*means, *behind], dtype=F64), epsilon)
        close(got["path_scores"][b], best, epsilon)


CHECKS = {"CTCPosterior": check_occupation, "CTCAlign": check_path}
Way = Callable[[str, int, torch.dtype], Run]


def in_torch(scripted: bool) -> Way:
    def way(row: str, blank: int, dtype: torch.dtype) -> Run:
        module = torch.jit.script(ROWS[row](blank)) if scripted else ROWS[row](blank)
        outputs = catalog.get(row).outputs
        return lambda inputs: as_arrays(dict(zip(outputs, module(**inputs), strict=True)))

    return way


def in_a_file(runtime: Callable[[Path], Run]) -> Way:
    def way(row: str, blank: int, dtype: torch.dtype) -> Run:
        return runtime(Case(row, "", {"blank_index": blank}, sizes={"C": CLASSES}, dtype=dtype).graph())

    return way


def with_the_library(path: Path) -> Run:
    if LossSession(path).library is None:
        pytest.skip("the native library is not installed")
    session = LossSession(path, native=True)
    return lambda inputs: session(**as_arrays(inputs))


WAYS = {
    "eager": in_torch(False),
    "scripted": in_torch(True),
    **{name: in_a_file(runtime) for name, runtime in RUNTIMES.items()},
    "ONNX Runtime with the library": in_a_file(with_the_library),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def rounded(item: Tensor, dtype: torch.dtype) -> Tensor:
    return item.to(dtype).double()


EPSILON = {torch.float32: 8 * float(np.finfo(np.float32).eps), F64: 1e-10}


@pytest.mark.parametrize("blank", range(CLASSES))
def test_paths_are_those_that_spell_the_labels(blank: int) -> None:
    # the enumeration below goes over states: as many paths, and as probable, as that over classes
    item = scores("ordinary", 5, CLASSES)
    for labels in label_sequences(CLASSES, blank, 4):
        cost, occupation, _, _ = ctc_lattice_by_enumeration(item, labels, blank)
        expected, gradient = ctc_by_enumeration(item, labels, blank)
        torch.testing.assert_close(cost, expected)
        if cost.isfinite():
            classes = torch.tensor([labels[s // 2] if s % 2 else blank for s in range(2 * len(labels) + 1)])
            held = torch.zeros_like(item).index_add(1, classes, occupation)
            torch.testing.assert_close(held, item.exp() - gradient)
        for path in ctc_paths(5, labels):
            assert collapse(tuple(labels[s // 2] if s % 2 else blank for s in path), blank) == labels


@pytest.mark.parametrize("dtype", EPSILON, ids=["float32", "float64"])
@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("row", ROWS)
def test_every_label_sequence(row: str, blank: int, dtype: torch.dtype, way: Way) -> None:
    # from the empty target to those too long to align; repeated labels and exact fits are among them
    run = way(row, blank, dtype)
    for kind in KINDS:
        for frames in (1, 2, 3, 4):
            item = rounded(scores(kind, frames, CLASSES), dtype)
            items = [(item, labels) for labels in label_sequences(CLASSES, blank, frames + 1)]
            got = run(cast(batch_of(items), dtype))
            CHECKS[row](got, items, blank, EPSILON[dtype])


@pytest.mark.parametrize("garbage", [torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("row", ROWS)
def test_nothing_behind_a_length_is_read(row: str, garbage: float, way: Way) -> None:
    frames, labels = (5, 1, 3, 4, 2, 6), ((1, 2), (2,), (), (1, 1), (1, 2, 1), (2, 2, 2))
    items = [
        (rounded(scores("ordinary", n, CLASSES), torch.float32), target)
        for n, target in zip(frames, labels, strict=True)
    ]
    run = way(row, 0, torch.float32)
    for more in (0, 1, 4):
        got = run(cast(batch_of(items, garbage, more), torch.float32))
        CHECKS[row](got, items, 0, EPSILON[torch.float32])


@pytest.mark.parametrize("row", ROWS)
def test_targets_of_no_width(row: str, way: Way) -> None:
    item = scores("ordinary", 3, CLASSES)
    got = way(row, 1, F64)(batch_of([(item, ()), (item[:2], ())], garbage=9.0))
    CHECKS[row](got, [(item, ()), (item[:2], ())], 1, 1e-10)


@pytest.mark.parametrize("row", ROWS)
def test_an_item_without_a_frame(row: str, way: Way) -> None:
    # a relative length above zero may still round to no frame: only the empty target is possible
    inputs = batch_of([(scores("ordinary", 3, CLASSES), labels) for labels in ((), (1,))])
    got = way(row, 0, F64)(inputs | {"input_lens": torch.tensor([0.1, 0.1], dtype=F64)})
    if row == "CTCPosterior":
        assert not got["posteriors"].any()
        assert got["costs"].tolist() == [0.0, np.inf]
    else:
        assert got["path_scores"].tolist() == [0.0, -np.inf]
        assert not got["ends"].any()
        assert got["scores"].tolist() == [[0.0], [-np.inf]]


def large(seed: int, blank: int) -> Inputs:
    """A batch of unequal lengths; the last item has just as many frames as its labels need."""
    inputs = catalog.get("ctc_loss").example_inputs(seed, blank_index=blank, B=5, T=60, S=20, C=4)
    inputs["target_lens"] = torch.tensor([1.0, 0.5, 0.0, 0.8, 1.0])
    target = inputs["targets"][-1]
    inputs["input_lens"][-1] = (20 + int((target[1:] == target[:-1]).sum())) / 60
    return cast(inputs, F64)


def absolute(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Frames and labels of each item."""
    frames, labels = inputs["log_probs"].shape[1], inputs["targets"].shape[1]
    return (inputs["input_lens"] * frames).round().long(), (inputs["target_lens"] * labels).round().long()


@pytest.mark.parametrize("blank", [0, 2])
def test_the_occupation_is_what_torchs_gradient_holds(blank: int, way: Way) -> None:
    inputs = large(blank, blank)
    frames, labels = absolute(inputs)
    leaf = inputs["log_probs"].clone().requires_grad_()
    costs = torch.nn.functional.ctc_loss(
        leaf.transpose(0, 1), inputs["targets"], frames, labels, blank, reduction="none"
    )
    costs.sum().backward()
    assert leaf.grad is not None
    assert costs.isfinite().all()
    within = torch.arange(60) < frames.unsqueeze(1)
    expected = (inputs["log_probs"].exp() - leaf.grad) * within.unsqueeze(2)
    of_states = torch.full((5, 41), blank)
    of_states[:, 1::2] = inputs["targets"]
    got = way("CTCPosterior", blank, F64)(inputs)
    held = np.zeros_like(expected.numpy())
    for s in range(41):
        held[np.arange(5), :, of_states[:, s]] += got["posteriors"][:, :, s]
    close(held, expected, 1e-10)
    close(got["costs"], costs.detach(), 1e-10)
    close(got["posteriors"].sum(2), within.double(), 1e-10)


def viterbi(log_probs: np.ndarray, labels: list[int], blank: int) -> tuple[float, tuple[int, ...]]:
    """The best path of one item and its score, one state at a time."""
    classes = [blank if s % 2 == 0 else labels[s // 2] for s in range(2 * len(labels) + 1)]
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for frame in log_probs:
        reached = {}
        for s, c in enumerate(classes):
            over_blank = [s - 2] if s % 2 and s > 1 and classes[s - 2] != c else []
            ways = [best[p] for p in (s, s - 1, *over_blank) if p in best]
            if ways:
                score, path = max(ways)
                reached[s] = (score + frame[c], (*path, s))
        best = reached
    return max(best[s] for s in (len(classes) - 1, len(classes) - 2) if s in best)


@pytest.mark.parametrize("blank", [0, 2])
def test_paths_of_many_frames_are_viterbis(blank: int, way: Way) -> None:
    inputs = large(blank, blank)
    got = way("CTCAlign", blank, F64)(inputs)
    for b, (frames, labels) in enumerate(torch.stack(absolute(inputs), 1).tolist()):
        item, target = inputs["log_probs"][b, :frames], inputs["targets"][b, :labels].tolist()
        score, path = viterbi(item.numpy(), target, blank)
        starts, ends = spans(path, labels)
        assert got["path_scores"][b] == pytest.approx(score, rel=1e-12)
        assert got["starts"][b].tolist() == starts + [0] * (20 - labels)
        assert got["ends"][b].tolist() == ends + [0] * (20 - labels)
        for u, c in enumerate(target):
            assert got["scores"][b, u] == pytest.approx(item[starts[u] : ends[u], c].mean().item(), rel=1e-12)
    # the last has no frame to spare: every label is one frame long
    assert (got["ends"][-1] - got["starts"][-1]).tolist() == [1] * 20


def test_of_equal_paths_the_earliest(way: Way) -> None:
    # all paths are as good: looking back, the last blank is stayed on for as long as it can be
    run = way("CTCAlign", 0, torch.float32)
    for frames in (2, 3, 4, 9):
        got = run(cast(batch_of([(torch.zeros(frames, CLASSES), (1, 2))]), torch.float32))
        assert (got["starts"].tolist(), got["ends"].tolist()) == ([[0, 1]], [[1, 2]])
    got = run(cast(batch_of([(torch.zeros(5, CLASSES), (1, 1))]), torch.float32))
    assert (got["starts"].tolist(), got["ends"].tolist()) == ([[0, 2]], [[1, 3]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integer_targets_of_either_width(dtype: torch.dtype) -> None:
    item = scores("ordinary", 4, CLASSES)
    for row, check in CHECKS.items():
        inputs = batch_of([(item, (1, 2)), (item, (2,))])
        outputs = ROWS[row]()(**inputs | {"targets": inputs["targets"].to(dtype)})
        got = as_arrays(dict(zip(catalog.get(row).outputs, outputs, strict=True)))
        check(got, [(item, (1, 2)), (item, (2,))], 0, 1e-10)


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("row", ROWS)
def test_what_is_no_number_stays_in_its_item(row: str, scripted: bool) -> None:
    module = torch.jit.script(ROWS[row]()) if scripted else ROWS[row]()
    inputs = catalog.get(row).example_inputs(B=3, T=8, S=3)
    expected = module(**inputs)
    inputs["log_probs"][1, 2] = torch.nan
    outputs = module(**inputs)
    for before, after in zip(expected, outputs, strict=True):
        torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    totals = dict(zip(catalog.get(row).outputs, outputs, strict=True))
    assert totals["costs" if row == "CTCPosterior" else "path_scores"][1].isnan()


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("row", ROWS)
def test_no_gradient_flows(row: str, scripted: bool) -> None:
    module = torch.jit.script(ROWS[row]()) if scripted else ROWS[row]()
    inputs = catalog.get(row).example_inputs()
    inputs["log_probs"].requires_grad_()
    assert not any(output.requires_grad for output in module(**inputs))


@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_to_align(batch: int) -> None:
    frames = 4
    arguments = (torch.zeros(batch, frames, 3), torch.ones(batch, 2, dtype=torch.int64))
    lens = torch.ones(batch), torch.zeros(batch)
    posteriors, costs = el.CTCPosterior()(*arguments, *lens)
    assert posteriors.shape == (batch, frames, 5)
    assert costs.tolist() == [0.0] * batch
    tokens, *_, path_scores = el.CTCAlign()(*arguments, *lens)
    assert tokens.tolist() == [[-1, -1]] * batch
    assert path_scores.tolist() == [0.0] * batch
