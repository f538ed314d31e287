"""What torchaudio's function is called with, and what is made of its answer; a stand-in answers here."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from computer_cases import HARD, behind, check, lattice
from torch import Tensor

from exportable_losses import functional as F
from exportable_losses.ops import plain, torchaudio, using


class StandIn:
    """Answers as torchaudio does, and takes what torchaudio takes."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def rnnt_loss(
        self, logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, **settings: Any
    ) -> Tensor:
        self.calls.append({"logits": logits, **settings})
        assert logits.dtype == torch.float32
        assert all(x.dtype == torch.int32 for x in (targets, logit_lengths, target_lengths))
        assert all(x.is_contiguous() for x in (logits, targets, logit_lengths, target_lengths))
        assert logits.shape[1] == logit_lengths.max()
        assert logits.shape[2] == target_lengths.max() + 1 == targets.shape[1] + 1
        assert not logits.isneginf().any()
        integers = (targets.long(), logit_lengths.long(), target_lengths.long())
        return _Differentiable.apply(logits, *integers, settings["blank"])


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, *rest: Any) -> Tensor:
        costs, ctx.grad = plain.transducer(logits, *rest, torch.ones(len(logits)))
        return costs.clamp(max=1e30)

    @staticmethod
    def backward(ctx: Any, grad_costs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.grad * grad_costs[:, None, None, None], None, None, None, None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    answers = StandIn()
    monkeypatch.setitem(sys.modules, "torchaudio", SimpleNamespace(functional=answers))
    torchaudio._rnnt_loss.cache_clear()
    yield answers
    torchaudio._rnnt_loss.cache_clear()


@pytest.mark.parametrize(
    "case", [case for case in HARD if case.__name__ != "no_frame"], ids=lambda case: case.__name__
)
def test_every_lattice_is_taken_as_torchaudio_takes_it(stand_in: StandIn, case: Any) -> None:
    check(torchaudio, case("transducer"), torch.float32)
    settings = {"clamp": -1, "reduction": "none", "fused_log_softmax": True}
    for call in stand_in.calls:
        assert call.items() >= {"blank": case("transducer").blank, **settings}.items()


def test_no_more_is_given_than_the_longest_item_has(stand_in: StandIn) -> None:
    given = lattice("transducer")
    given.input_lengths[:], given.target_lengths[:] = 4, 2
    check(torchaudio, given, torch.float32)
    assert stand_in.calls[0]["logits"].shape == (4, 4, 3, 5)
    assert behind(given).any()


def test_a_batch_of_nothing_is_not_given(stand_in: StandIn) -> None:
    scores, *integers = (x[:0] for x in lattice("transducer")[:4])
    costs, grad = torchaudio.transducer(scores.float(), *integers, 0, torch.ones(0))
    assert costs.shape == (0,)
    assert grad is not None
    assert grad.shape == scores.shape
    assert not stand_in.calls


def test_it_is_taken_only_where_it_is_named(stand_in: StandIn) -> None:
    logits = torch.randn(2, 4, 3, 5, requires_grad=True)
    arguments = (torch.tensor([[1, 2], [2, 2]]), torch.ones(2), torch.ones(2))
    expected = F.transducer_loss(logits, *arguments, 0, use_torchaudio=True)
    (gradient,) = torch.autograd.grad(expected, logits)
    assert not stand_in.calls
    with using("torchaudio"):
        loss = F.transducer_loss(logits, *arguments, 0)
        assert len(stand_in.calls) == 1
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient)
        with pytest.raises(RuntimeError, match="it computes the transducer only"):
            F.ctc_loss(torch.zeros(2, 4, 5), *arguments, 0)
    torch.testing.assert_close(loss, expected)


def test_what_it_does_not_know(stand_in: StandIn) -> None:
    assert torchaudio.unavailable(torch.empty(1, 1, 1, 1)) == ""
    assert "float64" in torchaudio.unavailable(torch.empty(1, 1, 1, 1, dtype=torch.float64))
    assert "not on meta" in torchaudio.unavailable(torch.empty(1, 1, 1, 1, device="meta"))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ModuleNotFoundError("no", name="torchaudio"), "torchaudio is not installed"),
        (
            OSError("libcudart.so.13: cannot open\nmore"),
            "torchaudio does not load: libcudart.so.13: cannot open",
        ),
    ],
)
def test_it_says_why_it_is_not_there(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def fails(_: str) -> Any:
        raise error

    monkeypatch.setattr(torchaudio.importlib, "import_module", fails)
    torchaudio._rnnt_loss.cache_clear()
    try:
        assert torchaudio.unavailable(torch.empty(1, 1, 1, 1)) == why
    finally:
        torchaudio._rnnt_loss.cache_clear()


def test_the_real_one() -> None:
    why = torchaudio.unavailable(torch.empty(1, 1, 1, 1))
    if why:
        pytest.skip(why)
    check(torchaudio, lattice("transducer", (5, 30, 12, 9)), torch.float32)
