"""The losses of frames that come in pieces are those of the whole, in every runtime, however they are cut."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import exports
import numpy as np
import pytest
import torch
from enumeration import ctc_by_enumeration, label_sequences, padded
from export_cases import Case, Inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_runs import RUNTIMES, as_arrays
from torch import Tensor

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.ops import using

Chunk = Callable[[Inputs], dict[str, np.ndarray]]
OUTPUTS = ("costs", "alpha_out", "offset_out")


@pytest.fixture(scope="module", params=["eager", "scripted", *RUNTIMES])
def chunk(request: pytest.FixtureRequest) -> Chunk:
    """The row in each way of computing it, with the blank at 0."""
    module = el.CTCForwardChunk()
    if request.param in RUNTIMES:
        return RUNTIMES[request.param](Case("CTCForwardChunk").graph())
    if request.param == "scripted":
        module = torch.jit.load(Case("CTCForwardChunk").script())
    return lambda inputs: as_arrays(dict(zip(OUTPUTS, module(**inputs), strict=True)))


def walk(
    chunk: Chunk,
    log_probs: Tensor,
    targets: Tensor,
    frames: Tensor,
    target_lens: Tensor,
    cuts: Sequence[int],
    garbage: float = 0.0,
) -> np.ndarray:
    """The costs after the last piece; `cuts` are the frames where one ends and the next begins."""
    alpha, offset = el.CTCForwardChunk().initial_state(targets)
    edges = [0, *cuts, log_probs.shape[1]]
    for start, end in itertools.pairwise(edges):
        here = (frames - start).clamp(0, end - start)
        piece = log_probs[:, start:end].clone()
        piece[torch.arange(end - start) >= here.unsqueeze(1)] = garbage  # behind an item's end
        inputs = {
            "log_probs": piece,
            "targets": targets,
            "input_lens": here / (end - start),
            "target_lens": target_lens,
            "alpha": alpha,
            "offset": offset,
        }
        costs, *state = chunk(inputs).values()
        alpha, offset = (torch.from_numpy(np.array(array)) for array in state)
    return costs


def draw(
    frames: int, labels: int, classes: int, kind: str = "ordinary"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames + labels)
    logits = 3 * torch.randn(3, frames, classes, generator=generator)
    if kind == "huge":
        logits = 1e4 * logits.sign()
    log_probs = logits.log_softmax(-1)
    if kind == "with -inf":
        log_probs[torch.rand(log_probs.shape, generator=generator) < 0.2] = -torch.inf
    targets = torch.randint(1, classes, (3, labels), generator=generator)
    return log_probs, targets, torch.tensor([frames, frames - 2, frames // 2]), torch.tensor([1.0, 0.5, 0.0])


def truth(log_probs: Tensor, targets: Tensor, frames: Tensor, target_lens: Tensor) -> Tensor:
    lengths = (target_lens * targets.shape[1]).round().long()
    return torch.nn.functional.ctc_loss(
        log_probs.double().transpose(0, 1), targets, frames, lengths, reduction="none"
    )


def test_every_target_of_four_frames_cut_everywhere(chunk: Chunk) -> None:
    sequences = [labels for labels in label_sequences(3, 0, 3) if len(labels) <= 3]
    targets, target_lens = padded(sequences, 3, padding=1)
    log_probs = torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).log_softmax(-1)
    expected = [ctc_by_enumeration(log_probs.double(), labels, 0)[0].item() for labels in sequences]
    batch = log_probs.expand(len(sequences), -1, -1)
    frames = torch.full((len(sequences),), 4)
    for cuts in ((), (1,), (2,), (3,), (1, 2, 3)):
        costs = walk(chunk, batch, targets, frames, target_lens.float(), cuts)
        np.testing.assert_allclose(costs, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["ordinary", "huge", "with -inf"])
def test_long_utterances_have_float32_s_own_error(chunk: Chunk, kind: str) -> None:
    drawn = draw(300, 40, 12, kind)
    expected = truth(*drawn).numpy()
    whole, *cut = (
        walk(chunk, *drawn, cuts, garbage=-1.5) for cuts in ((), (150,), (1, 2, 7, 299), range(7, 300, 7))
    )
    finite = np.isfinite(expected)
    assert (np.isposinf(whole) == ~finite).all()
    # a thousandth of a rounding a frame, and the cost's own
    np.testing.assert_allclose(whole[finite], expected[finite], rtol=5e-7)
    for costs in cut:
        np.testing.assert_array_max_ulp(costs, whole, 1)


@settings(max_examples=30, deadline=None)
@given(cuts=st.sets(st.integers(1, 39)), kind=st.sampled_from(["ordinary", "huge", "with -inf"]))
def test_no_cut_changes_the_costs(cuts: set[int], kind: str) -> None:
    module = el.CTCForwardChunk()

    def chunk(inputs: Inputs) -> dict[str, np.ndarray]:
        return as_arrays(dict(zip(OUTPUTS, module(**inputs), strict=True)))

    drawn = draw(40, 8, 6, kind)
    costs = walk(chunk, *drawn, sorted(cuts))
    np.testing.assert_array_max_ulp(costs, walk(chunk, *drawn, ()), 1)
    with using("torch"):  # and of plain torch not a bit is another
        np.testing.assert_array_equal(walk(chunk, *drawn, sorted(cuts)), walk(chunk, *drawn, ()))


@pytest.mark.parametrize("blank", [2, 6])
def test_the_blank_may_be_any_class(blank: int) -> None:
    log_probs, targets, *lengths = draw(20, 5, 7)
    expected = truth(log_probs, targets, *lengths)
    turned = log_probs.roll(blank, -1), (targets + blank) % 7, *lengths
    module = el.CTCForwardChunk(blank)
    onnx = RUNTIMES["ONNX Runtime"](exports.onnx(module))
    for run in (lambda inputs: as_arrays(dict(zip(OUTPUTS, module(**inputs), strict=True))), onnx):
        np.testing.assert_allclose(walk(run, *turned, (7, 8)), expected, rtol=5e-7)


def test_states_go_from_one_runtime_to_another() -> None:
    drawn = draw(60, 9, 7)
    module = el.CTCForwardChunk()
    onnx = RUNTIMES["ONNX Runtime"](Case("CTCForwardChunk").graph())
    turns = iter([lambda inputs: as_arrays(dict(zip(OUTPUTS, module(**inputs), strict=True))), onnx] * 3)
    costs = walk(lambda inputs: next(turns)(inputs), *drawn, range(10, 60, 10))
    np.testing.assert_allclose(costs, truth(*drawn), rtol=5e-7)


def test_the_states_behind_an_item_s_labels_do_not_count(chunk: Chunk) -> None:
    log_probs, targets, _, target_lens = draw(20, 6, 5)
    alpha, offset = el.CTCForwardChunk().initial_state(targets)
    inputs = {
        "log_probs": log_probs,
        "targets": targets,
        "input_lens": torch.ones(3),
        "target_lens": target_lens,
        "alpha": alpha,
        "offset": offset,
    }
    expected = chunk(inputs)
    lengths = (target_lens * 6).round().long()
    spoilt = alpha.clone()
    for row, length in zip(spoilt, lengths.tolist(), strict=True):
        row[0, length + 1 :] = 50.0
        row[1, length:] = 50.0
    got = chunk({**inputs, "alpha": spoilt})
    for name in OUTPUTS:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    assert (got["alpha_out"].max((1, 2)) == 0).all()  # the largest is taken out
    assert np.isneginf(got["alpha_out"][:, 1, -1]).all()


def test_an_item_without_frames_keeps_its_state(chunk: Chunk) -> None:
    log_probs, targets, *_ = draw(5, 3, 4)
    state = torch.randn(3, 2, 4), torch.randn(3, 2)
    state[0][:, 1, -1] = -torch.inf
    inputs = {
        "log_probs": log_probs,
        "targets": targets,
        "input_lens": torch.tensor([1.0, 0.0, 0.0]),
        "target_lens": torch.ones(3),
        "alpha": state[0],
        "offset": state[1],
    }
    got = chunk(inputs)
    np.testing.assert_array_equal(got["alpha_out"][1:], state[0][1:])
    np.testing.assert_array_equal(got["offset_out"][1:], state[1][1:])
    assert (got["alpha_out"][0] != state[0][0].numpy()).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": torch.zeros(3, 2, 3)}, r"alpha: got size 3 along dimension 2 \(S\), expected 4"),
        ({"alpha": torch.zeros(3, 3, 4)}, r"alpha: got size 3 along dimension 1 \(2\), expected 2"),
        ({"offset": torch.zeros(2, 2)}, r"offset: got size 2 along dimension 0 \(B\), expected 3"),
        ({"input_lens": torch.tensor([1.0, 1.5, 0.0])}, r"input_lens: got 1.5 at \[1\], expected relative"),
    ],
)
def test_what_does_not_fit_is_refused(change: Inputs, message: str) -> None:
    log_probs, targets, _, target_lens = draw(5, 3, 4)
    alpha, offset = el.CTCForwardChunk().initial_state(targets)
    inputs = {
        "log_probs": log_probs,
        "targets": targets,
        "input_lens": torch.ones(3),
        "target_lens": target_lens,
    }
    with pytest.raises(ValueError, match=message):
        el.CTCForwardChunk()(**{**inputs, "alpha": alpha, "offset": offset, **change})


def test_the_first_state_is_made_by_the_script_too(tmp_path: Path) -> None:
    script = torch.jit.load(Case("CTCForwardChunk").script())
    targets = torch.ones(2, 3, dtype=torch.int64)
    for one, other in zip(
        script.initial_state(targets), el.CTCForwardChunk().initial_state(targets), strict=True
    ):
        assert torch.equal(one, other)


# The transducer


@pytest.fixture(scope="module", params=["eager", "scripted", *RUNTIMES])
def transducer_chunk(request: pytest.FixtureRequest) -> Chunk:
    """The same of a transducer."""
    module = el.TransducerForwardChunk()
    if request.param in RUNTIMES:
        return RUNTIMES[request.param](Case("TransducerForwardChunk").graph())
    if request.param == "scripted":
        module = torch.jit.load(Case("TransducerForwardChunk").script())
    return lambda inputs: as_arrays(dict(zip(OUTPUTS, module(**inputs), strict=True)))


def joint(frames: int, labels: int) -> tuple[Inputs, Tensor, Tensor]:
    """What is the same for all pieces, the encoder's frames, and how many each item has."""
    generator = torch.Generator().manual_seed(frames)
    encoder, predictor, weight, bias = (
        torch.randn(size, generator=generator) for size in ((3, frames, 4), (3, labels + 1, 4), (6, 4), (6,))
    )
    same = {
        "predictor": predictor,
        "weight": weight,
        "bias": bias,
        "targets": torch.randint(1, 6, (3, labels), generator=generator),
        "target_lens": torch.tensor([1.0, 0.5, 0.0]),
    }
    return same, encoder, torch.tensor([frames, frames - 2, frames // 2])


def walk_transducer(
    chunk: Chunk, same: Inputs, encoder: Tensor, frames: Tensor, cuts: Sequence[int]
) -> np.ndarray:
    alpha, offset = el.TransducerForwardChunk().initial_state(same["targets"])
    for start, end in itertools.pairwise([0, *cuts, encoder.shape[1]]):
        here = (frames - start).clamp(0, end - start)
        piece = encoder[:, start:end].clone()
        piece[torch.arange(end - start) >= here.unsqueeze(1)] = -1.5  # behind an item's end
        inputs = {
            **same,
            "encoder": piece,
            "input_lens": here / (end - start),
            "alpha": alpha,
            "offset": offset,
        }
        names = (value.name for value in catalog.get("TransducerForwardChunk").inputs)
        costs, *state = chunk({name: inputs[name] for name in names}).values()
        alpha, offset = (torch.from_numpy(np.array(array)) for array in state)
    return costs


@pytest.mark.parametrize(("frames", "labels"), [(6, 2), (120, 30)])
def test_a_transducer_cut_anywhere_costs_what_the_whole_costs(
    transducer_chunk: Chunk, frames: int, labels: int
) -> None:
    same, encoder, lengths = joint(frames, labels)
    exact = {k: v.double() if k in ("predictor", "weight", "bias") else v for k, v in same.items()}
    expected = el.FusedTransducerLoss(0, "none")(
        encoder=encoder.double(), input_lens=lengths / frames, **exact
    )
    for cuts in ((), (frames // 2,), range(1, frames, max(frames // 9, 1))):
        costs = walk_transducer(transducer_chunk, same, encoder, lengths, cuts)
        np.testing.assert_allclose(costs, expected, rtol=1e-6)


def test_no_cut_changes_a_bit_of_a_transducer_in_plain_torch() -> None:
    same, encoder, lengths = joint(40, 9)
    module = el.TransducerForwardChunk()

    def chunk(inputs: Inputs) -> dict[str, np.ndarray]:
        return as_arrays(dict(zip(OUTPUTS, module(**inputs), strict=True)))

    with using("torch"):
        whole = walk_transducer(chunk, same, encoder, lengths, ())
        for cuts in ((1,), (5, 20, 21), range(1, 40)):
            np.testing.assert_allclose(walk_transducer(chunk, same, encoder, lengths, cuts), whole, rtol=1e-7)


def test_a_transducer_without_frames_keeps_its_state(transducer_chunk: Chunk) -> None:
    same, encoder, _ = joint(5, 3)
    state = torch.randn(3, 4), torch.randn(3, 2)
    inputs = {**same, "encoder": encoder, "target_lens": torch.ones(3), "alpha": state[0], "offset": state[1]}
    inputs["input_lens"] = torch.tensor([1.0, 0.0, 0.0])
    names = (value.name for value in catalog.get("TransducerForwardChunk").inputs)
    got = transducer_chunk({name: inputs[name] for name in names})
    np.testing.assert_array_equal(got["alpha_out"][1:], state[0][1:])
    np.testing.assert_array_equal(got["offset_out"][1:], state[1][1:])
    assert (got["alpha_out"][0] != state[0][0].numpy()).any()
