"""Columns of Arrow at their edges: without a number at all, and tensors that are missing."""

import numpy as np
import pyarrow as pa

from exportable_losses.runtime.corpus.columns import column_of


def test_empty_lists_may_have_no_buffer_of_numbers() -> None:
    """Arrow leaves out the buffer of nothing."""
    nothing = pa.Array.from_buffers(pa.float32(), 0, [None, None])
    found, wrong = column_of("x", pa.ListArray.from_arrays(pa.array([0, 0, 0], pa.int32()), nothing))
    assert wrong == {}
    assert [(array.dtype, array.shape) for array in found] == [(np.dtype("float32"), (0,))] * 2


def test_a_tensor_that_is_missing_leaves_the_others() -> None:
    storage = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
    column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 1)), storage)
    found, wrong = column_of("x", column)
    assert wrong == {1: "x: got a null, expected an array of numbers"}
    for got, array in zip(found.part(np.array([0, 2])), [[[1], [2]], [[3], [4]]], strict=True):
        np.testing.assert_array_equal(got, array)
