"""`doctor` says what is there, and why the rest is not."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import exportable_losses
from exportable_losses.export.commands import environment
from exportable_losses.library import library_path
from exportable_losses.ops import native
from exportable_losses.ops.computers import COMPUTERS


@pytest.fixture
def doctor(cli):
    return lambda: json.loads(cli("doctor", "--json").stdout)


@pytest.fixture
def afresh():
    """What the library was found to be is forgotten before and after."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


def test_versions_are_those_of_what_is_imported(doctor):
    versions = doctor()["versions"]
    assert versions["exportable-losses"] == exportable_losses.__version__
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert versions["onnxruntime"] == onnxruntime.__version__
    assert versions.keys() >= {"numpy", "onnx", "numba", "numba-cuda", "torchaudio"}


def test_the_library_is_the_one_that_computes(doctor):
    if library_path() is None:
        pytest.skip("the package was installed without it")
    found = doctor()
    assert found["operator library"] == {**native.about(), "onnxruntime": "loads it"}
    assert found["operator library"]["instruction set"] in ("baseline", "neon", "avx2", "avx512")
    assert found["computers"]["in use"]["cpu"] == dict.fromkeys(("ctc", "transducer", "edits"), "native")


def test_providers_are_onnxruntimes(doctor):
    assert doctor()["onnxruntime providers"] == onnxruntime.get_available_providers()


def test_the_table_shows_all_of_it(cli):
    shown = cli("doctor").stdout
    for title in ("versions", "operator library", "CUDA library", "onnxruntime", "who computes"):
        assert f"\n{title}\n" in f"\n{shown}"
    for name in COMPUTERS:
        assert f"{name} on cpu" in shown
    assert any(line.split() == ["torch", "on", "cpu", "available"] for line in shown.splitlines())
    assert torch.__version__ in shown
    assert "CPUExecutionProvider" in shown


def test_a_computer_that_is_named(doctor, cli, monkeypatch):
    monkeypatch.setenv("EXPORTABLE_LOSSES_COMPUTER", "torch")
    computers = doctor()["computers"]
    assert computers["named"] == "torch"
    assert computers["in use"]["cpu"] == dict.fromkeys(("ctc", "transducer", "edits"), "torch")
    monkeypatch.setenv("EXPORTABLE_LOSSES_COMPUTER", "cuda")
    why = "none: the computer 'cuda' was asked for: it computes on CUDA devices, not on cpu"
    in_use = doctor()["computers"]["in use"]["cpu"]
    assert in_use["ctc"] == why
    assert in_use["edits"] == "torch"
    monkeypatch.setenv("EXPORTABLE_LOSSES_COMPUTER", "abacus")
    assert "got 'abacus', expected one of" in cli("doctor").stdout


@pytest.mark.usefixtures("afresh")
def test_a_library_that_is_missing_or_broken(doctor, cli, monkeypatch, tmp_path):
    path = tmp_path / "broken.so"
    monkeypatch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(path))
    assert f"got {path}" in doctor()["operator library"]["problem"]
    path.write_bytes(b"no library")
    found = doctor()
    assert found["operator library"]["path"] == str(path)
    assert "broken.so" in found["operator library"]["problem"]
    assert "broken.so" in found["computers"]["available"]["native"]["cpu"]
    assert "broken.so" in cli("doctor").stdout


@pytest.mark.usefixtures("afresh")
def test_a_package_without_a_library(doctor, monkeypatch):
    monkeypatch.delenv("EXPORTABLE_LOSSES_LIBRARY", raising=False)
    monkeypatch.setattr("exportable_losses.library._NAME", "nowhere.so")
    found = doctor()
    assert "no C++ compiler was found" in found["operator library"]["problem"]
    assert found["computers"]["in use"]["cpu"]["ctc"] in ("numba", "torch")
    assert found["computers"]["in use"]["cpu"]["edits"] == "torch"


@pytest.mark.parametrize("absent", ["torch", "onnx", "onnxruntime", "numba", "torchaudio"])
def test_any_part_may_be_absent(absent):
    code = f"""
import sys
sys.modules[{absent!r}] = None
from exportable_losses.export import cli
sys.argv = ["exportable-losses", "doctor", *sys.argv[1:]]
cli.main()
"""
    for form in ([], ["--json"]) if absent == "torch" else (["--json"],):
        done = subprocess.run([sys.executable, "-c", code, *form], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"][absent] == "not installed"
    taken = found["operator library"].get("onnxruntime", "loads it")  # where there is a library
    if absent == "torch":
        assert found["computers"] == {"problem": "torch is not installed"}
    if absent == "onnxruntime":
        assert found["onnxruntime providers"] == {"problem": "onnxruntime is not installed"}
        assert taken == "onnxruntime is not installed"
    else:
        assert taken == "loads it"
    if absent == "numba":
        assert "numba is not installed" in found["computers"]["available"]["numba"]["cpu"]


def test_nothing_is_imported_for_its_version(tmp_path):
    """Each of these takes as long as all the rest."""
    code = """
import sys
from exportable_losses.export import cli
sys.argv = ["exportable-losses", "doctor"]
try:
    cli.main()
finally:
    assert not {"onnx", "onnxscript", "onnx_ir", "pyarrow", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n  onnxscript " in done.stdout


def test_paths_stay_in_one_piece(monkeypatch, tmp_path):
    path = tmp_path / "/".join(["a_long_folder"] * 12) / "library.so"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no library")
    command = [sys.executable, "-m", "exportable_losses.export.cli", "doctor"]
    environment = {**os.environ, "COLUMNS": "80", "EXPORTABLE_LOSSES_LIBRARY": str(path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"  path     {path}\n" in done.stdout
    assert f"  problem  {path}: " in done.stdout


def test_a_library_that_onnxruntime_refuses(doctor, monkeypatch):
    if library_path() is None:
        pytest.skip("the package was installed without it")

    def refuse(self, path):
        raise RuntimeError("wrong version\nof the API")

    monkeypatch.setattr(onnxruntime.SessionOptions, "register_custom_ops_library", refuse)
    said = doctor()["operator library"]["onnxruntime"]
    wanted = f"cannot load it: native: got True, but {library_path()} does not load: wrong version"
    assert said == wanted


def test_the_version_of_a_package_under_another_name(monkeypatch, tmp_path):
    (tmp_path / "doubled").mkdir()
    (tmp_path / "doubled" / "__init__.py").touch()
    about = tmp_path / "doubled_gpu-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: doubled-gpu\nVersion: 1.2\n")
    (about / "top_level.txt").write_text("doubled\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.version("doubled", "doubled") == "1.2 of doubled-gpu"
    assert environment.version("numpy", "numpy") == np.__version__
    assert environment.version("not_there", "not-there") == "not installed"
