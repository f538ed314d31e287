"""A branch whose error something may catch decides what is computed: it is no branch that only raises."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import answers
from onnx_runs import onnx_runtime
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import record_function

from exportable_losses.export import to_onnx

without_gradients = torch.no_grad


class Quiet:
    """A context of one's own, which catches."""

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> bool:
        return True


def no_grad() -> Quiet:
    return Quiet()


def raises(v: Any) -> None:
    if v > 3:
        raise ValueError


# What nothing catches


def raises_in_contexts_of_torch(v: Any) -> None:
    with without_gradients(), torch.autocast("cpu", enabled=False), torch.inference_mode():
        raises(v)
    with torch.amp.autocast("cpu"), sdpa_kernel(SDPBackend.MATH), record_function("x"), torch.enable_grad():
        if v:
            raise ValueError


def raises_another(v: Any) -> None:
    try:
        if v:
            raise ValueError
        raises(v)
    except ValueError as error:
        for each in (1, 2):
            if each == 1:
                continue
            print(each)
        raise TypeError("no number") from error
    finally:
        print(end="")


def raises_behind(v: Any) -> None:
    with contextlib.suppress(ValueError):
        int("three")
    try:
        int("3")
    except ValueError:
        print(end="")
    else:
        raises(v)


with contextlib.suppress(ImportError):  # around the whole function: it is over when that is called

    def raises_alone(v: Any) -> None:
        if v:
            raise ValueError


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (raises_in_contexts_of_torch, [False, False]),
        (raises_another, [False, False]),
        (raises_behind, [False]),
        (raises_alone, [False]),
    ],
)
def test_what_nothing_catches_is_passed(function: Callable[..., Any], expected: list[bool]) -> None:
    assert answers(function) == expected


# What something may catch


def suppresses(v: Any) -> None:
    with contextlib.suppress(ValueError):
        if v:
            raise ValueError


def suppresses_by_its_own(v: Any) -> None:
    with torch.no_grad(), Quiet():
        if v:
            raise ValueError


def suppresses_by_what_has_a_known_name(v: Any) -> None:
    with no_grad():
        if v:
            raise ValueError


def suppresses_by_what_was_made_before(v: Any) -> None:
    quiet = Quiet()
    with quiet:
        if v:
            raise ValueError


def suppresses_in_the_branch(v: Any) -> None:
    if v:
        with contextlib.suppress(ValueError):
            raise ValueError


def catches_what_is_raised_before(v: Any) -> int:
    if v:
        try:
            int("three")
        except ValueError:
            return 3
        raise ValueError
    return 1


def catches_at_times(v: Any) -> int:
    try:
        if v:
            raise ValueError
    except ValueError:
        if v is None:
            return 2
        raise
    return 1


def catches_and_suppresses(v: Any) -> None:
    try:
        if v:
            raise ValueError
    except ValueError:
        with contextlib.suppress(ValueError):
            raise


def continues(v: Any) -> None:
    for _ in (1, 2):
        try:
            if v:
                raise ValueError
        except ValueError:
            if v is not None:
                continue
            raise


def returns_at_last(v: Any) -> int:
    try:
        if v:
            raise ValueError
    finally:
        return 2  # noqa: B012


def breaks_at_last(v: Any) -> None:
    for _ in (1, 2):
        try:
            print(end="")
        except ValueError:
            raise
        else:
            if v:
                raise ValueError
        finally:
            break  # noqa: B012


def calls_what_raises_and_suppresses(v: Any) -> None:
    with contextlib.suppress(ValueError):
        raises(v)


def calls_what_raises_and_catches(v: Any) -> None:
    try:
        raises_another(v)
    except TypeError:
        print(end="")


def calls_what_raises_and_returns_at_last(v: Any) -> int:
    try:
        raises(v)
    finally:
        return 2  # noqa: B012


def goes_through_what_raises_and_suppresses(v: Any) -> None:
    with contextlib.suppress(ValueError):
        print(*(raises(each) for each in (v,)), end="")


@pytest.mark.parametrize(
    "function",
    [
        suppresses,
        suppresses_by_its_own,
        suppresses_by_what_has_a_known_name,
        suppresses_by_what_was_made_before,
        suppresses_in_the_branch,
        catches_what_is_raised_before,
        catches_at_times,
        catches_and_suppresses,
        continues,
        returns_at_last,
        breaks_at_last,
        calls_what_raises_and_suppresses,
        calls_what_raises_and_catches,
        calls_what_raises_and_returns_at_last,
        goes_through_what_raises_and_suppresses,
    ],
)
def test_what_something_may_catch_has_no_answer(function: Callable[..., Any]) -> None:
    assert set(answers(function)) == {None}


# In a graph


class Suppresses(nn.Module):
    """Twice the mean where a target is out of range."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        factor = 1.0
        with contextlib.suppress(ValueError):
            if y.max() > 2:
                raise ValueError("y")
            factor = 2.0
        return factor * x.mean()


class Returns(nn.Module):
    """What goes on from an error in `finally`."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = x.sum()
        try:
            if y.max() > 2:
                raise ValueError("y")
            loss = x.mean()
        finally:
            return loss  # noqa: B012


class Checks(nn.Module):
    """A check within contexts of torch."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            if y.max() > 2:
                raise ValueError("y")
        return x.mean()


X, Y = torch.rand(2, 3), torch.tensor([1, 2])


@pytest.mark.parametrize("module", [Suppresses(), Returns()])
def test_what_something_may_catch_is_refused(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not export: Could not guard on data-dependent expression"):
        to_onnx(module, tmp_path / "x.onnx", {"x": X, "y": Y})
    assert not list(tmp_path.iterdir())


def test_a_check_without_gradients_is_passed(tmp_path: Path) -> None:
    to_onnx(Checks(), tmp_path / "x.onnx", {"x": X, "y": Y}, gradients=("x",))
    got = onnx_runtime(tmp_path / "x.onnx")({"x": X, "y": Y})
    np.testing.assert_allclose(got["loss"], X.mean(), rtol=1e-6)
