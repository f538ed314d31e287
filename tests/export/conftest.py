"""What the tests of exported files share: each graph is exported once, however many tests read it."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import Case, Export, Inputs, TorchAlone

from exportable_losses.export import to_onnx, to_torchscript

# Answers each line "FILE CALLS.pt" with the outputs of the file for every call, in CALLS.pt.out,
# or with what went wrong.
_TORCH_ALONE = """
import sys
import torch

for line in sys.stdin:
    module, calls = line.split()
    try:
        program = module.endswith(".pt2")
        loaded = torch.export.load(module).module() if program else torch.jit.load(module)
        outputs = [loaded(**call) for call in torch.load(calls)]
        outputs = [tuple(output) if isinstance(output, tuple) else output for output in outputs]
    except Exception as error:
        outputs = repr(error)
    ours = [name for name in sys.modules if name.startswith("exportable_losses")]
    torch.save((outputs, ours), calls + ".out")
    print("done", flush=True)
"""


@pytest.fixture(scope="session", autouse=True)
def _one_registry() -> Iterator[None]:
    """Keep what the exporter reads anew from onnxscript's sources for each graph: a third of its time."""
    from torch.onnx._internal.exporter import _registration

    with pytest.MonkeyPatch.context() as patch:
        api = _registration.onnxscript_apis
        patch.setattr(api, "get_torchlib_ops", functools.cache(api.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Writes ``model.onnx`` with its test data and ``model.pt``, in a folder that all workers share."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
    root.mkdir(exist_ok=True)

    def exported(case: Case) -> Path:
        folder = root / str(case)
        if not folder.exists():
            new = Path(tempfile.mkdtemp(dir=root))
            to_onnx(case.module(), new / "model.onnx", case.inputs())
            to_torchscript(case.module(), new / "model.pt")
            with contextlib.suppress(OSError):  # another worker was faster
                new.rename(folder)
        return folder

    return exported


@pytest.fixture(scope="session")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchAlone]:
    """Runs files of torch in another process, one for the whole session, which knows torch alone."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _TORCH_ALONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path_factory.mktemp("torch_alone"),
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(module: Path, calls: list[Inputs]) -> list[Any]:
        path = tmp_path_factory.mktemp("calls") / "calls.pt"
        torch.save(calls, path)
        process.stdin.write(f"{module} {path}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        outputs, ours = torch.load(f"{path}.out")
        assert isinstance(outputs, list), outputs
        assert not ours, f"such a file must need torch alone, this one loaded {ours}"
        return outputs

    yield run
    process.stdin.close()
    process.wait()
