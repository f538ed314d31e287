"""The face of the command line: help, version, and what it costs to start."""

import re
import subprocess
import sys

import pytest

import exportable_losses

COMMANDS = (
    "list",
    "export",
    "attach",
    "validate",
    "serve",
    "score",
    "align",
    "compare",
    "report",
    "plot",
    "bench",
    "doctor",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_of_the_command(cli, command):
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert f"Example: exportable-losses {command}" in result.stdout


def test_every_command_is_listed(cli):
    shown = re.findall(r"^│ (\w+) ", cli("--help").stdout, re.MULTILINE)
    assert shown == list(COMMANDS)


def test_version(cli):
    assert cli("--version").stdout.strip() == exportable_losses.__version__


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_help_loads_neither_torch_nor_onnx():
    code = """
import sys
from exportable_losses.export import cli
sys.argv = ["exportable-losses", "export", "--help"]
try:
    cli.main()
finally:
    assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules)
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("typer", ["list"], "corpus"),
        ("rich", ["list"], "corpus"),
        ("typer", ["export", "--all"], "export"),
        ("torch", ["export", "--all"], "export"),
        ("onnxscript", ["export", "ctc_loss"], "export"),
        ("torch", ["bench"], "export"),
        ("onnxruntime", ["score", __file__, "--inputs", __file__], "corpus"),
        ("pyarrow", ["compare", ".", "."], "corpus"),
        ("matplotlib", ["report", ".", "--out", "page.html"], "corpus"),
        ("jinja2", ["report", ".", "--out", "page.html"], "corpus"),
    ],
)
def test_a_missing_package_is_one_line_that_says_what_to_install(package, words, extra):
    code = f"""
import sys
sys.modules[{package!r}] = None
from exportable_losses.export import cli
sys.argv = ["exportable-losses", *{words!r}]
cli.main()
"""
    done = _python(code)
    assert done.returncode == 1
    wanted = f"{package} is not installed. Try: pip install '.[{extra}]' in a clone of exportable-losses\n"
    assert done.stderr == wanted
