"""A corpus in batches adds up to what the row gives for all of it at once."""

import math
import random
from fractions import Fraction
from typing import Any

import exports
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exportable_losses import catalog
from exportable_losses.runtime import LossSession
from exportable_losses.runtime.corpus.batches import Batches, Items, grid_size
from exportable_losses.runtime.corpus.columns import Column
from exportable_losses.runtime.corpus.lengths import relative
from exportable_losses.runtime.corpus.sums import ExactSum
from exportable_losses.runtime.corpus.totals import Totals

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE), st.randoms())
def test_a_sum_is_the_nearest_to_the_exact_one_in_every_order(
    terms: list[float], random: random.Random
) -> None:
    exact = sum(map(Fraction, terms), Fraction(0))
    shuffled = random.sample(terms, len(terms))
    total = ExactSum()
    total.add(shuffled[:2])
    total.add(np.array(shuffled[2:]))
    try:
        expected = float(exact)
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert total.value == expected


def test_what_is_not_finite_stays_so() -> None:
    for terms, expected in (([1.0, math.inf], math.inf), ([-math.inf, 2.0], -math.inf)):
        total = ExactSum()
        total.add(terms)
        assert total.value == expected
    total = ExactSum()
    total.add([math.inf])
    total.add([-math.inf])
    assert math.isnan(total.value)


@given(st.integers(0, 100_000), st.integers(1, 4))
def test_the_grid_is_close_above(size: int, steps: int) -> None:
    padded = grid_size(size, steps)
    assert size <= padded <= max(1, size * (1 + 2.0**-steps))
    assert grid_size(padded, steps) == padded


@given(st.integers(1, 1 << 20), st.data())
def test_a_relative_length_is_its_frames_and_no_frame_more(size: int, data: Any) -> None:
    counted = data.draw(st.integers(1, size))
    product = relative(counted, size) * np.float32(size)
    assert counted - 1 < product - np.float32(1e-6) <= counted
    assert np.round(product) == counted


WHOLE = ("EqualErrorRate", "MinDCF")
# every reduction of one row of each kind; of the others the two that differ most, the second thorough
EVERY = ("l1_loss", "ctc_loss", "transducer_loss", "reduce_loss")


def reductions(row: str) -> tuple[str, ...]:
    if "reduction" not in catalog.get(row).settings:
        return ("",)
    if row in EVERY:
        return ("mean", "batch", "none", "sum", "batchmean")
    if row in ("LaplacianVarianceLoss", "Perplexity"):
        return ("mean", "batch")
    return ("mean", "batch") if row == "VariationalAutoencoderLoss" else ("mean", "none")


# rows whose reductions are one function, which the transducer's show
AS_TRANSDUCER = (
    "TDTLoss",
    "MultiBlankTransducerLoss",
    "HATLoss",
    "SimpleTransducerLoss",
    "PrunedTransducerLoss",
)
# rows of the inputs of their loss, and of the totals of the transducer's, which another test asks
LIKE_TRANSDUCER = tuple(
    f"{kind}{what}"
    for kind in ("TDT", "MultiBlankTransducer", "HAT", "SimpleTransducer", "PrunedTransducer")
    for what in ("Posterior", "Align")
)
# all items share the weights of a layer
OF_WEIGHTS = ("FusedTransducerLoss", "LinearCTCLoss", "LinearCTCAlign")
CASES = [
    pytest.param(
        row,
        reduction,
        marks=pytest.mark.thorough if (i and row not in EVERY) or row in LIKE_TRANSDUCER else (),
    )
    for row in catalog.names()
    if catalog.get(row).contract.totals and row not in (*WHOLE, *OF_WEIGHTS)
    for i, reduction in enumerate(reductions(row)[:1] if row in AS_TRANSDUCER else reductions(row))
]


def one_batch(row: str) -> dict[str, torch.Tensor]:
    """A batch whose lengths are whole numbers of frames."""
    sizes = {"B": 7} if any("B" in entry.dims for entry in catalog.get(row).inputs) else {}
    if row == "VariationalAutoencoderLoss":  # one length for frames and latents: whole in both
        sizes |= {"T": 14, "L": 7}
    batch = catalog.get(row).example_inputs(3, **sizes)
    sizes = catalog.get(row).contract.sizes({name: tuple(x.shape) for name, x in batch.items()})
    for entry in catalog.get(row).inputs:
        if entry.of:
            size = min(sizes[letter] for letter in entry.of.split())
            batch[entry.name] = ((batch[entry.name] * size).round().clamp(min=1) / size).float()
    return batch


