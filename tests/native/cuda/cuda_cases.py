"""Lattices for the CUDA computer, and plain torch in float64 on the CPU to hold it to."""

import subprocess
from pathlib import Path

import torch
from building import CSRC, built, kept, which
from torch import Tensor

import exportable_losses
from exportable_losses.ops import native, plain
from exportable_losses.ops.scores import computed

# loss, and sizes (batch, frames, classes, labels): rows that are whole vectors and rows that are not, one
# warp and many, lattices of several strips
SIZES = [
    ("ctc", (3, 50, 20, 12)),
    ("ctc", (2, 130, 501, 60)),
    ("ctc", (1, 700, 33, 600)),
    ("ctc", (2, 4, 5, 0)),
    ("transducer", (2, 9, 8, 5)),
    ("transducer", (2, 20, 501, 40)),
    ("transducer", (3, 12, 1024, 33)),
    ("transducer", (1, 6, 7, 520)),
    ("transducer", (2, 5, 5, 0)),
]


def lattice(
    loss: str, sizes: tuple[int, int, int, int], seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Scores in float64, targets, lengths and the blank; the first item is as long as can be."""
    batch, frames, classes, labels = sizes
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, frames, classes) if loss == "ctc" else (batch, frames, labels + 1, classes)
    scores = 2 * torch.randn(shape, generator=draw, dtype=torch.float64)
    targets = torch.randint(1, classes, (batch, labels), generator=draw)
    input_lengths = torch.randint(1, frames + 1, (batch,), generator=draw)
    target_lengths = torch.randint(0, labels + 1, (batch,), generator=draw)
    input_lengths[0], target_lengths[0] = frames, labels
    if loss == "ctc":
        scores = scores.log_softmax(-1)
        target_lengths = torch.minimum(target_lengths, input_lengths // 2)
    return scores, targets, input_lengths, target_lengths, 0


def check(
    computer: object, loss: str, sizes: tuple[int, int, int, int], device: str, dtype: torch.dtype
) -> None:
    """Costs alone, costs with the gradient, and both on strided scores."""
    scores, targets, input_lengths, target_lengths, blank = lattice(loss, sizes)
    scores = scores.to(dtype)  # what is computed from; the reference reads the same numbers
    weights = torch.linspace(-1, 2, scores.shape[0], dtype=computed(dtype))
    lengths = (targets, input_lengths, target_lengths)
    costs, grad = getattr(plain, loss)(scores.double(), *lengths, blank, weights.double())
    strided = torch.nn.functional.pad(scores, (0, 0) * (scores.dim() - 2) + (0, 3))[:, : scores.shape[1]]
    on_device = [x.to(device) for x in lengths]
    exact = dtype == torch.float64
    close = {"rtol": 1e-12, "atol": 1e-10} if exact else {"rtol": 2e-6, "atol": 2e-5}
    rounded = {**close, "rtol": close["rtol"] + (dtype != computed(dtype)) * torch.finfo(dtype).eps / 2}
    for given in (scores.to(device), strided.to(device)):
        alone, nothing = getattr(computer, loss)(given, *on_device, blank, None)
        assert nothing is None
        ours, ours_grad = getattr(computer, loss)(given, *on_device, blank, weights.to(device))
        assert torch.equal(alone, ours)
        torch.testing.assert_close(ours.cpu().double(), costs, **close)
        assert ours_grad.dtype == dtype
        torch.testing.assert_close(ours_grad.cpu().double(), grad, **rounded)


# classes, and how many of them are picked: less than a vector of scores, a team's vectors, a block's
PICKS = [(1, 1), (2, 1), (2, 3), (7, 2), (33, 3), (64, 2), (257, 1), (1000, 2), (2051, 3), (12, 70)]


def check_picked(computer: object, classes: int, kinds: int, device: str, dtype: torch.dtype) -> None:
    """Log-probabilities and gradients of tiles, in place too, beside the CPU's kernel and float64."""
    draw = torch.Generator().manual_seed(classes)
    rows = (3 * torch.randn(75, classes + 5, generator=draw, dtype=torch.float64)).to(dtype)
    logits, behind = rows[:, :classes], rows[:, classes:].clone()
    wanted = torch.randint(-1, classes, (75, kinds), generator=draw)
    wanted[3], logits[3] = -1, torch.nan  # it is not read
    weights = torch.randn(75, kinds, generator=draw, dtype=torch.float64).to(computed(dtype))
    weights[5] = 0
    exact = dtype == torch.float64
    close = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 2e-6, "atol": 2e-6}
    rounded = {**close, "rtol": close["rtol"] + (dtype != computed(dtype)) * torch.finfo(dtype).eps / 2}
    given, on_device = rows.to(device), (wanted.to(device), weights.to(device))
    log_probs = computer.picked(given[:, :classes], on_device[0])
    assert log_probs.dtype == computed(dtype)
    for expected in (plain.picked(logits.double(), wanted), native.picked(logits, wanted).double()):
        torch.testing.assert_close(log_probs.cpu().double(), expected, **close)
    grad = plain.picked(logits.double(), wanted, weights.double())
    grad_of_cpu = native.picked(logits, wanted, weights)
    twice = {**rounded, "rtol": 2 * rounded["rtol"]}  # the CPU's rounds too
    tile = given[:, :classes]
    apart = computer.picked(tile, *on_device)
    assert computer.picked(tile, *on_device, tile) is tile
    for ours in (apart, tile):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.cpu().double(), grad, **rounded)
        torch.testing.assert_close(ours.cpu(), grad_of_cpu, **twice)
    assert torch.equal(given[:, classes:].cpu(), behind)


def compile_emulated(source: Path, *options: str) -> Path:
    """`source`, which is or includes the kernels, compiled by g++ to run on the CPU; kept until it changes.

    Fibers jump between stacks, which _FORTIFY_SOURCE takes for an error.
    """

    def compile_in(folder: Path) -> None:
        emulation = ["-I", Path(__file__).parent / "host_emulation", "-x", "c++"]
        out = ["-o", folder / source.stem, "-lpthread"]
        gpp("-std=c++17", "-O1", "-U_FORTIFY_SOURCE", *emulation, source, *options, *out)

    return kept("emulated", " ".join((source.name, *options)), compile_in) / source.stem


def emulated_kernels() -> Path:
    """The library of the kernels, on the CPU."""
    version = f'-DEXPORTABLE_LOSSES_VERSION="{exportable_losses.__version__}"'
    options = ("-shared", "-fPIC", "-fvisibility=hidden", version)
    return compile_emulated(CSRC / "cuda" / "cuda_api.cu", *options)


def gpp(*arguments: str | Path) -> None:
    run = subprocess.run(["g++", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def build_with_cmake(architectures: str) -> Path:
    """The CUDA library alone, for these architectures, by the repository's own CMake."""
    options = ("-DEXPORTABLE_LOSSES_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    folder = built(f"cuda-{architectures}", *options, targets=("exportable_losses_cuda",))
    return folder / "libexportable_losses_cuda.so"


def missing(*programs: str) -> str:
    """Why a test that calls these programs is skipped, or nothing."""
    absent = [program for program in programs if not which(program)]
    return f"no {' and no '.join(absent)} on this machine" if absent else ""
