"""The CUDA library as it is built: one architecture here, for time; users get every one that nvcc knows."""

import ctypes
import subprocess

import pytest
import torch
from cuda_cases import build_with_cmake, missing

PROGRAMS = ("nvcc", "cmake", "c++")
pytestmark = [
    pytest.mark.thorough,  # nvcc takes its time; what the kernels compute, test_cuda_emulation asks
    pytest.mark.skipif(bool(missing(*PROGRAMS)), reason=missing(*PROGRAMS)),
]


@pytest.fixture(scope="module")
def library():
    return build_with_cmake("90")


def test_it_loads_without_a_driver(library):
    needed = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
    assert "libcuda" not in needed
    loaded = ctypes.CDLL(str(library))
    loaded.exportable_losses_cuda_architectures.restype = ctypes.c_char_p
    assert loaded.exportable_losses_cuda_architectures() == b"90"


def test_it_shows_its_door_alone(library):
    if missing("nm"):
        pytest.skip(missing("nm"))
    shown = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in shown.splitlines()}
    kinds = ("float", "double", "bfloat16", "float16", "workspace")
    assert names == {
        *(f"exportable_losses_cuda_{name}" for name in ("allocate", "free", "architectures", "version")),
        *(f"exportable_losses_cuda_{loss}_{kind}" for loss in ("ctc", "transducer") for kind in kinds),
        *(f"exportable_losses_cuda_arcs_{kind}" for kind in ("float", "double", "workspace")),
        *(f"exportable_losses_cuda_pick_{kind}" for kind in kinds[:-1]),
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_a_call_without_a_driver_says_so(library, monkeypatch):
    from exportable_losses.ops import cuda

    monkeypatch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", str(library))
    cuda._library.cache_clear()
    door = cuda._library().exportable_losses_cuda_ctc_float
    batch = cuda.Batch(batch=1, frames=1, classes=2, labels=0, item_stride=2, frame_stride=2)
    workspace = (ctypes.c_char * 64)()
    aligned = ctypes.addressof(workspace) + 15 & ~15
    message = door(ctypes.byref(batch), None, None, None, aligned, None)
    cuda._library.cache_clear()
    assert b"CUDA" in message  # "CUDA driver version is insufficient…", or "no CUDA-capable device…"
