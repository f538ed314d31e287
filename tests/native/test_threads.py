"""One library, several threads: each gets the numbers that it would get alone, to the last bit."""

import concurrent.futures
from typing import Any

import exports
import numpy as np
import pytest
import torch
from building import plain, shared_library

import exportable_losses as el
from exportable_losses import ops
from exportable_losses.ops import native
from exportable_losses.runtime import LossSession

OPS = torch.ops.exportable_losses
SIZES = [
    (1, 3, 1, 4),
    (1, 1200, 30, 9),
    (4, 25, 6, 9),
    (3, 40, 3, 70),
    (6, 11, 9, 5),
    (2, 64, 12, 33),
    (5, 1, 0, 3),
]
LOSSES = ("ctc", "transducer")


@pytest.fixture(scope="module", autouse=True)
def _library() -> Any:
    """The installed library, or one built for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        if native.about() == {}:
            patch.setenv("EXPORTABLE_LOSSES_LIBRARY", shared_library(plain(), "exportable_losses"))
            native._library.cache_clear()
        with ops.using("native"):
            yield
    native._library.cache_clear()


def batch(loss: str, sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    items, frames, labels, classes = sizes
    random = torch.Generator().manual_seed(sum(sizes))
    shape = (items, frames, classes) if loss == "ctc" else (items, frames, labels + 1, classes)
    scores = torch.randn(shape, generator=random, dtype=dtype)
    return (
        scores.log_softmax(-1) if loss == "ctc" else scores,
        torch.randint(1, classes, (items, labels), generator=random),
        torch.randint(0, frames + 1, (items,), generator=random),
        torch.randint(0, labels + 1, (items,), generator=random),
        0,
        torch.rand(items, generator=random, dtype=dtype),
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_threads(loss: str, dtype: torch.dtype) -> None:
    operator = getattr(OPS, f"{loss}_loss_grad")
    before = torch.get_num_threads()
    try:
        for sizes in SIZES:
            given = batch(loss, sizes, dtype)
            torch.set_num_threads(1)
            expected = operator(*given)
            for threads in (2, 4):
                torch.set_num_threads(threads)
                for got, one in zip(operator(*given), expected, strict=True):
                    assert torch.equal(got, one)
    finally:
        torch.set_num_threads(before)


def test_sessions_and_operators_at_once() -> None:
    """Two threads with sessions of their own, one that shares theirs, two with the torch operators."""
    modules = {"ctc": el.CTCLoss(reduction="none"), "transducer": el.TransducerLoss(reduction="none")}
    files = {loss: exports.onnx(module) for loss, module in modules.items()}
    feeds: list[tuple[str, dict[str, np.ndarray]]] = []
    for loss in modules:
        for sizes in SIZES[:-1]:
            scores, targets, input_lengths, target_lengths, *_ = batch(loss, sizes)
            relative = (input_lengths.clamp(min=1) / sizes[1], target_lengths / sizes[2])
            name = "log_probs" if loss == "ctc" else "logits"
            names = (name, "targets", "input_lens", "target_lens")
            given = zip(names, (scores, targets, *relative), strict=True)
            feeds.append((loss, {key: tensor.numpy() for key, tensor in given}))
    calls = [(loss, batch(loss, sizes)) for loss in LOSSES for sizes in SIZES]

    def sessions() -> dict[str, LossSession]:
        return {loss: LossSession(file, native=True) for loss, file in files.items()}

    shared = sessions()
    by_session = [shared[loss](**feed)["loss"] for loss, feed in feeds]
    by_operator = [getattr(OPS, f"{loss}_loss_grad")(*given) for loss, given in calls]
    rounds = 15

    def with_sessions(own: bool) -> None:
        mine = sessions() if own else shared
        for _ in range(rounds):
            for (loss, feed), expected in zip(feeds, by_session, strict=True):
                np.testing.assert_array_equal(mine[loss](**feed)["loss"], expected)

    def with_operators(threads: int) -> None:
        torch.set_num_threads(threads)  # of the calling thread
        for _ in range(rounds):
            for (loss, given), expected in zip(calls, by_operator, strict=True):
                for got, one in zip(getattr(OPS, f"{loss}_loss_grad")(*given), expected, strict=True):
                    assert torch.equal(got, one)

    work = [(with_sessions, True), (with_sessions, True), (with_sessions, False)]
    work += [(with_operators, 1), (with_operators, 3)]
    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(function, argument) for function, argument in work]:
            future.result()
