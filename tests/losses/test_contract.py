"""What a contract says of shapes, beyond what the rows of the catalog need of it."""

import pytest
import torch

from exportable_losses import catalog
from exportable_losses.contract import Contract, Input


def test_what_may_be_left_out_and_what_a_star_stands_for_are_two_things() -> None:
    """Optional dimensions are there together or not at all, and every star has as many: apart."""
    contract = Contract(
        (Input("one", "B T?"), Input("other", "B N?"), Input("deep", "B *"), Input("deeper", "B K *"))
    )
    ranks = {"one": 1, "other": 1, "deep": 3, "deeper": 4}
    assert contract.letters(ranks)["deeper"] == ["B", "K", "X0", "X1"]
    with pytest.raises(ValueError, match=r"^other: got 2 dimensions, expected 1 where one has 1"):
        contract.letters({**ranks, "other": 2})
    with pytest.raises(ValueError, match=r"^deeper: got 3 dimensions, expected 4 where deep has 3"):
        contract.letters({**ranks, "deeper": 3})


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss"])
def test_a_trace_is_not_checked(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are those of an example: what is read of them would be a constant of the graph."""
    entry = catalog.get(row)
    inputs, module = entry.example_inputs(), entry.module()
    expected = module(**inputs)

    def checked(*_: object, **__: object) -> None:
        raise AssertionError("a trace is checked")

    monkeypatch.setattr(Contract, "check", checked)
    traced = torch.jit.trace(module, tuple(inputs.values()), check_trace=False)
    torch.testing.assert_close(traced(*inputs.values()), expected)
    with pytest.raises(AssertionError, match="a trace is checked"):
        module(**inputs)
