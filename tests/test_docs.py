"""Every code block of the documentation runs, in the order of its page, in a folder that has what it reads.

A page's blocks of Python share their names. Where a heading says "(not run)" nothing below it does.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from pages import PAGES, ROOT, Block, blocks, commands
from typer.testing import CliRunner

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx
from exportable_losses.export.commands import app
from exportable_losses.library import library_path

LANGUAGES = {"python", "sh", "cpp", "js", "text"}
# What would take a minute is run with less. What waits, or needs a network or a cluster, is only parsed.
SHORTER = {"--all": ["ctc_loss", "l1_loss"], "all": ["onnxruntime"]}
PARSED = {"serve", "bench"}
PARSED_OPTIONS = {"--ray"}
EXITS = {"compare": {0, 1}}  # 1: something moved


def test_every_block_is_of_a_kind_that_is_held() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) > 60
    assert [str(block) for block in found if block.runs and block.language not in LANGUAGES] == []
    for page in PAGES:  # no fence that the pattern misses
        assert (ROOT / page).read_text().count("```") == 2 * len(blocks(page)), page


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages' commands read."""
    desk = tmp_path_factory.mktemp("desk")
    for name, module in {
        "ctc_loss": el.CTCLoss(reduction="none"),
        "posterior": el.CTCPosterior(),
        "align": el.CTCAlign(),
    }.items():
        shutil.copy(exports.onnx(module), desk / f"{name}.onnx")
    of_row = exports.onnx(el.CTCLoss())
    shutil.copytree(of_row.parent, desk / "losses" / "ctc_loss")
    (desk / "losses" / "ctc_loss" / of_row.name).rename(desk / "losses" / "ctc_loss" / "ctc_loss.onnx")
    if library_path() is None:  # else a page copies it
        shutil.copy(of_row, desk / "libexportable_losses.so")
    _write_model(desk / "model.onnx")
    _write_corpora(desk)
    (desk / "classes.txt").write_text("\n".join("-abcdefgh"))
    call(["validate", "losses", "--on", "onnxruntime", "--json", "browser.json"], desk)
    return desk


def _write_model(path: Path) -> None:
    class Acoustic(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(5, 9)

        def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.head(features)
            return {"logits": logits, "log_probs": logits.log_softmax(-1)}

    to_onnx(Acoustic(), path, {"features": torch.randn(2, 6, 5)}, verify=False)


def _write_corpora(desk: Path) -> None:
    random = np.random.default_rng(0)
    items = []
    for i in range(80):
        scores = torch.from_numpy(random.standard_normal((20, 9), np.float32)).log_softmax(-1)
        features = random.standard_normal((20, 5)).tolist()
        row = {"id": f"utt{i}", "log_probs": scores.tolist(), "targets": [1, 2, 3], "features": features}
        items.append(row)
    moved = [{**item, "log_probs": (np.array(item["log_probs"]) - 1e-3).tolist()} for item in items]
    numbers = pa.list_(pa.list_(pa.float32()))
    types = {"id": pa.string(), "log_probs": numbers, "targets": pa.list_(pa.int64()), "features": numbers}
    for folder, rows, left_out in (
        ("dev", items, "features"),
        ("quantised", moved, "features"),
        ("speech", items, "log_probs"),
    ):
        kept = [name for name in types if name != left_out]
        (desk / folder).mkdir()
        table = pa.Table.from_pylist(rows, pa.schema([(name, types[name]) for name in types])).select(kept)
        pq.write_table(table, desk / folder / "items.parquet")
    first = items[0]
    batch = {"log_probs": np.array([first["log_probs"]], np.float32), "targets": np.array([first["targets"]])}
    ones = np.ones(1, np.float32)
    np.savez(desk / "batch.npz", **batch, input_lens=ones, target_lens=ones)


def call(words: list[str], folder: Path) -> None:
    """Run a command of ours in `folder`, or parse it where it would wait."""
    name, *rest = [more for word in words for more in SHORTER.get(word, [word])]
    if name in PARSED or PARSED_OPTIONS & set(rest):
        group: Any = typer.main.get_command(app)
        group.commands[name].make_context(name, rest)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, [name, *rest], catch_exceptions=False)
    assert done.exit_code in EXITS.get(name, {0}), f"{words}\n{done.output}"
    assert "none set aside" in done.output or name != "score" or "--inputs" in rest, done.output


def install(words: list[str]) -> None:
    extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for extra in re.findall(r"\.\[([\w,-]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(extras), words


def make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets), words


