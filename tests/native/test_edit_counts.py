"""Whoever computes the edits between sequences, they are the same: in eager code and in ONNX Runtime."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import exports
import jiwer
import numpy as np
import pytest
import torch
from computer_cases import SETS, native_on
from edit_cases import Batch, batch_of, by_recursion, every_pair, random_pairs, words
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from ort_cases import computed_by, session
from torch import Tensor

import exportable_losses as el
from exportable_losses.export.nodes.functions import function_protos
from exportable_losses.ops import edit_counts as plain
from exportable_losses.ops import native, using
from exportable_losses.runtime import LossSession

EDITS = torch.ops.exportable_losses.edit_counts
NAMES = ("predictions", "targets", "prediction_lengths", "target_lengths")


class Computer(NamedTuple):
    """One that computes the operator."""

    name: str

    def __call__(self, *batch: Tensor) -> Tensor:
        with using(self.name):
            return EDITS(*batch)


@pytest.fixture(scope="module", params=[*(f"native {isa}" for isa in SETS), "torch"])
def computer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computer]:
    name, _, isa = request.param.partition(" ")
    with native_on(isa, tmp_path_factory.mktemp(isa)) if isa else contextlib.nullcontext():
        yield Computer(name)


def absolute(batch: Batch) -> list[Tensor]:
    predictions, targets, prediction_lens, target_lens = batch
    lengths = (prediction_lens * predictions.shape[1], target_lens * targets.shape[1])
    return [predictions, targets, *(x.round().long() for x in lengths)]


def fuzz(seed: int) -> list[Tensor]:
    """A batch of any sizes, tokens and lengths; what lies behind a length is garbage."""
    rng = np.random.default_rng(seed)
    items = int(rng.integers(0, 5))
    widths = rng.integers(0, int(rng.choice([3, 20, 70, 140])), 2)
    tokens = np.array([-(2**63), 2**63 - 1, 0, -1, 2**32, 1, 2**31, -(2**32)])[: rng.integers(1, 9)]
    sides = [torch.from_numpy(rng.choice(tokens, (items, n))) for n in widths]
    return [*sides, *(torch.from_numpy(rng.integers(0, n + 1, items)) for n in widths)]


# The numbers of others


@pytest.mark.parametrize(
    ("prediction", "target", "insertions", "deletions", "substitutions"),
    [  # https://en.wikipedia.org/wiki/Levenshtein_distance, and what is plain to see
        ("sitting", "kitten", 1, 0, 2),
        ("kitten", "sitting", 0, 1, 2),
        ("sunday", "saturday", 0, 2, 1),
        ("lawn", "flaw", 1, 1, 0),
        ("uninformed", "uniformed", 1, 0, 0),
        ("", "abc", 0, 3, 0),
        ("abc", "", 3, 0, 0),
        ("", "", 0, 0, 0),
        ("abc", "abc", 0, 0, 0),
        ("ab", "ba", 0, 0, 2),  # not one of each: substitutions are preferred
        ("abcd", "bcde", 1, 1, 0),  # unless it takes more of them
    ],
)
def test_textbook_pairs(
    computer: Computer, prediction: str, target: str, insertions: int, deletions: int, substitutions: int
) -> None:
    """torchaudio's `edit_distance` is this distance; its own build loads beside no torch without CUDA."""
    letters = (tuple(map(ord, prediction)), tuple(map(ord, target)))
    assert computer(*absolute(batch_of([letters]))).tolist() == [[insertions, deletions, substitutions]]


def test_every_short_pair(computer: Computer) -> None:
    pairs = every_pair()
    for (prediction, target), counts in zip(
        pairs, computer(*absolute(batch_of(pairs))).tolist(), strict=True
    ):
        assert counts == list(by_recursion(prediction, target)[2:])


