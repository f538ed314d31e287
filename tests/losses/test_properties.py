"""Properties that hold for any input: of padding, of the order of items and sources, of scale."""

import pytest
import torch
from export_cases import reductions
from hypothesis import given, settings
from hypothesis import strategies as st
from padding import GARBAGE, PADDED, axis_of, letters_of, pad
from torch import Tensor

from exportable_losses import catalog, checks
from exportable_losses import functional as F
from exportable_losses.catalog import Entry

Inputs = dict[str, Tensor]
few = settings(derandomize=True, deadline=None, max_examples=12)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 6)

# What stands behind the items of a result, where it is not zero.
BEHIND = {
    ("CTCForwardChunk", "alpha_out"): -torch.inf,
    ("TransducerForwardChunk", "alpha_out"): -torch.inf,
    ("CTCAlign", "tokens"): -1,
    **{(f"{kind}Align", "tokens"): -1 for kind in ("Transducer", "TDT", "MultiBlankTransducer", "HAT")},
    ("PrunedTransducerAlign", "tokens"): -1,
    ("SimpleTransducerAlign", "tokens"): -1,
    ("LinearCTCAlign", "tokens"): -1,
}


def reduced(rows: list[str], wanted: tuple[str, ...] = checks.REDUCTIONS) -> list[tuple[str, str]]:
    """Rows with each reduction they take; an empty one where they take none."""
    pairs = []
    for row in rows:
        pairs += [(row, each) for each in reductions(catalog.get(row)) if each in (*wanted, "")]
    return pairs


def made(row: str, reduction: str) -> torch.nn.Module:
    return catalog.get(row).module(**({"reduction": reduction} if reduction else {}))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def drawn(entry: Entry, seed: int, **chosen: int) -> Inputs:
    """An example in float64, of the chosen sizes where the row has them."""
    letters = {letter.partition("+")[0] for terms in letters_of(entry).values() for letter in terms}
    known = {letter: size for letter, size in chosen.items() if letter in letters}
    return {
        k: v.double() if v.is_floating_point() else v for k, v in entry.example_inputs(seed, **known).items()
    }


ROWS_WITH_LENGTHS = [
    (row, reduction, value.name)
    for row, reduction in reduced(catalog.names())
    for value in catalog.get(row).inputs
    # what lies behind an image's frames reaches them through the Laplacian, as it does in SpeechBrain
    # ranges go on behind an item's frames, and are as wide as its padding has room for
    if value.name in PADDED and row not in ("LogSoftmaxWrapper", "LaplacianVarianceLoss", "PruneRanges")
]