def items_of(row: str, batch: dict[str, torch.Tensor], cut: bool) -> list[dict[str, np.ndarray]]:
    """The items of a batch, each cut to its own lengths or padded as they stand."""
    entry = catalog.get(row)
    ranks = {name: x.dim() for name, x in batch.items()}
    letters = entry.contract.letters(ranks)
    lengths = {e.of: e.name for e in entry.inputs if e.of and len(e.of) == 1}
    if entry.contract.aligned and "T" in lengths:
        lengths["N"] = lengths["T"]
    items = []
    first, terms = next(iter(letters.items()))
    for i in range(batch[first].shape[terms.index("B") if "B" in terms else 0]):
        item = {}
        for name, terms in letters.items():
            array = batch[name].select(terms.index("B"), i) if "B" in terms else batch[name][i : i + 1]
            left = [term for term in terms if term != "B"]
            for axis, term in enumerate(left):
                base, _, more = term.partition("+")
                if cut and base in lengths:
                    keep = round(batch[lengths[base]][i].item() * (array.shape[axis] - int(more or 0)))
                    array = array.narrow(axis, 0, keep + int(more or 0))
            if not (cut and name in lengths.values()):
                item[name] = array.numpy()
        items.append(item)
    return items


def totals_of(
    session: LossSession, items: list[dict[str, np.ndarray]], seed: int, most: int
) -> dict[str, Any]:
    """The totals of `items` in an order of `seed`'s, at most `most` to a batch."""
    batches, totals = Batches(session), Totals(Batches(session).totals)
    alone = [
        batches.ready(np.array([row]), {name: Column.of([array]) for name, array in item.items()})
        for row, item in enumerate(random.Random(seed).sample(items, len(items)))
    ]
    most = most if batches.together else 1
    for group in Items.join(alone).alike() if batches.together else alone:
        for start in range(0, len(group), most):
            some = group.part(slice(start, start + most))
            totals.add(batches.values(some, batches.session(**batches.collate(some))))
    return totals.result()


def expected(row: str, reduction: str, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """What the row gives for the whole batch in float64."""
    entry = catalog.get(row)
    per_element = any(total.by for total in entry.contract.totals)
    settings: dict[str, Any] = {}
    if reduction:
        like_mean = ("batch", "none", "sum") if per_element else ("batch",)
        settings["reduction"] = "mean" if reduction in like_mean else reduction
        if row == "LaplacianVarianceLoss":
            settings["reduction"] = "batch"
        elif not per_element and reduction == "none":
            settings["reduction"] = "mean" if row == "transducer_loss" else "batchmean"
    # without its rounding to float32, by which a length may be above its frames
    lengths = {value.name for value in entry.inputs if value.of}
    double = {
        name: x.double() * (1 - 1e-6 * (name in lengths)) if x.is_floating_point() else x
        for name, x in batch.items()
    }
    outputs = entry.module(**settings)(**double)
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    found = dict(zip(entry.outputs, values, strict=True))
    sums = {total.output for total in entry.contract.totals if total.kind == "sum"}
    return {
        total.output: (
            found[total.output].double().sum()
            if total.output in sums
            else found[total.output].double().mean()
        ).item()
        for total in entry.contract.totals
    }


@pytest.mark.parametrize(("row", "reduction"), CASES)
def test_the_total_is_the_row_of_everything_at_once(row: str, reduction: str) -> None:
    settings = {"reduction": reduction} if reduction else {}
    graph = exports.onnx(catalog.get(row).module(**settings))
    batch = one_batch(row)
    want = expected(row, reduction, batch)
    for native in (False, "auto"):
        session = LossSession(graph, native=native)
        for cut in (True, False):
            items = items_of(row, batch, cut)
            one = totals_of(session, items, 0, 1)
            assert {name: found["value"] for name, found in one.items()} == pytest.approx(want, 3e-5, 1e-6)
            for seed, most in ((1, 2), (2, 3), (3, 100)):
                assert totals_of(session, items, seed, most) == one


@pytest.mark.parametrize("row", LIKE_TRANSDUCER)
def test_what_is_padded_and_what_adds_up_are_those_of_others(row: str) -> None:
    what = "Align" if row.endswith("Align") else "Posterior"
    ours, loss = catalog.get(row).contract, catalog.get(f"{row.removesuffix(what)}Loss").contract
    assert ours.totals == catalog.get(f"Transducer{what}").contract.totals
    assert ours.inputs == loss.inputs


@pytest.mark.parametrize("row", OF_WEIGHTS)
def test_what_all_items_share_is_refused(row: str) -> None:
    session = LossSession(exports.onnx(catalog.get(row).module()))
    with pytest.raises(ValueError, match="graph: got weight and bias as inputs, which all items share"):
        Batches(session)