@pytest.mark.parametrize("longest", [40, 150, 600])
def test_edits_are_jiwers(computer: Computer, longest: int) -> None:
    """As many in all. Of the ways with the fewest jiwer takes any, ours one with the most substitutions."""
    pairs = random_pairs(longest, 6, longest)
    theirs = [jiwer.process_words(words(target), words(prediction)) for prediction, target in pairs]
    for counts, one in zip(computer(*absolute(batch_of(pairs))).tolist(), theirs, strict=True):
        insertions, deletions, substitutions = counts
        assert sum(counts) == one.insertions + one.deletions + one.substitutions
        assert insertions - deletions == one.insertions - one.deletions
        assert substitutions >= one.substitutions


def test_where_there_is_one_way_it_is_jiwers(computer: Computer) -> None:
    """Sentences with words of their own taken out, put in or replaced far apart: no two ways to count."""
    draw = random.Random(0)
    pairs = []
    for _ in range(20):
        target = [f"w{i}" for i in range(draw.randint(20, 300))]
        prediction = target.copy()
        for at in range(len(target) - 5, 5, -9):
            edit = draw.choice(["replace", "insert", "delete", "keep"])
            prediction[at : at + (edit in ("replace", "delete"))] = {"keep": [], "delete": []}.get(
                edit, [f"new{at}"]
            )
        pairs.append((prediction, target))
    theirs = [jiwer.process_words(" ".join(target), " ".join(prediction)) for prediction, target in pairs]
    number = {word: i for i, word in enumerate({word for pair in pairs for side in pair for word in side})}
    numbered = [tuple(tuple(number[word] for word in side) for side in pair) for pair in pairs]
    counts = computer(*absolute(batch_of(numbered))).tolist()
    assert counts == [[one.insertions, one.deletions, one.substitutions] for one in theirs]


# Plain torch


def test_any_batch(computer: Computer) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 2**31))
    def agrees(seed: int) -> None:
        batch = fuzz(seed)
        before = [x.clone() for x in batch]
        counts = computer(*batch)
        assert counts.dtype == torch.int64
        assert counts.shape == (len(batch[0]), 3)
        assert torch.equal(counts, plain(*batch))
        assert all(torch.equal(x, y) for x, y in zip(batch, before, strict=True))

    agrees()


@pytest.mark.parametrize("shorter", [0, 1, 63, 64, 65, 125, 126, 127, 128, 255, 256])
@pytest.mark.parametrize("more", [0, 1, 70])
def test_lengths_at_which_numbers_grow(computer: Computer, shorter: int, more: int) -> None:
    """Nothing in common; all in common; the longer drops its beginning. As predictions and as targets."""
    one = torch.arange(shorter).repeat(3, 1)
    other = torch.stack(
        [
            torch.arange(shorter + more) + 1000,
            torch.arange(shorter + more),
            torch.arange(shorter + more) - more,
        ]
    )
    lengths = torch.full((3,), shorter), torch.full((3,), shorter + more)
    assert computer(other, one, *lengths[::-1]).tolist() == [[more, 0, shorter], [more, 0, 0], [more, 0, 0]]
    assert computer(one, other, *lengths).tolist() == [[0, more, shorter], [0, more, 0], [0, more, 0]]


@pytest.mark.parametrize("length", [32766, 32767])
def test_lengths_of_tens_of_thousands(computer: Computer, length: int) -> None:
    if computer.name == "torch":
        pytest.skip("torch: takes minutes")
    one = torch.arange(length).repeat(2, 1)
    other = torch.stack([one[0] + length, torch.cat([one[0, 1:], torch.tensor([-1])])])
    lengths = torch.full((2,), length)
    assert computer(other, one, lengths, lengths).tolist() == [[0, 0, length], [1, 1, 0]]


def test_tokens_that_are_alike_in_some_of_their_bits(computer: Computer) -> None:
    """No two of these are equal, whatever part of them is looked at."""
    tokens = torch.tensor([1 << n for n in range(63)] + [-(1 << n) for n in range(64)])
    lengths = torch.tensor([len(tokens)])
    counts = computer(tokens.unsqueeze(0), tokens.roll(1).unsqueeze(0), lengths, lengths)
    assert counts.tolist() == [[1, 1, 0]]


