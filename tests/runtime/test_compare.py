"""The parity report against differences worked out by hand."""

import ml_dtypes
import numpy as np
import pytest

from exportable_losses.runtime import compare

INF, NAN = np.inf, np.nan


def test_differences_are_the_largest_of_an_output() -> None:
    [d] = compare({"loss": np.array([1.0, 2.0, -4.0])}, {"loss": np.array([1.0, 2.5, -4.25])})
    assert (d.output, d.absolute, d.relative, d.scale) == ("loss", 0.5, 0.2, 4.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_in_the_last_place_are_of_the_expected_dtype(dtype: type) -> None:
    expected = np.array([1.0, 8.0, -INF], dtype)
    got = expected + np.array([4, 3, 0], dtype) * np.spacing(dtype(8.0))
    [d] = compare({"x": got}, {"x": expected})
    assert d.ulp == 4  # places of the largest number


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_the_largest_number_of_a_dtype_has_a_place_too(dtype: type) -> None:
    most = ml_dtypes.finfo(dtype).max if dtype is ml_dtypes.bfloat16 else np.finfo(dtype).max
    expected = np.array([most, 1], dtype)
    below = np.nextafter(expected, dtype(0))
    [d] = compare({"x": np.array([below[0], 1], dtype)}, {"x": expected})
    assert d.ulp == 1
    [far] = compare({"x": np.zeros(2, dtype)}, {"x": expected})
    assert far.ulp > 100
    assert not far.within()


def test_equal_infinities_and_nans_are_no_difference() -> None:
    values = np.array([INF, -INF, NAN, 1.0])
    [d] = compare({"x": values}, {"x": values})
    assert (d.absolute, d.relative, d.ulp) == (0, 0, 0)
    assert d.within()


@pytest.mark.parametrize(("got", "expected"), [(INF, -INF), (INF, 1.0), (1.0, INF), (NAN, 1.0), (1.0, NAN)])
def test_one_infinity_or_nan_is_an_infinite_difference(got: float, expected: float) -> None:
    [d] = compare({"x": np.array([got])}, {"x": np.array([expected])})
    assert (d.absolute, d.relative, d.ulp) == (INF, INF, INF)
    assert not d.within()


def test_other_shapes_differ_infinitely() -> None:
    [d] = compare({"x": np.zeros(2)}, {"x": np.zeros((2, 1))})
    assert not d.shapes_agree
    assert not d.within()


def test_within_is_of_the_largest_magnitude_or_absolute() -> None:
    [large] = compare({"x": np.array([1000.01, 0.01])}, {"x": np.array([1000.0, 0.0])})
    assert large.within(rtol=2e-5, atol=0)
    assert not large.within(rtol=5e-6, atol=0)
    [small] = compare({"x": np.array([1e-6])}, {"x": np.array([0.0])})
    assert small.within(rtol=0, atol=2e-6)
    assert not small.within(rtol=0, atol=5e-7)


def test_names_must_agree() -> None:
    with pytest.raises(ValueError, match=r"^got: a, expected b"):
        compare({"a": np.zeros(1)}, {"b": np.zeros(1)})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_one_place_of_sixteen_bits_is_within_and_two_are_not(dtype: type) -> None:
    expected = np.array([3, 1], dtype)
    one = np.nextafter(expected, dtype(4))
    two = np.nextafter(one, dtype(4))
    for got, places in ((expected, 0), (one, 1), (two, 2), (expected - (one - expected), 1)):
        [d] = compare({"x": np.array([got[0], 1], dtype)}, {"x": expected})
        assert (d.ulp, d.half) == (places, True)
        assert d.within() == (places < 2)
        assert d.within(rtol=0, atol=0) == (places < 2)
    [wide] = compare({"x": one.astype(np.float32)}, {"x": expected.astype(np.float32)})
    assert not wide.half
    assert not wide.within()
