"""What the native library, and who loads it, do in hard conditions: refused with the reason, or right."""

import _ctypes
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import exportable_losses
import exportable_losses as el
from exportable_losses.library import library_path, load
from exportable_losses.ops import native

LIBRARY = library_path() or ""
pytestmark = pytest.mark.skipif(not LIBRARY, reason="the package was installed without its library")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a Python of its own says, which may end badly."""
    command = [sys.executable, "-c", code, *arguments]
    given = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=300)


def test_the_library_is_of_this_version() -> None:
    told = load(LIBRARY).exportable_losses_version()
    assert told.decode() == exportable_losses.__version__


def test_another_version_is_refused(tmp_path: Path) -> None:
    version = exportable_losses.__version__.encode() + b"\0"
    content = Path(LIBRARY).read_bytes()
    assert version in content
    other = tmp_path / "other.so"
    other.write_bytes(content.replace(version, b"9" * (len(version) - 1) + b"\0"))
    with pytest.raises(OSError, match=f"got version 9+, expected {exportable_losses.__version__}, that of"):
        load(str(other))


def test_another_library_is_refused() -> None:
    with pytest.raises(OSError, match="got a library without exportable_losses_version"):
        load(_ctypes.__file__)


@on_linux
def test_a_library_cut_short_is_refused(tmp_path: Path) -> None:
    """Wherever it ends: not even a loader that maps what is not there ends the process."""
    content = Path(LIBRARY).read_bytes()
    short = []
    for part in (0.0, 0.0001, 0.01, 0.3, 0.6, 0.9, 0.95):
        short.append(tmp_path / f"{part}.so")
        short[-1].write_bytes(content[: int(part * len(content))])
    code = """
import sys
from exportable_losses.library import load
for path in sys.argv[1:]:
    try:
        load(path)
        print("loaded", path)
    except OSError as error:
        print(error)
"""
    done = python(code, *map(str, short))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(short)
    assert not any(line.startswith("loaded") for line in said)
    assert all("cut short" in line for line in said[2:])


CALL = """
import torch
from exportable_losses import ops
scores, lengths = torch.zeros(1, 3, 4), torch.tensor([3])
with ops.using("native"):
    print(torch.ops.exportable_losses.ctc_loss(scores, torch.tensor([[1]]), lengths, torch.tensor([1]), 0))
"""


def test_an_instruction_set_that_is_none_is_refused() -> None:
    done = python(CALL, EXPORTABLE_LOSSES_ISA="sse9")
    assert "ValueError: EXPORTABLE_LOSSES_ISA: got sse9, expected avx512, avx2 or " in done.stderr
    session = "import onnxruntime; from exportable_losses.runtime.native import register\n"
    session += "register(onnxruntime.SessionOptions(), True)"
    done = python(session, EXPORTABLE_LOSSES_ISA="sse9")
    assert done.returncode != 0
    assert "EXPORTABLE_LOSSES_ISA: got sse9, expected avx512, avx2 or " in done.stderr
    # that an empty name is none is in test_core


@on_linux
def test_no_more_threads_than_cores() -> None:
    """20,000 were asked for; each that is started would be counted."""
    code = """
import os, re, torch
from exportable_losses.ops import native
scores = torch.zeros(1, 100000, 2, 2)
grad = torch.ones(1)
for threads in 1, 20000:
    torch.get_num_threads = lambda: threads
    native.transducer(scores, torch.tensor([[1]]), torch.tensor([100000]), torch.tensor([1]), 0, grad)
    print(re.search(r"Threads:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    alone, many = map(int, done.stdout.split())
    assert many <= alone + (os.cpu_count() or 1)


@on_linux
def test_a_fork_after_a_parallel_loss_computes() -> None:
    code = """
import os, signal, sys, torch
from exportable_losses.ops import native
torch.set_num_threads(2)
scores = torch.randn(4, 50, 6, 9)
lattice = (torch.ones(4, 5).long(), torch.full((4,), 50), torch.full((4,), 5), 0, torch.ones(4))
(torch.ones(1000, 1000) @ torch.ones(1000, 1000)).sum()  # torch's threads are at work too
before = [x.numpy().tobytes() for x in native.transducer(scores, *lattice)]
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that hangs is ended, and seen
    after = [x.numpy().tobytes() for x in native.transducer(scores, *lattice)]
    os._exit(0 if before == after else 3)
_, status = os.waitpid(child, 0)
sys.exit(status != 0)
"""
    done = python(code, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


def test_a_library_of_another_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version says nothing of a function that it lacks."""
    monkeypatch.setattr(native, "load", lambda _: ctypes.CDLL(None))
    monkeypatch.setattr(native, "library_path", lambda: "other.so")
    with pytest.raises(RuntimeError, match=r"^other.so: another build of this version, it lacks functions"):
        native._library.__wrapped__()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_have_no_numbers_that_slow_a_product_down(dtype: torch.dtype) -> None:
    """An Intel core takes 150 cycles for each that is no normal one; a few differences are so small."""
    torch.manual_seed(0)
    logits = (9 * torch.randn(1, 60, 31, 40)).to(dtype).requires_grad_()
    targets, frames, labels = torch.randint(1, 40, (1, 30)), torch.tensor([60]), torch.tensor([30])
    el.TransducerLoss(reduction="sum")(logits, targets, frames, labels).backward()
    assert logits.grad is not None
    counts = logits.grad != 0
    assert 0.1 < float(counts.float().mean()) < 0.9
    assert float((logits.grad[counts].abs() < 1e-31).float().mean()) < 1e-3
    rows, picked = logits.detach().flatten(0, 2), torch.randint(40, (60 * 31, 2))
    slopes = (10 ** -torch.linspace(0, 30, 60 * 31)).unsqueeze(1).repeat(1, 2)
    found = torch.ops.exportable_losses.picked_grad(rows, picked, slopes)
    assert float((found[found != 0].abs() < 1e-31).float().mean()) < 1e-3
