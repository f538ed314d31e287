"""Writing ONNX's test data, which `exportable_losses.runtime.testdata` finds and reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import torch
from onnx import numpy_helper

from exportable_losses.runtime.testdata import SHARED, SUFFIXES, own, read_test_data

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor | np.ndarray]


def write_test_data(folder: Path, inputs: Tensors, outputs: Tensors) -> None:
    """Write inputs and outputs to `folder`, in order, replacing what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for i, (name, tensor) in enumerate(tensors.items()):
            proto = numpy_helper.from_array(as_array(tensor), name)
            (folder / f"{kind}_{i}.pb").write_bytes(proto.SerializeToString())


def place_of(path: Path, inputs: Tensors, outputs: Tensors) -> str:
    """The name of the folder for the test data of a file that is written to `path`.

    It is ONNX's ``test_data_set_0``, which all formats of a model share where it has a folder to itself.
    Beside another model, or where the other formats are tested on something else, it is a folder of the
    file's own.
    """
    beside = [each for each in path.parent.iterdir() if each.suffix in SUFFIXES and each.name != path.name]
    others = [each for each in beside if not (path.parent / f"{own(each)}0").is_dir()]
    alone, shared = f"{own(path)}0", f"{SHARED}0"
    if (path.parent / alone).is_dir() or any(each.stem != path.stem for each in others):
        return alone
    return alone if others and _differ(path.parent / shared, inputs, outputs) else shared


def _differ(folder: Path, inputs: Tensors, outputs: Tensors) -> bool:
    """Whether other test data are there; gradients aside, which a graph alone has."""
    if not folder.is_dir():
        return False
    try:
        there = read_test_data(folder)
    except (OSError, ValueError):  # it is of no use to another file either
        return False
    return any(_content(one) != _content(other) for one, other in zip(there, (inputs, outputs), strict=True))


def _content(tensors: Tensors) -> dict[str, tuple[object, ...]]:
    arrays = {name: as_array(each) for name, each in tensors.items() if not name.startswith("grad_")}
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


def as_array(tensor: Tensor | np.ndarray) -> np.ndarray:
    """A tensor as an array, of ml_dtypes' type where it is bfloat16."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # which numpy does not know by itself
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