def test_strides_and_narrow_integers(computer: Computer) -> None:
    predictions, targets, *lengths = absolute(batch_of(random_pairs(3, 5, 9)))
    expected = plain(predictions, targets, *lengths)
    columns = (predictions.T.contiguous().T, targets.T.contiguous().T)
    assert torch.equal(computer(*columns, *lengths), expected)
    narrow = (predictions.to(torch.uint8), targets.int(), lengths[0].short(), lengths[1].int())
    assert torch.equal(computer(*narrow), expected)
    every_other = torch.stack([predictions, predictions + 7], 2)[..., 0]
    assert torch.equal(computer(every_other, targets, *lengths), expected)


def test_threads_do_not_change_the_counts(computer: Computer) -> None:
    batch = absolute(batch_of(random_pairs(4, 40, 30)))
    expected = computer(*batch)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(computer(*batch), expected)
    finally:
        torch.set_num_threads(before)


# The choice, and what does not fit


def test_the_library_computes_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = absolute(batch_of([((1,), (2,))]))
    marked = torch.tensor([[7, 7, 7]])
    monkeypatch.delenv("EXPORTABLE_LOSSES_COMPUTER", raising=False)
    monkeypatch.setattr(native, "edit_counts", lambda *_: marked)
    monkeypatch.setattr(native, "unavailable_on", lambda _: "")
    assert torch.equal(EDITS(*batch), marked)
    with using("native"):
        assert torch.equal(EDITS(*batch), marked)
    for name in ("torch", "numba", "cuda"):
        with using(name):
            assert EDITS(*batch).tolist() == [[0, 0, 1]]
    monkeypatch.setattr(native, "unavailable_on", lambda _: "absent")
    assert EDITS(*batch).tolist() == [[0, 0, 1]]
    with using("native"), pytest.raises(RuntimeError, match="'native' was asked for: absent"):
        EDITS(*batch)
    monkeypatch.setenv("EXPORTABLE_LOSSES_COMPUTER", "abacus")
    with pytest.raises(ValueError, match="computer: got 'abacus', expected one of native, "):
        EDITS(*batch)


WRONG: list[tuple[int, Tensor, str]] = [
    (0, torch.zeros(3, dtype=torch.int64), r"predictions: got shape \[3\], expected \[B, K\]"),
    (1, torch.zeros(2, 4, 1).long(), r"targets: got shape \[2, 4, 1\], expected 2 rows of tokens"),
    (1, torch.zeros(3, 4).long(), r"targets: got shape \[3, 4\], expected 2 rows of tokens"),
    (2, torch.ones(3).long(), r"prediction_lengths: got shape \[3\], expected \[2\]"),
    (3, torch.tensor(1), r"target_lengths: got shape \[\], expected \[2\]"),
    (0, torch.zeros(2, 3), r"predictions: got torch.float32, expected integers"),
    (3, torch.ones(2), r"target_lengths: got torch.float32, expected integers"),
]
OUTSIDE: list[tuple[int, Tensor, str]] = [
    (2, torch.tensor([1, 4]), r"prediction_lengths: got 4 for item 1, expected a number in \[0, 3\]"),
    (2, torch.tensor([-1, 3]), r"prediction_lengths: got -1 for item 0, expected a number in \[0, 3\]"),
    (3, torch.tensor([5, 1]), r"target_lengths: got 5 for item 0, expected a number in \[0, 4\]"),
    (3, torch.tensor([0, -(2**63)]), r"target_lengths: got -9223372036854775808 for item 1"),
]


def legal() -> list[Tensor]:
    return [torch.zeros(2, 3).long(), torch.zeros(2, 4).long(), torch.tensor([3, 1]), torch.tensor([4, 2])]


@pytest.mark.parametrize(("place", "bad", "says"), [*WRONG, *OUTSIDE])
def test_what_does_not_fit_is_named(computer: Computer, place: int, bad: Tensor, says: str) -> None:
    if computer.name == "torch" and says in [said for *_, said in OUTSIDE]:
        pytest.skip("torch: leaves lengths to the module's check")
    batch = legal()
    batch[place] = bad
    with pytest.raises(ValueError, match=f"^{says}"):
        computer(*batch)


