"""Whoever computes the lattices passes the same tests."""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from computer_cases import HARD, SETS, Lattice, behind, check, compute, lattice, native_on, tight
from enumeration import ctc_by_enumeration, label_sequences, padded, transducer_by_enumeration
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from recorded import Recording, recordings

from exportable_losses.ops import plain, using
from exportable_losses.ops.computers import COMPUTERS
from exportable_losses.ops.cuda import cuda_library_path

F32, F64 = torch.float32, torch.float64
BF16, F16 = torch.bfloat16, torch.float16
EVERYONE = [*(f"native {isa}" for isa in SETS), "torchaudio", "numba", "torch"]
if torch.cuda.is_available():
    EVERYONE += [f"{name} on a GPU" for name in ("cuda", "torchaudio", "numba", "torch")]
LATTICES = [
    pytest.param(r, id=r.id) for r in recordings() if r.name in ("ctc_loss", "ctc_loss_kd", "transducer_loss")
]
each_loss = pytest.mark.parametrize("loss", ["ctc", "transducer"])
each_type = pytest.mark.parametrize("dtype", [F32, F64, BF16, F16])


class Computer(NamedTuple):
    """One that computes, and where."""

    name: str
    device: str

    @property
    def module(self) -> ModuleType:
        return COMPUTERS[self.name]

    def needs(self, loss: str, dtype: torch.dtype) -> None:
        """Skip the test where this computer does not compute such a lattice."""
        scores = torch.empty([1] * (3 if loss == "ctc" else 4), dtype=dtype, device=self.device)
        why = self.module.unavailable(scores)
        if why:
            pytest.skip(f"{self.name}: {why}")


@pytest.fixture(scope="module", params=EVERYONE)
def computer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computer]:
    name, _, rest = request.param.partition(" ")
    if name != "native":
        yield Computer(name, "cuda" if rest else "cpu")
        return
    with native_on(rest, tmp_path_factory.mktemp(rest)):
        yield Computer(name, "cpu")


