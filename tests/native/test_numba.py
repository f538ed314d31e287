"""Numba: loaded when it is asked, and no sooner; several callers at once; and its kernels for a GPU."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from computer_cases import check, compute, lattice

from exportable_losses.ops import numba

HERE = Path(__file__).parent
each_loss = pytest.mark.parametrize("loss", ["ctc", "transducer"])


@pytest.fixture(autouse=True)
def _ask_again():
    numba._why_not.cache_clear()
    yield
    numba._why_not.cache_clear()


def needs_numba() -> None:
    why = numba.unavailable(torch.zeros(1))
    if why:
        pytest.skip(why)


USED = """
import sys, torch, exportable_losses as el, exportable_losses.ops
from exportable_losses.ops import computers
assert "numba" not in sys.modules, "loaded with the package"
given = torch.zeros(1, 2, 3), torch.tensor([[1]]), torch.ones(1), torch.ones(1)
with computers.using("torch"):
    expected = el.CTCLoss()(*given)
assert "numba" not in sys.modules, "loaded though plain torch was named"
"""


def run(code: str, **environment: str) -> str:
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_loaded_when_it_is_asked_and_computes_where_there_is_no_library() -> None:
    needs_numba()
    code = """
with computers.using("numba"):
    assert el.CTCLoss()(*given).isclose(expected)
from exportable_losses import library
from exportable_losses.ops import cuda, native
native.library_path = cuda.library_path = lambda: None
assert el.CTCLoss()(*given).isclose(expected)
assert computers.overview()["in use"]["cpu"] == {"ctc": "numba", "transducer": "numba", "edits": "torch"}
"""
    run(USED + code)


def test_without_numba_plain_torch_computes() -> None:
    code = """
sys.modules["numba"] = None
from exportable_losses.ops import native
native.library_path = lambda: None
assert el.CTCLoss()(*given).isclose(expected)
assert computers.overview()["in use"]["cpu"] == {"ctc": "torch", "transducer": "torch", "edits": "torch"}
with computers.using("numba"):
    el.CTCLoss()(*given)
"""
    with pytest.raises(AssertionError, match=r"numba is not installed: pip install '.*\[numba\]'"):
        run(USED + code)


def test_it_says_what_keeps_it_from_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise ImportError("Numba needs NumPy 2.5 or less. Got NumPy 3.0.\nmore")

    monkeypatch.setattr(numba.importlib, "import_module", fails)
    assert numba.unavailable(torch.zeros(1)) == (
        "Numba does not load: Numba needs NumPy 2.5 or less. Got NumPy 3.0."
    )


def test_what_it_does_not_know() -> None:
    assert "float8" in numba.unavailable(torch.zeros(1).to(torch.float8_e5m2))
    assert "not on meta" in numba.unavailable(torch.zeros(1, device="meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so() -> None:
    needs_numba()
    on_a_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert "numba-cuda" in numba.unavailable(on_a_gpu)  # type: ignore[arg-type]


def several_callers(loss: str) -> None:
    """Three threads with the same lattices; each gets what one alone gets."""
    givens = [lattice(loss, (3, 20, 9, 6), seed) for seed in range(4)]
    expected = [compute(numba, given, torch.float32) for given in givens]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                for given, (costs, grad) in zip(givens, expected, strict=True):
                    again, grad_again = compute(numba, given, torch.float32)
                    assert torch.equal(again, costs)
                    assert torch.equal(grad_again, grad)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@each_loss
def test_several_callers_at_once(loss: str) -> None:
    needs_numba()
    several_callers(loss)


def test_several_callers_at_once_on_the_work_queue() -> None:
    """What Numba falls back to; several callers abort its process, were they let in at once."""
    needs_numba()
    code = "import test_numba as t; [t.several_callers(loss) for loss in ('ctc', 'transducer')]"
    run(code, NUMBA_THREADING_LAYER="workqueue")


def test_it_leaves_the_callers_threads_as_they_were() -> None:
    needs_numba()
    import numba as theirs

    before = theirs.get_num_threads()
    check(numba, lattice("ctc"), torch.float64)
    assert theirs.get_num_threads() == before


def test_a_place_where_nothing_can_be_kept() -> None:
    needs_numba()
    # no folder beside the file, none of the user's: it compiles anew each time
    code = """
from numba.core import caching
for locator in caching.CacheImpl._locator_classes:
    locator.from_function = classmethod(lambda *_: None)
with computers.using("numba"): assert el.CTCLoss()(*given).isclose(expected)
"""
    run(USED + code)


# On a GPU


@pytest.mark.thorough  # the simulator is slow; the recursions are those of the CPU, which other tests hold
def test_the_kernels_for_a_gpu_in_the_simulator() -> None:
    needs_numba()
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    code = "import numba_simulated as n; [n.main(loss) for loss in ('ctc', 'transducer')]"
    said = run(code, NUMBA_ENABLE_CUDASIM="1")
    for loss in ("ctc", "transducer"):
        assert f"{loss}: lengths and labels out of range" in said


def test_the_kernels_for_a_gpu_compile() -> None:
    """What the simulator takes Numba may still refuse; for this it needs its compiler, and no GPU."""
    needs_numba()
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    code = """
from types import SimpleNamespace
from numba import cuda, types
from numba.cuda import dispatcher
from numba.cuda.cudadrv import nvrtc, nvvm
try:
    nvvm.NVVM().get_version(), nvrtc.get_supported_ccs()
except Exception as error:
    print("no compiler for a GPU:", str(error).strip().splitlines()[0])
    raise SystemExit
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(8, 0))
from exportable_losses.ops import numba_gpu as gpu
long, work = types.int64, types.float64[:, :, ::1]
lengths = long[::1], long[::1]
for real in types.float32, types.float64:
    batch, frames, nodes = real[::1], real[:, :, ::1], real[:, :, :, ::1]
    rest = long[:, ::1], *lengths, long
    for kernel, arguments in {
        gpu._ctc: (frames, *rest, batch, work),
        gpu._ctc_grad: (frames, *rest, batch, work, work, work, frames),
        gpu._arcs: (nodes, *rest, work, work, work),
        gpu._transducer: (work, work, *lengths, batch, work),
        gpu._transducer_beta: (work, work, *lengths, work),
        gpu._transducer_grad: (nodes, *rest, batch, *[work] * 5, nodes),
    }.items():
        ptx, _ = cuda.compile_ptx(kernel.py_func, arguments, cc=(8, 0))
        assert ".entry" in ptx
print("compiled")
"""
    said = run(code).strip()
    if said != "compiled":
        pytest.skip(said)