@pytest.mark.parametrize(("row", "reduction", "lengths"), ROWS_WITH_LENGTHS)
@few
@given(
    seed=seeds, batch=st.integers(1, 4), size=sizes, more=st.integers(1, 5), garbage=st.sampled_from(GARBAGE)
)
def test_padding_changes_no_loss(
    row: str, reduction: str, lengths: str, seed: int, batch: int, size: int, more: int, garbage: float
) -> None:
    entry = catalog.get(row)
    chosen = dict.fromkeys(("T", "N", "L", "S", "U", "K"), size) | {"B": batch}
    if lengths == "target_lens":
        chosen["T"] = 2 * size + 1
    if row == "VariationalAutoencoderLoss":
        chosen |= {"Z": 3, "X0": 3}
    inputs = drawn(entry, seed, **chosen)
    frames = torch.randint(1, size + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    short = pad(entry, inputs, lengths, 0, frames, garbage) | {lengths: frames.double() / size}
    long = pad(entry, inputs, lengths, more, frames, garbage) | {lengths: frames.double() / (size + more)}
    one, other = (as_tuple(made(row, reduction)(**x)) for x in (short, long))
    for name, before, after in zip(entry.outputs, one, other, strict=True):
        # where a result has a dimension of frames or labels, what is behind the old end is padding
        expected = torch.full_like(after, BEHIND.get((row, name), 0))
        expected[tuple(slice(size) for size in before.shape)] = before
        torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(("row", "reduction"), reduced([r for r in catalog.names() if r != "ce_kd"]))
@few
@given(seed=seeds, order=st.permutations(range(5)))
def test_the_order_of_items_is_the_order_of_losses(
    row: str, reduction: str, seed: int, order: list[int]
) -> None:
    entry = catalog.get(row)
    same = {"L": 14, "Z": 6, "X0": 6} if row == "VariationalAutoencoderLoss" else {"X0": 3}
    inputs = drawn(entry, seed, B=5, U=4, **same)  # five is the size of the batch alone
    permuted = {
        name: x.index_select(axis, torch.tensor(order))
        if (axis := axis_of(entry, name, ("B",))) is not None
        else x
        for name, x in inputs.items()
    }
    one, other = (as_tuple(made(row, reduction)(**x)) for x in (inputs, permuted))
    for before, after in zip(one, other, strict=True):
        if 5 in before.shape:
            before = before.index_select(before.shape.index(5), torch.tensor(order))
        torch.testing.assert_close(after, before)


OPTIONAL = [
    (row, reduction)
    for row, reduction in reduced(catalog.names())
    if any(value.name == "length" and value.optional for value in catalog.get(row).inputs)
]


@pytest.mark.parametrize(("row", "reduction"), OPTIONAL)
@few
@given(seed=seeds, size=st.integers(1, 9))
def test_no_length_is_the_whole_length(row: str, reduction: str, seed: int, size: int) -> None:
    entry = catalog.get(row)
    same = {"L": size, "Z": 3, "X0": 3} if row == "VariationalAutoencoderLoss" else {}
    inputs = drawn(entry, seed, B=3, T=size, N=size, **same)
    module = made(row, reduction)
    whole = as_tuple(module(**inputs | {"length": torch.ones(3)}))
    without = as_tuple(module(**{name: x for name, x in inputs.items() if name != "length"}))
    for one, other in zip(whole, without, strict=True):
        torch.testing.assert_close(one, other)


@few
@given(seed=seeds, sources=st.integers(1, 5), data=st.data())
def test_the_order_of_sources_is_nothing_to_pit(seed: int, sources: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(sources)))
    for row in ("PitWrapper", "get_si_snr_with_pitwrapper", "get_snr_with_pitwrapper", "SDR"):
        entry = catalog.get(row)
        inputs = drawn(entry, seed, B=2, S=sources)
        expected = as_tuple(entry.module()(**inputs))[0]
        for name in inputs:
            permuted = inputs | {name: inputs[name][..., order]}
            of_sources = row == "SDR" and name == "source"  # a ratio for each, in the order of the sources
            torch.testing.assert_close(
                as_tuple(entry.module()(**permuted))[0], expected[:, order] if of_sources else expected
            )


@few
@given(seed=seeds, scale=st.floats(1e-2, 1e3), shift=st.floats(-5, 5))
def test_si_snr_knows_no_scale_and_no_offset(seed: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    source, estimate = (torch.randn(50, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = F.cal_si_snr(source, estimate)
    torch.testing.assert_close(F.cal_si_snr(source, scale * estimate + shift), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(F.cal_si_snr(source, -scale * estimate), expected, rtol=1e-4, atol=1e-4)
    expected = F.cal_snr(source, estimate)
    torch.testing.assert_close(F.cal_snr(source + shift, estimate - shift), expected)
    assert not torch.allclose(F.cal_snr(source, (scale + 1.5) * estimate), expected)


@few
@given(seed=seeds, size=st.integers(1, 40), length=st.floats(1e-6, 1.0))
def test_a_length_mask_counts_frames(seed: int, size: int, length: float) -> None:
    mask = F.compute_length_mask(torch.zeros(1, size, 2), torch.tensor([length], dtype=torch.float64))
    expected = [1.0 if frame < length * size - 1e-6 else 0.0 for frame in range(size)]
    assert mask[0, :, 0].tolist() == mask[0, :, 1].tolist() == expected


@few
@given(scale=st.floats(-50, 50), classes=st.integers(2, 6), seed=seeds)
def test_lattices_know_no_offset_of_the_logits(scale: float, classes: int, seed: int) -> None:
    entry = catalog.get("transducer_loss")
    inputs = drawn(entry, seed, B=2, T=4, U=2, V=classes)
    expected = entry.module(reduction="none")(**inputs)
    offset = scale * torch.randn(
        2, 4, 3, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    torch.testing.assert_close(
        entry.module(reduction="none")(**inputs | {"logits": inputs["logits"] + offset}), expected
    )
