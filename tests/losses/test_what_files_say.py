"""What a contract writes into files: other versions read it, and it says what adds up over a corpus."""

import json

import pytest

from exportable_losses import catalog
from exportable_losses.contract import Contract, Input, Total

OLD = {"name", "dims", "legal", "optional", "below", "lengths"}  # what the first files say of an input


@pytest.mark.parametrize("row", catalog.names())
def test_an_input_says_no_more_than_it_has_to(row: str) -> None:
    """What came later and does not apply is left out: a version that does not know it reads the file."""
    contract = catalog.get(row).contract
    for entry, written in zip(contract.inputs, contract.to_json()["inputs"], strict=True):
        later = {name for name in ("nonempty", "of") if getattr(entry, name)}
        assert set(written) == OLD | later


def test_a_file_from_before_totals_has_none() -> None:
    contract = Contract((Input("x", "B T"),), totals=(Total("loss", by="T"),))
    written = json.loads(json.dumps(contract.to_json()))
    assert Contract.from_json(written) == contract
    del written["totals"]
    assert Contract.from_json(written).totals == ()


@pytest.mark.parametrize(
    ("row", "setting", "usual", "other"),
    [("kldiv_loss", "label_smoothing", 0.0, 0.1), ("AutoencoderLoss", "len_dim", 1, 2)],
)
def test_some_settings_keep_outputs_from_adding_up(
    row: str, setting: str, usual: float, other: float
) -> None:
    """Smoothed labels and frames along another dimension have values that depend on the padding."""
    contract = catalog.get(row).contract
    assert list(contract.totals_of({setting: usual})) == list(contract.outputs)
    assert list(contract.totals_of({})) == list(contract.outputs)  # of a row without the setting
    assert contract.totals_of({setting: other}) == {}


@pytest.mark.parametrize(
    ("total", "reduction", "expected"),
    [
        (Total("loss"), "sum", Total("loss", "sum")),  # of costs per item
        (Total("loss"), "none", Total("loss")),
        (Total("loss", by="T"), "mean", Total("loss", by="T")),
        (Total("loss", by="T"), "batchmean", Total("loss")),
        (Total("loss", by="T"), "sum", Total("loss", by="T", each=True)),
        (Total("loss", by="T"), "none", Total("loss", by="T", each=True)),
        (Total("rate", "ratio", "errors tokens"), "sum", Total("rate", "ratio", "errors tokens")),
    ],
)
def test_a_reduction_decides_how_values_add_up(total: Total, reduction: str, expected: Total) -> None:
    assert total.reduced(reduction) == expected
