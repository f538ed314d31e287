"""The examples that the README shows: the same loss in Python and in C++, the same number."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COST = math.log(64 / 5)  # five alignments of two labels to three frames, each (1/4)^3


@pytest.fixture(scope="module")
def files(cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    assert cli("export", "ctc_loss", "--reduction", "none", "--out", folder).exit_code == 0
    return folder / "ctc_loss"


def test_python(files):
    command = [sys.executable, EXAMPLES / "loss.py", files / "ctc_loss.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert float(done.stdout.strip("[]\n")) == pytest.approx(COST), done.stderr


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="needs cmake and a compiler")
def test_cpp(files, tmp_path):
    configure = ["cmake", "-S", EXAMPLES / "cpp", "-B", tmp_path, f"-DPYTHON={sys.executable}"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    command = [tmp_path / "loss", files / "ctc_loss.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[0]) == pytest.approx(COST, abs=1e-4)
