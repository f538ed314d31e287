"""The example that the README shows; those in C++ are held by tests/native/test_cpp_examples.py."""

import math
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
