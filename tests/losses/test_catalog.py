"""The catalog tells the truth about its rows."""

import json

import pytest
import torch
from torch import Tensor, nn

from exportable_losses import catalog, contract, speechbrain

# Those that there have been; a new row is not named here.
METRICS = [
    "Accuracy",
    "ExpectedCalibrationError",
    "Perplexity",
    "EqualErrorRate",
    "MinDCF",
    "SDR",
    "SISNRImprovement",
    "CTCGreedyDecode",
    "CTCPosterior",
    "CTCForwardChunk",
    "CTCAlign",
    "CTCKeywordScore",
    "TransducerPosterior",
    "TransducerAlign",
    "EditDistance",
    "TokenErrorRate",
]


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_there_are_thirty_rows_of_speechbrain_and_the_metrics() -> None:
    of_speechbrain = [name for name in catalog.names() if name in speechbrain.__all__]
    assert len(of_speechbrain) == 30
    assert len(catalog.names()) == len(set(catalog.names()))
    assert [name for name in catalog.names() if name in METRICS] == METRICS
    assert not set(of_speechbrain) & set(METRICS)
    assert all(catalog.get(name).type.__name__ == name for name in METRICS)


@pytest.mark.parametrize("row", catalog.names())
def test_the_same_seed_gives_the_same_example(row: str) -> None:
    entry = catalog.get(row)
    one, same, other = (entry.example_inputs(seed) for seed in (5, 5, 6))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    assert [value.name for value in entry.inputs] == list(one)
    for value in entry.inputs:
        assert str(one[value.name].dtype) == f"torch.{value.dtype}"
        assert value.legal in contract.LEGAL


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss", "CTCAlign"])
@pytest.mark.parametrize("blank", [0, 6, 7, 1023])
def test_the_blank_may_be_any_class(row: str, blank: int) -> None:
    entry = catalog.get(row)
    inputs = entry.example_inputs(blank_index=blank)
    assert (inputs["targets"] != blank).all()
    costs = as_tuple(entry.module(blank_index=blank)(**inputs))[-1]
    assert costs.isfinite().all()


@pytest.mark.parametrize("row", catalog.names())
def test_the_catalog_knows_its_modules(row: str) -> None:
    entry = catalog.get(row)
    module = entry.module()
    assert catalog.find(module) == entry.fitted(catalog.settings_of(module))
    settings = catalog.settings_of(module)
    assert set(settings) == set(entry.settings)
    rebuilt = as_tuple(entry.module(**settings)(**entry.example_inputs()))
    for one, other in zip(rebuilt, as_tuple(module(**entry.example_inputs())), strict=True):
        assert torch.equal(one, other)
    as_text = json.dumps(entry.contract.to_json())
    assert contract.Contract.from_json(json.loads(as_text)) == entry.contract
    assert len(entry.summary) > 20
    assert entry.summary.endswith(".")


def test_a_module_of_ones_own_has_no_row() -> None:
    assert catalog.find(nn.L1Loss()) is None