def test_a_tensor_that_is_elsewhere_is_named(computer: Computer) -> None:
    if computer.name == "torch":
        pytest.skip("torch: leaves it to torch")
    batch = legal()
    batch[3] = batch[3].to("meta")
    with pytest.raises(ValueError, match=r"^target_lengths: got a tensor on meta, expected the CPU"):
        native.edit_counts(*batch)


# ONNX Runtime


def one_node() -> bytes:
    """A model of the node alone, and of its body; inputs have no shapes, so that any gets to the node."""
    graph = helper.make_graph(
        [helper.make_node("EditCounts", list(NAMES), ["counts"], domain="exportable_losses")],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in NAMES],
        [helper.make_tensor_value_info("counts", TensorProto.INT64, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    [body] = function_protos("EditCounts", TensorProto.FLOAT)
    model = helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=8)
    return model.SerializeToString()


def feed_of(batch: list[Tensor]) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in zip(NAMES, batch, strict=True)}


@pytest.mark.parametrize("threads", [1, 3])
def test_the_kernel_and_the_body_agree(library: str, threads: int) -> None:
    ours, portable = session(one_node(), library, threads), session(one_node(), None)
    for batch in [absolute(batch_of(every_pair())), *map(fuzz, range(60))]:
        (counts,) = ours.run(None, feed_of(batch))
        np.testing.assert_array_equal(counts, plain(*batch).numpy())
        np.testing.assert_array_equal(counts, portable.run(None, feed_of(batch))[0])


def test_an_exported_file_gets_the_kernel(library: str, tmp_path: Path) -> None:
    path = exports.onnx(el.EditDistance())
    batch = batch_of(random_pairs(8, 9, 30))
    names = ("predictions", "targets", "prediction_lens", "target_lens")
    feed = {
        name: x.float().numpy() if x.is_floating_point() else x.numpy()
        for name, x in zip(names, batch, strict=True)
    }
    ran = computed_by(str(path), library, feed, tmp_path)
    assert "EditCounts" in ran
    assert "Scan" not in ran
    with_library, without = LossSession(path, native=True)(**feed), LossSession(path, native=False)(**feed)
    for name, value in zip(with_library, el.EditDistance()(*batch), strict=True):
        np.testing.assert_array_equal(with_library[name], without[name])
        np.testing.assert_array_equal(with_library[name], value.numpy())


SHAPES = [
    (0, np.zeros(3), r"predictions: got shape \[3\], expected \[B, K\]"),
    (
        0,
        np.zeros((1, 3)),
        r"targets: got shape \[2, 4\], expected \[1, S\], for predictions of shape \[1, 3\]",
    ),
    (1, np.zeros(4), r"targets: got shape \[4\], expected \[2, S\]"),
    (1, np.zeros((2, 4, 1)), r"targets: got shape \[2, 4, 1\], expected \[2, S\]"),
    (2, np.zeros((2, 1)), r"prediction_lengths: got shape \[2, 1\], expected \[2\]"),
    (3, np.zeros(3), r"target_lengths: got shape \[3\], expected \[2\]"),
    (3, np.zeros(()), r"target_lengths: got shape \[\], expected \[2\]"),
]


@pytest.mark.parametrize(
    ("place", "bad", "says"), [*SHAPES, *((place, bad.numpy(), says) for place, bad, says in OUTSIDE)]
)
def test_what_does_not_fit_is_named_by_the_kernel(library: str, place: int, bad: Any, says: str) -> None:
    ours = session(one_node(), library)
    feed = feed_of(legal())
    with pytest.raises(Exception, match=f"INVALID_ARGUMENT.*{says}"):
        ours.run(None, {**feed, NAMES[place]: bad.astype(np.int64)})
    np.testing.assert_array_equal(ours.run(None, feed)[0], [[0, 1, 0], [0, 1, 0]])  # as good as new
