"""The examples that the README names; those in C++ are held by tests/native/test_cpp_examples.py."""

import copy
import math
import runpy
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


def test_python_without_a_file():
    done = subprocess.run([sys.executable, EXAMPLES / "loss.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"usage: python {EXAMPLES / 'loss.py'} ctc_loss.onnx\n")


def test_adapt(capsys):
    runpy.run_path(str(EXAMPLES / "adapt.py"), run_name="__main__")  # an exit would be an exception
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]
    losses = [float(row[1]) for row in table]
    assert losses == sorted(losses, reverse=True)
    assert losses == pytest.approx([float(row[2]) for row in table], abs=2e-6)
    assert losses[-1] < losses[0] / 2


@pytest.fixture(scope="module")
def acoustic(tmp_path_factory):
    """The graph of the small acoustic model, and what `adapt.export` gives beside it."""
    import adapt

    path = tmp_path_factory.mktemp("adapt") / "acoustic.onnx"
    return path, adapt.export(path)


def test_adapting_needs_no_torch(acoustic, tmp_path):
    code = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import adapt
from onnx import numpy_helper, load_tensor
from pathlib import Path
path = Path(sys.argv[2])
given = {t.name: numpy_helper.to_array(t).copy() for t in map(load_tensor, path.parent.glob("*/input_*.pb"))}
weights = {name: given.pop(name) for name in adapt.WEIGHTS}
losses = adapt.adapt(path, given, weights)
assert losses[-1] < losses[0], losses
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", code, EXAMPLES, acoustic[0]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_adapt_notices_steps_that_are_not_those_of_torch(acoustic, monkeypatch):
    import adapt

    def exported(path):
        shutil.copy(acoustic[0], path)
        return copy.deepcopy(acoustic[1])

    monkeypatch.setattr(adapt, "export", exported)
    honest = adapt.adapt_in_torch
    monkeypatch.setattr(adapt, "adapt_in_torch", lambda *args: [1.01 * loss for loss in honest(*args)])
    with pytest.raises(SystemExit, match="not those of torch"):
        adapt.main()
