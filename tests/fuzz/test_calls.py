"""A minute of random calls of all rows; `make fuzz` makes more."""

import calls
import pytest

from exportable_losses import catalog

EXAMPLES = 12  # of each row, some four calls each


@pytest.mark.parametrize("row", catalog.names())
def test_random_calls(row: str) -> None:
    tally = calls.Tally()
    calls.fuzz(row, EXAMPLES, 0, tally)
    assert tally.calls.total() > EXAMPLES
