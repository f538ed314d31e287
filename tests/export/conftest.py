"""What the tests of exported files share: a process of torch alone."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import Inputs, TorchAlone

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
