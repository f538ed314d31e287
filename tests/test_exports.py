"""What is kept of exported files is never that of other sources, another module or other inputs."""

import os
import shutil
import time
from pathlib import Path

import exports
import pytest
import torch
from export_cases import FrameNLL
from torch import nn

import exportable_losses as el

X = {"predictions": torch.zeros(2, 3), "targets": torch.ones(2, 3)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources."""
    for folder in ("exportable_losses", "export"):
        shutil.copytree(
            exports.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def test_the_same_sources_have_one_key(tree: Path) -> None:
    assert exports.key(tree) == exports.key(exports.ROOT)


@pytest.mark.parametrize(
    "source",
    [
        "export/formats/onnx.py",
        "export/nodes/functions/ctc.py",
        "exportable_losses/masking.py",
    ],
)
def test_a_byte_in_a_source_changes_the_key(source: str, tree: Path) -> None:
    path = tree / source
    path.write_bytes(path.read_bytes() + b"\n")
    assert exports.key(tree) != exports.key(exports.ROOT)


def test_a_file_that_comes_goes_or_moves_changes_the_key(tree: Path) -> None:
    keys = {exports.key(tree)}
    (tree / "export" / "new.py").touch()
    keys.add(exports.key(tree))
    (tree / "export" / "new.py").rename(tree / "export" / "newer.py")
    keys.add(exports.key(tree))
    (tree / "exportable_losses" / "margin.py").unlink()
    keys.add(exports.key(tree))
    assert len(keys) == 4


def test_another_version_of_a_library_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = exports.key()
    version = exports.metadata.version
    monkeypatch.setattr(
        exports.metadata, "version", lambda name: version(name) + "1" * (name == "onnxscript")
    )
    assert exports.key() != before


def test_another_native_library_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library.so").write_bytes(b"another")
    before = exports.key()
    monkeypatch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(tmp_path / "library.so"))
    assert exports.key() != before


class Weighed(nn.Module):
    def __init__(self, weight: float, setting: object = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        nn.init.constant_(self.layer.weight, weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("kept", torch.zeros(2), persistent=False)
        self.plain, self.setting = torch.zeros(10_000), setting


def test_whatever_a_module_holds_and_takes_is_in_its_name() -> None:
    buffer, plain = Weighed(1.0), Weighed(1.0)
    buffer.kept[1], plain.plain[5_000] = 1, 1  # a tensor whose repr leaves its middle out
    named = [
        *(
            exports.digest(module, {})
            for module in (Weighed(1.0), Weighed(2.0), Weighed(1.0, 3), buffer, plain)
        ),
        *(exports.digest(el.L1Loss(reduction=r), X) for r in ("mean", "sum")),
        exports.digest(el.MSELoss(), X),
        exports.digest(el.L1Loss(), X | {"targets": X["targets"].double()}),
        exports.digest(el.L1Loss(), X | {"targets": X["targets"].int()}),
        exports.digest(el.L1Loss(), X | {"targets": X["targets"][:1]}),
        exports.digest(el.L1Loss(), X | {"targets": 2 * X["targets"]}),
        exports.digest(el.L1Loss(), X, ".onnx", "all"),
        exports.digest(el.LogSoftmaxWrapper(el.AngularMargin(0.2)), X),
        exports.digest(el.LogSoftmaxWrapper(el.AngularMargin(0.3)), X),
    ]
    assert len(set(named)) == len(named)
    assert exports.digest(Weighed(1.0, 3), X) == exports.digest(Weighed(1.0, 3), X)


def test_a_class_inside_a_function_is_refused() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return scale * x

    scale = 2
    with pytest.raises(AssertionError, match="may close over what is seen nowhere"):
        exports.onnx(Scaled(), X)


def test_what_has_no_name_that_lasts_is_refused() -> None:
    with pytest.raises(AssertionError, match="which has no name that lasts"):
        exports.digest(Weighed(1.0, object()), X)


def test_a_module_of_a_test_is_named_by_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    before = exports.digest(FrameNLL(), X)
    monkeypatch.setattr(exports, "_source", lambda kind: f"another {kind.__name__}")
    assert exports.digest(FrameNLL(), X) != before


def test_a_file_is_written_once_and_then_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_folder", lambda: tmp_path)
    calls = []
    write = exports.to_torchscript
    monkeypatch.setattr(
        exports, "to_torchscript", lambda *given, **how: calls.append(given) or write(*given, **how)
    )
    first, again, other = (exports.torchscript(el.L1Loss(reduction=r)) for r in ("mean", "mean", "sum"))
    assert first == again != other
    assert len(calls) == 2
    assert sorted(tmp_path.rglob("*.pt")) == sorted([first, other])


def test_what_no_run_has_used_for_a_day_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_STORE", tmp_path)
    for age in (0, 30):
        (tmp_path / f"{age} hours").mkdir()
        os.utime(tmp_path / f"{age} hours", (time.time() - 3600 * age,) * 2)
    (tmp_path / exports._KEY).mkdir()  # of now, and begun with long ago
    os.utime(tmp_path / exports._KEY, (0, 0))
    folder = exports._folder.__wrapped__()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["0 hours", folder.name])


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="extra"):
        exports.onnx(el.L1Loss(), X | {"extra": X["targets"]})
    assert not list(tmp_path.iterdir())
