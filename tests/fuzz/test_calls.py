"""Random calls of all rows: some of the graphs that other tests export as well; `make fuzz` makes more."""

import calls
import pytest
from export_cases import QUICK

from exportable_losses import catalog


@pytest.mark.parametrize("row", catalog.names())
def test_random_calls(row: str) -> None:
    tally = calls.Tally()
    calls.fuzz(row, 8, 0, tally, QUICK)
    assert tally.calls.total() > 8


@pytest.mark.thorough  # which exports every case
@pytest.mark.parametrize("row", catalog.names())
def test_random_calls_of_every_case(row: str) -> None:
    calls.fuzz(row, 12, 0, calls.Tally())
