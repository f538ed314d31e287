"""A package that is missing is one sentence, which names the extra that brings it."""

import re
import subprocess
import sys
from importlib.metadata import requires

import pytest

from exportable_losses.missing import _BRINGS, explained

# What each line of code says where a package is missing, as it would from a process of its own.
TWICE = """
import sys, traceback
sys.modules[{!r}] = None
for code in {!r}:
    try:
        exec(code, {{}})
    except Exception as error:
        callers = error.with_traceback(error.__traceback__.tb_next)
        print("\\0", *traceback.format_exception(callers), sep="", end="")
"""


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("exportable_losses.CTCLoss", "torch", "torch"),
        ("exportable_losses.catalog", "torch", "torch"),
        ("exportable_losses.export.to_onnx", "torch", "export"),
        ("exportable_losses.export.to_onnx", "onnx", "export"),
        ("exportable_losses.export.attach", "onnxscript", "export"),
        ("exportable_losses.runtime.LossSession", "onnxruntime", "runtime"),
        ("exportable_losses.runtime.Scorer", "onnxruntime", "runtime"),
        ("exportable_losses.runtime.Scorer", "pyarrow", "corpus"),
        ("exportable_losses.runtime.score_corpus", "pyarrow", "corpus"),
    ],
)
def test_one_sentence_names_the_extra(name: str, package: str, extra: str) -> None:
    module, _, attribute = name.rpartition(".")
    code = TWICE.format(package, (f"import {module}; {name}", f"from {module} import {attribute}"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = done.stdout.split("\0")[1:]
    assert len(said) == 2, done.stderr
    for traceback in said:
        first, *frames, last = traceback.splitlines()
        how = f"pip install '.[{extra}]' in a clone of exportable-losses"
        assert last == f"ModuleNotFoundError: {name} needs {package}: {how}"
        assert first == "Traceback (most recent call last):"
        assert sum(line.startswith("  File ") for line in frames) == 2, traceback  # the caller's, and ours


def test_what_no_extra_brings_is_told_as_it_is() -> None:
    error = ModuleNotFoundError("No module named 'abacus'", name="abacus")

    def find(name: str) -> None:
        raise error

    with pytest.raises(ModuleNotFoundError) as caught:
        explained("exportable_losses", "torch", find)("CTCLoss")
    assert caught.value is error


def test_the_extras_bring_what_is_said_of_them() -> None:
    wanted: dict[str, set[str]] = {}
    for requirement in requires("exportable-losses") or ():
        if match := re.match(r"([\w-]+)(?:\[([\w,-]+)\])?.*extra == [\"'](\w+)", requirement):
            names = {match[2]} if match[1] == "exportable-losses" else {match[1]}
            wanted.setdefault(match[3], set()).update(*(name.split(",") for name in names))
    for extra, packages in _BRINGS.items():
        brought = {extra}
        while (more := brought.union(*(wanted.get(each, ()) for each in brought))) != brought:
            brought = more
        missing = {package.replace("_", "-") for package in packages} - brought
        assert missing <= {"pandas"}, extra  # which ray[data] brings