def compile_(words: list[str]) -> None:
    """Hold the options of a build, which other tests do, to what CMake and they know."""
    known = "".join(path.read_text() for path in (ROOT / "CMakeLists.txt", *ROOT.glob("cmake/*"))) + "".join(
        path.read_text() for path in (*ROOT.glob("examples/cpp/*"), *ROOT.glob("tests/native/*.py"))
    )
    text = " ".join(words)
    for option in re.findall(r"-D (\w+)=", text):
        assert option.startswith(("CMAKE_", "ISA")) or option in known, option
    for target in re.findall(r"--target (\w+)", text):
        assert target in known, target
    for folder, names in re.findall(r"(\S+)/\{([\w,]+)\}\.cc", text):
        assert all((ROOT / folder / f"{name}.cc").is_file() for name in names.split(",")), names


def copy(words: list[str], folder: Path) -> None:
    """Do what copies the native library, where there is one."""
    if library_path() is None:
        return
    bin_ = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([bin_, os.environ.get("PATH", "")])}
    command = " ".join(f'"{word}"' for word in ["cp", *words])  # the shell looks into them
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, env=environment)


def python(words: list[str], folder: Path) -> None:
    """A module runs; of a program the test of its own does."""
    if words[:1] == ["-m"]:
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    assert (ROOT / words[0]).is_file()
    assert Path(words[0]).stem in (ROOT / "tests" / "cli" / "test_examples.py").read_text()


def run(words: list[str], folder: Path) -> None:
    """Do a command of a page, or hold it to what the repository has."""
    first, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    build = first.startswith("build/cpp/")
    if build:  # tests/native/test_cpp_examples.py runs them
        assert (ROOT / "examples" / "cpp" / f"{Path(first).name}.cpp").is_file()
        assert all((folder / word).exists() for word in rest), words
        return
    kinds: dict[str, Callable[[], None]] = {
        "exportable-losses": lambda: call(rest, folder),
        "pip": lambda: install(rest),
        "make": lambda: make(rest),
        "python": lambda: python(rest, folder),
        "cp": lambda: copy(rest, folder),
    }
    compilers = {"cmake", "aarch64-linux-gnu-strip", "arm-none-eabi-g++"}
    assert first in {*kinds, *compilers}, f"{words}: no test knows what to do with this"
    kinds.get(first, lambda: compile_(words))()


@pytest.mark.parametrize("page", [p for p in PAGES if {b.language for b in blocks(p)} & {"python", "sh"}])
def test_its_blocks_run(page: str, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": page}
    for block in blocks(page):
        if not block.runs:
            continue
        if (
            block.language == "python" and page != "CONTRIBUTING.md"
        ):  # whose steps tests/test_new_row.py takes
            exec(compile(block.code, str(block), "exec"), names)
        elif block.language == "sh":
            for words in commands(block.code):
                run(words, folder)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_its_text_are_there(page: str) -> None:
    group: Any = typer.main.get_command(app)
    for words in map(str.split, re.findall(r"`([^`\n]+)`", (ROOT / page).read_text())):
        if words[:1] == ["make"] and len(words) > 1:
            make(words[1:2])
        elif words[:1] == ["pip"]:
            install(words)
        elif words[:1] == ["exportable-losses"] and len(words) > 1:
            assert words[1] in group.commands, words


def of_language(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language and block.runs]


@pytest.mark.parametrize("block", of_language("cpp"), ids=str)
def test_names_of_cpp_are_those_of_the_examples(block: Block) -> None:
    """Which are built and run. Those of docs/running.md are compiled: tests/native/test_cpp_examples.py."""
    examples = "".join(path.read_text() for path in (ROOT / "examples" / "cpp").iterdir())
    names = re.findall(r"\w+(?:::\w+)+|(?<=\.)\w+(?=\()|<[\w/]+\.h>", block.code)
    assert names
    assert [name for name in names if name not in examples] == []


@pytest.mark.parametrize("block", of_language("js"), ids=str)
def test_javascript_calls_what_the_page_of_serve_calls(block: Block, tmp_path: Path) -> None:
    page = (ROOT / "export" / "checking" / "web" / "page" / "graphs.js").read_text()
    assert [call for call in re.findall(r"\w+(?:\.\w+)+(?=\()", block.code) if call not in page] == []
    node = shutil.which("node")
    if node is not None:
        (tmp_path / "block.mjs").write_text(block.code)
        done = subprocess.run([node, "--check", "block.mjs"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_each_row_has_a_formula_and_a_source() -> None:
    """In its docstring, which the page of the rows is made of."""
    sections = (ROOT / "docs" / "rows.md").read_text().split("\n### ")[1:]
    assert [section.partition("\n")[0] for section in sections] == catalog.names()
    assert [each for each in sections if not re.search(r"^    \S", each, re.MULTILINE)] == []
    assert [each for each in sections if not re.search(r"https://|SpeechBrain", each)] == []
