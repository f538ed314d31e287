"""Lattices for the CUDA computer, and plain torch in float64 on the CPU to hold it to."""

import subprocess
from pathlib import Path

import torch
from building import CSRC, built, kept, which
from torch import Tensor

import exportable_losses
from exportable_losses.ops import plain
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
