"""One folder per row: its graph, its script, and the test data of both."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.runtime.testdata import SHARED

from .executorch import to_executorch
from .gradients import differentiable, gradients_of
from .half import TYPES, Half
from .onnx import to_onnx
from .pt2 import to_pt2
from .testdata import write_test_data
from .torchscript import to_torchscript

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2", "executorch": ".pte"}
FORMATS = tuple(SUFFIXES)
DEFAULT = ("onnx", "torchscript")
DTYPES = tuple(TYPES)


@dataclass(frozen=True)
class Prepared:
    """A row that is ready to be written: it ran once, on what becomes its test data."""

    entry: catalog.Entry
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    gradients: Sequence[str] = ()


def prepare(
    row: str,
    settings: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    gradients: Sequence[str] = (),
    *,
    absolute: bool = False,
) -> Prepared:
    """Make a row's module and run it.

    Args:
        row: its name.
        settings: of the module.
        sizes: of the test data, by letter.
        gradients: inputs whose gradients its graph gives too; ``all`` for all that have one, if any.
        absolute: whether lengths are integers.

    Raises:
        KeyError: there is no such row.
        TypeError: the row does not have such a setting.
        ValueError: a setting or a size does not fit, or an input has no gradient.
    """
    settings = settings or {}
    entry = catalog.get(row).fitted(settings)
    module = entry.module(**settings)
    blank = settings.get("blank_index")
    inputs = entry.example_inputs(blank_index=blank, absolute=absolute, **sizes or {})
    try:
        outputs = module(**inputs)
    except (RuntimeError, IndexError) as error:  # torch's own words for what does not fit
        raise ValueError(f"the settings do not fit the test data: {error}") from error
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    possible = differentiable(entry.contract, inputs)
    names = possible if list(gradients) == ["all"] else gradients and gradients_of(possible, gradients)
    return Prepared(entry, module, inputs, dict(zip(entry.outputs, several, strict=True)), names)


def write(
    prepared: Prepared,
    folder: Path,
    formats: Sequence[str] = DEFAULT,
    dtype: Half | None = None,
    *,
    verify: bool = True,
    **of_graph: Any,
) -> list[str]:
    """Write ``row/row.onnx``, ``.pt``, ``.pt2`` or ``.pte``, and ``row/test_data_set_0`` to `folder`.

    What is there is replaced. With a `dtype` the graph takes and gives 16 bits, and stands alone: the others
    would not share its test data. `of_graph` is what else `to_onnx` takes.

    Returns:
        What an exporter does not take or what does not compute what the row does, with the reason: a line
        for each file that there is not.
    """
    row, failed = prepared.entry.name, []
    stem = folder / row / row
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_test_data(stem.parent / f"{SHARED}0", prepared.inputs, prepared.outputs)
    for kind in reversed(FORMATS):  # the graph last: its test data have the gradients too
        if kind not in formats or (dtype is not None and kind != "onnx"):
            continue
        path = stem.with_suffix(SUFFIXES[kind])
        path.unlink(missing_ok=True)
        try:
            _export(prepared, kind, path, verify, dtype=dtype, **of_graph)
        except RuntimeError as error:
            failed.append(f"{row} ({kind}): {error}")
    return failed


def _export(prepared: Prepared, kind: str, path: Path, verify: bool, **of_graph: Any) -> None:
    module, inputs = prepared.module, prepared.inputs
    if kind == "torchscript":
        to_torchscript(module, path, inputs, verify=verify)
    elif kind == "pt2":
        to_pt2(module, path, inputs, verify=verify)
    elif kind == "executorch":
        to_executorch(module, path, inputs, verify=verify)
    else:
        to_onnx(module, path, inputs, gradients=prepared.gradients, verify=verify, **of_graph)


def parse_settings(row: str, given: Sequence[str]) -> dict[str, Any]:
    """Settings from ``name=value`` strings: numbers, true and false, words, lists for weights.

    Raises:
        ValueError: it is no setting of the row, or not such a value.
    """
    defaults = catalog.get(row).settings
    settings = {}
    for item in given:
        name, equals, text = item.partition("=")
        known = ", ".join(defaults) or "none"
        if not equals:
            raise ValueError(f"got the setting {item!r}, expected name=value; its settings: {known}")
        if name not in defaults:
            close = [each for each in defaults if name and each.startswith(f"{name}_")]
            close = close or difflib.get_close_matches(name, defaults)
            hint = f" (close to it: {', '.join(close)})" if close else ""
            raise ValueError(f"got the setting {name!r}, expected one of its settings: {known}{hint}")
        settings[name] = _value(name, text, defaults[name])
    return settings


def parse_sizes(given: Sequence[str]) -> dict[str, int]:
    """Sizes from ``letter=number`` strings.

    Raises:
        ValueError: it is not such a string.
    """
    sizes = {}
    for item in given:
        letter, _, number = item.partition("=")
        if not number.isdecimal():
            raise ValueError(f"got the size {item!r}, expected something like B=4")
        sizes[letter] = int(number)
    return sizes


def _value(name: str, text: str, default: Any) -> Any:
    """`text` as what `default` is; a list of numbers becomes a tensor."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is None and isinstance(value, list):
        return torch.tensor(value, dtype=torch.float32)
    if default is None or not isinstance(default, (bool, int, float, str)):
        raise ValueError(f"{name}: can be set in Python only")
    if type(value) is not type(default):
        raise ValueError(f"{name}: got {text!r}, expected {type(default).__name__}")
    return value