def test_a_gpu_is_here() -> None:
    """Says that this run had none, where it had none."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use here, so nobody computed on one")
    assert any(name.endswith("on a GPU") for name in EVERYONE)


# The numbers of others


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("recording", LATTICES)
def test_recordings(computer: Computer, recording: Recording, dtype: torch.dtype) -> None:
    computer.needs("transducer" if recording.name == "transducer_loss" else "ctc", dtype)
    tensors = {
        name: (x.to(dtype) if x.is_floating_point() else x).to(computer.device)
        for name, x in recording.tensors().items()
    }
    for name in recording.grads:
        tensors[name].requires_grad_()
    with using(computer.name):
        (got,) = recording.as_module(tensors)
        (want,) = recording.expected()
        torch.testing.assert_close(got.detach().cpu(), want.to(dtype), rtol=2e-5, atol=2e-5)
        if recording.grads:
            got.sum().backward()
    for name in recording.grads:
        want = recording.gradient(name).to(dtype)
        torch.testing.assert_close(tensors[name].grad.cpu(), want, rtol=2e-4, atol=2e-5)


@each_type
@pytest.mark.parametrize("blank", [0, 1, 2])
def test_ctc_is_the_sum_over_all_alignments(computer: Computer, blank: int, dtype: torch.dtype) -> None:
    computer.needs("ctc", dtype)
    sequences = label_sequences(3, blank, 4)
    item = lattice("ctc", (1, 4, 3, 1)).scores[0].to(dtype).double()
    truth = [ctc_by_enumeration(item, s, blank) for s in sequences]
    assert any(cost.isinf() for cost, _ in truth)
    costs, grad = compute(computer.module, of_one_item(item, sequences, 4, blank), dtype, computer.device)
    torch.testing.assert_close(costs, torch.stack([cost for cost, _ in truth]), **tight(dtype))
    gradients = torch.stack([gradient for _, gradient in truth])
    torch.testing.assert_close(grad, gradients, **tight(dtype, grad=True))


@each_type
@pytest.mark.parametrize("blank", [0, 1, 2])
def test_transducer_is_the_sum_over_all_alignments(
    computer: Computer, blank: int, dtype: torch.dtype
) -> None:
    computer.needs("transducer", dtype)
    sequences = label_sequences(3, blank, 2)
    item = lattice("transducer", (1, 3, 3, 2)).scores[0].to(dtype).double()
    costs, grad = compute(computer.module, of_one_item(item, sequences, 2, blank), dtype, computer.device)
    for labels, cost, gradient in zip(sequences, costs, grad, strict=True):
        logits = item.clone().requires_grad_()
        truth = transducer_by_enumeration(logits[:, : len(labels) + 1], labels, blank)
        torch.testing.assert_close(cost, truth.detach(), **tight(dtype))
        slopes = torch.autograd.grad(truth, logits)[0]
        torch.testing.assert_close(gradient, slopes, **tight(dtype, grad=True))


def of_one_item(item: torch.Tensor, sequences: list[tuple[int, ...]], width: int, blank: int) -> Lattice:
    """Every sequence for the same scores, in one batch."""
    targets, _ = padded(sequences, width, padding=blank)
    scores = item.expand(len(sequences), *item.shape)
    frames = torch.full((len(sequences),), item.shape[0])
    lengths = torch.tensor([len(s) for s in sequences])
    return Lattice(scores, targets, frames, lengths, blank, torch.ones(len(sequences), dtype=F64))


# Plain torch in float64


@each_type
@each_loss
@pytest.mark.parametrize("case", HARD, ids=lambda case: case.__name__)
def test_hard_cases(computer: Computer, case, loss: str, dtype: torch.dtype) -> None:
    computer.needs(loss, dtype)
    if computer.name == "torchaudio" and case.__name__ == "no_frame":
        with pytest.raises(ValueError, match="torchaudio expects one at least"):
            check(computer.module, case(loss), dtype, computer.device)
        return
    check(computer.module, case(loss), dtype, computer.device)


@each_loss
def test_any_lattice(computer: Computer, loss: str) -> None:
    dtype = F32 if computer.name == "torchaudio" else F64
    computer.needs(loss, dtype)
    sizes = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(2, 9), st.integers(0, 7))

    @settings(max_examples=40, deadline=None)
    @given_any(sizes, st.integers(0, 2**31), st.integers(0, 8), st.sampled_from([0.0, 1.0, 20.0]))
    def agrees(sizes: tuple[int, int, int, int], seed: int, blank: int, scale: float) -> None:
        given = lattice(loss, sizes, seed, blank % sizes[2], scale)
        check(computer.module, given, dtype, computer.device)
        if dtype == F64:
            for less in (F32, BF16, F16):
                check(computer.module, given, less, computer.device)

    agrees()


@each_type
@each_loss
def test_nothing_is_read_behind_a_length(computer: Computer, loss: str, dtype: torch.dtype) -> None:
    computer.needs(loss, dtype)
    given = lattice(loss, (6, 7, 5, 3), seed=3)
    costs, grad = compute(computer.module, given, dtype, computer.device)
    assert not grad[behind(given)].any()
    emitted = torch.arange(given.targets.shape[1]) < given.target_lengths[:, None]
    for garbage in (torch.nan, torch.inf, -torch.inf, 1e30):
        dirty = given._replace(
            scores=given.scores.masked_fill(behind(given), garbage),
            targets=given.targets.masked_fill(~emitted, 10**12),
        )
        again, grad_again = compute(computer.module, dirty, dtype, computer.device)
        torch.testing.assert_close(again, costs, **tight(dtype))
        torch.testing.assert_close(grad_again, grad, **tight(dtype))


@each_type
@each_loss
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("frames", [slice(3, 4), slice(6, 7), slice(0, 7)], ids=["one", "last", "all"])
def test_no_logarithm_of_a_probability(
    computer: Computer, loss: str, dtype: torch.dtype, bad: float, frames: slice
) -> None:
    """A NaN or +inf that the target reads, in whichever frame and class: a NaN, in that item alone."""
    computer.needs(loss, dtype)
    given = lattice(loss)
    costs, grad = compute(computer.module, given, dtype, computer.device)
    for label in (given.blank, *given.targets[0].tolist()):
        scores = given.scores.clone()
        scores[0, frames, ..., label] = bad
        got, got_grad = compute(computer.module, given._replace(scores=scores), dtype, computer.device)
        assert got[0].isnan()
        assert got_grad[0].isnan().all()
        torch.testing.assert_close(got[1:], costs[1:], rtol=0, atol=0)
        torch.testing.assert_close(got_grad[1:], grad[1:], rtol=0, atol=0)


@each_type
def test_a_nan_that_no_arc_takes_is_in_its_softmax(computer: Computer, dtype: torch.dtype) -> None:
    computer.needs("transducer", dtype)
    given = lattice("transducer")
    given.targets[:] = given.targets.clamp(max=given.scores.shape[-1] - 2)
    costs, _ = compute(computer.module, given, dtype, computer.device)
    given.scores[0, 3, ..., -1] = torch.nan
    bad, _ = compute(computer.module, given, dtype, computer.device)
    assert bad[0].isnan()
    torch.testing.assert_close(bad[1:], costs[1:], **tight(dtype))


@each_loss
def test_strides_and_narrow_integers(computer: Computer, loss: str) -> None:
    computer.needs(loss, F32)
    given = lattice(loss)
    scores, *integers = (x.to(computer.device) for x in given[:4])
    scores = scores.float()
    call = getattr(computer.module, loss)
    ones = torch.ones(4, device=computer.device)
    costs, grad = call(scores, *integers, 0, ones)
    views = [scores.transpose(0, 1).contiguous().transpose(0, 1), scores.mT.contiguous().mT]
    for view in views:
        narrow = [x.int() for x in integers]
        narrow[0] = narrow[0].T.contiguous().T
        got, got_grad = call(view, *narrow, 0, torch.ones(1, device=computer.device).expand(4))
        torch.testing.assert_close(got, costs)
        torch.testing.assert_close(got_grad, grad)


@each_loss
def test_threads_do_not_change_the_numbers(computer: Computer, loss: str) -> None:
    computer.needs(loss, F32)
    given = lattice(loss, (7, 20, 6, 5))
    costs, grad = compute(computer.module, given, F32, computer.device)
    torch.set_num_threads(2)
    try:
        again, grad_again = compute(computer.module, given, F32, computer.device)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(again, costs, rtol=0, atol=0)
    torch.testing.assert_close(grad_again, grad, rtol=0, atol=0)


WRONG = {
    "input_lengths": r"input_lengths: got 8 for item 1, expected a number in \[0, 7\]",
    "target_lengths": r"target_lengths: got -1 for item 1, expected a number in \[0, 3\]",
    "targets": r"targets: got 5 for item 0, expected a number in \[0, 4\]",
    "blank": r"blank_index: got 5, expected a number in \[0, 4\]",
}


@each_loss
@pytest.mark.parametrize("wrong", WRONG)
def test_what_lies_outside_is_refused_on_a_cpu(computer: Computer, loss: str, wrong: str) -> None:
    if computer.name not in ("native", "numba") or computer.device != "cpu":
        pytest.skip(f"{computer.name}: leaves it to torch, or to nobody where that would wait for a GPU")
    computer.needs(loss, F32)
    given = lattice(loss)
    given.input_lengths[1] = 8 if wrong == "input_lengths" else 1
    given.target_lengths[1] = -1 if wrong == "target_lengths" else 1
    given.targets[0, 2] = 5 if wrong == "targets" else 1
    given = given._replace(blank=5 if wrong == "blank" else 0)
    with pytest.raises(ValueError, match=WRONG[wrong]):
        compute(computer.module, given, F32, computer.device)


@each_type
def test_uniform_scores_and_a_wide_target(computer: Computer, dtype: torch.dtype) -> None:
    """Every path is as likely as any other: sums over them grow the fastest, and nothing overflows."""
    computer.needs("ctc", dtype)
    given = lattice("ctc", (1, 400, 200, 190), scale=0.0)
    check(computer.module, given, dtype, computer.device)


# The choice


def test_the_first_that_can_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    ctc_of_torch = plain.ctc
    monkeypatch.delenv("EXPORTABLE_LOSSES_COMPUTER", raising=False)
    for name, module in COMPUTERS.items():

        def ctc(*given: torch.Tensor, name: str = name) -> tuple[torch.Tensor, None]:
            called.append(name)
            return ctc_of_torch(*given)

        monkeypatch.setattr(module, "ctc", ctc)
        monkeypatch.setattr(module, "unavailable", lambda _: "")
    given = lattice("ctc")
    arguments = (*given[:4], given.blank)

    def by(*absent: str, name: str | None = None) -> str:
        called.clear()
        with monkeypatch.context() as patch:
            for each in absent:
                patch.setattr(COMPUTERS[each], "unavailable", lambda _: "absent")
            if name is not None:
                patch.setenv("EXPORTABLE_LOSSES_COMPUTER", name)
            torch.ops.exportable_losses.ctc_loss(*arguments)
        return called[0]

    assert by() == "native"
    assert by("native") == "cuda"
    assert by("native", "cuda") == "numba"
    assert by("native", "cuda", "numba") == "torch"
    assert by(name="torchaudio") == "torchaudio"
    with using("torch"):
        assert by(name="numba") == "torch"
    with pytest.raises(RuntimeError, match="the computer 'numba' was asked for: absent"):
        by("numba", name="numba")
    with pytest.raises(ValueError, match="computer: got 'abacus', expected one of native, cuda, "):
        by(name="abacus")


def test_an_empty_variable_is_no_cuda_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", "")
    assert cuda_library_path() is None
    monkeypatch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", "another.so")
    assert cuda_library_path() == "another.so"
