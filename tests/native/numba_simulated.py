"""Numba's kernels for a GPU in its simulator, held to plain torch. Slow: sizes are small.

Run with NUMBA_ENABLE_CUDASIM=1, which Numba looks at when it is loaded.
"""

import sys

import torch
from computer_cases import HARD, behind, check, compute, lattice

from exportable_losses.ops import numba_gpu

numba_gpu._THREADS = 3  # so that each has more than one state, and some have one more than others


def main(loss: str) -> None:
    for case in HARD:
        given = case(loss)
        if case.__name__ == "long":
            continue
        given = given._replace(
            **{name: getattr(given, name)[:2] for name in given._fields if name != "blank"}
        )
        check(numba_gpu, given, torch.float64)
        print(f"{loss}: {case.__name__}")
    given = lattice(loss, (2, 5, 4, 2), seed=2)
    check(numba_gpu, given, torch.float32)
    costs, grad = compute(numba_gpu, given, torch.float64)
    given.scores[behind(given)] = torch.nan
    again, grad_again = compute(numba_gpu, given, torch.float64)
    assert torch.equal(costs, again)
    assert torch.equal(grad, grad_again)
    print(f"{loss}: nothing behind a length")
    beyond = given._replace(scores=lattice(loss, (2, 5, 4, 2), seed=2).scores)
    beyond.input_lengths[:], beyond.target_lengths[:] = 5, 2
    costs, _ = compute(numba_gpu, beyond, torch.float64)
    beyond.input_lengths[:], beyond.target_lengths[:] = 99, 2**40
    again, _ = compute(numba_gpu, beyond, torch.float64)
    assert torch.equal(costs, again)
    beyond.targets[1, 0] = 99
    again, grad = compute(numba_gpu, beyond, torch.float64)
    assert torch.equal(again, torch.stack([costs[0], torch.tensor(torch.inf)]))
    assert not grad[1].any()
    print(f"{loss}: lengths and labels out of range")


if __name__ == "__main__":
    main(sys.argv[1])
