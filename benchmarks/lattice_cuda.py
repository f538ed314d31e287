"""The CUDA kernels on a GPU, as ratios: beside torchaudio's, torch's own and the floor set by the bytes.

    .venv/bin/python benchmarks/lattice_cuda.py

Nothing here has been run on a GPU yet: the machines that this repository is made on have none. What was
run is the kernels' logic, on a CPU (tests/native/cuda/test_cuda_emulation.py). Whoever runs this on a GPU
is asked to send its output.

Each figure is the median of several runs, both sides in turn, timed by events on one stream. The floor is
the time that this GPU takes to copy as many bytes as must be read and written: the scores twice and the
gradient once (CTC: the same of its log-probabilities).
"""

import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from exportable_losses.ops import cuda, plain


def milliseconds(run: Callable[[], object]) -> float:
    """What one call takes on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def in_turn(*calls: Callable[[], object], runs: int = 20) -> list[float]:
    """The median of each call, all run in turn after three warm-ups."""
    times = [[milliseconds(call) for call in calls] for _ in range(runs + 3)][3:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def copy_of(bytes_moved: int) -> Callable[[], object]:
    """A copy that reads and writes as many bytes together."""
    source = torch.empty(bytes_moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def worst_error(costs: Tensor, exact: Tensor) -> float:
    """The largest relative error of a cost."""
    return ((costs.double().cpu() - exact).abs() / exact.abs()).max().item()


def rnnt_loss() -> Callable[..., Tensor] | str:
    """torchaudio's kernel, or why there is none."""
    try:
        from torchaudio.functional import rnnt_loss
    except (ImportError, OSError) as error:
        return f"torchaudio does not load: {error}"
    return rnnt_loss


def transducer(batch: int, frames: int, nodes: int, classes: int) -> None:
    logits = torch.randn(batch, frames, nodes, classes, device="cuda", requires_grad=True)
    targets = torch.randint(1, classes, (batch, nodes - 1), device="cuda")
    lengths = [torch.full((batch,), n, device="cuda") for n in (frames, nodes - 1)]
    weights = torch.ones(batch, device="cuda")
    scores = logits.detach()
    names = ["forward", "with gradient", "floor"]
    calls = [
        lambda: cuda.transducer(scores, targets, *lengths, 0, None),
        lambda: cuda.transducer(scores, targets, *lengths, 0, weights),
        copy_of(3 * scores.numel() * scores.element_size()),
    ]
    theirs = rnnt_loss()
    if not isinstance(theirs, str):
        narrow = [x.int() for x in (targets, *lengths)]

        def torchaudio() -> Tensor:
            logits.grad = None
            costs = theirs(logits, *narrow, blank=0, reduction="none")
            costs.sum().backward()
            return costs.detach()

        names.append("torchaudio")
        calls.append(torchaudio)
    times = dict(zip(names, in_turn(*calls), strict=True))
    print(f"transducer ({batch}, {frames}, {nodes}, {classes})")
    for name in names:
        print(f"  {name:<16}{times[name]:9.3f} ms")
    ratio = times["with gradient"] / times["floor"]
    print(f"  with gradient / floor: {ratio:.2f} (wanted: 2 at most)")
    if isinstance(theirs, str):
        print(f"  no comparison: {theirs}")
        return
    print(f"  torchaudio / ours: {times['torchaudio'] / times['with gradient']:.1f} (wanted: 3 at least)")
    one = slice(0, 1)
    few = (scores[one].double().cpu(), targets[one].cpu(), *(x[one].cpu() for x in lengths), 0, None)
    ours = cuda.transducer(scores[one], targets[one], *(x[one] for x in lengths), 0, None)[0]
    exact = plain.transducer(*few)[0]
    errors = worst_error(ours, exact), worst_error(torchaudio()[one], exact)
    print("  relative error of a cost: ours {:.1e}, torchaudio's {:.1e}".format(*errors))


def ctc(batch: int, frames: int, labels: int, classes: int) -> None:
    log_probs = torch.randn(batch, frames, classes, device="cuda").log_softmax(-1)
    frames_first = log_probs.transpose(0, 1).contiguous().requires_grad_()
    targets = torch.randint(1, classes, (batch, labels), device="cuda")
    lengths = [torch.full((batch,), n, device="cuda") for n in (frames, labels)]
    weights = torch.ones(batch, device="cuda")

    def torch_ctc() -> Tensor:
        frames_first.grad = None
        costs = torch.nn.functional.ctc_loss(frames_first, targets, *lengths, reduction="none")
        costs.sum().backward()
        return costs.detach()

    names = ["forward", "with gradient", "floor", "torch"]
    calls = [
        lambda: cuda.ctc(log_probs, targets, *lengths, 0, None),
        lambda: cuda.ctc(log_probs, targets, *lengths, 0, weights),
        copy_of(3 * log_probs.numel() * log_probs.element_size()),
        torch_ctc,
    ]
    times = dict(zip(names, in_turn(*calls), strict=True))
    print(f"CTC B={batch} T={frames} S={labels} C={classes}")
    for name in names:
        print(f"  {name:<16}{times[name]:9.3f} ms")
    print(f"  torch / ours: {times['torch'] / times['with gradient']:.1f} (wanted: 3 at least)")
    few = (log_probs.double().cpu(), targets.cpu(), *(x.cpu() for x in lengths), 0, None)
    exact, ours = plain.ctc(*few)[0], cuda.ctc(log_probs, targets, *lengths, 0, None)[0]
    errors = worst_error(ours, exact), worst_error(torch_ctc(), exact)
    print("  relative error of a cost: ours {:.1e}, torch's {:.1e}".format(*errors))


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("No GPU that torch can use here: nothing was measured.")
    why = cuda.unavailable(torch.empty(1, device="cuda"))
    if why:
        sys.exit(f"No CUDA kernels: {why}.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"kernels for {cuda.about()['architectures']}")
    transducer(8, 200, 51, 1024)
    transducer(32, 400, 101, 1024)
    ctc(16, 1000, 100, 500)


if __name__ == "__main__":
    main()
