"""ONNX's standard test data: ``input_0.pb`` … and ``output_0.pb`` … in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import numpy_helper

if TYPE_CHECKING:
    from torch import Tensor


def exported(folder: Path, suffix: str) -> list[tuple[str, Path]]:
    """The files with a suffix under a folder, each with its row: ``ctc_loss/ctc_loss.pt`` is ``ctc_loss``."""
    found = []
    for path in sorted(p for p in folder.rglob(f"*{suffix}") if p.is_file()):
        row = path.relative_to(folder).with_suffix("")
        found.append(((row.parent if row.parent.name == row.name else row).as_posix(), path))
    return found


def data_sets(path: Path) -> list[Path]:
    """The folders of test data that stand beside a file."""
    return sorted(path.parent.glob("test_data_set_*"))


def write_test_data(folder: Path, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Write inputs and outputs to `folder`, in order, replacing what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for i, (name, tensor) in enumerate(tensors.items()):
            proto = numpy_helper.from_array(as_array(tensor.detach().cpu()), name)
            (folder / f"{kind}_{i}.pb").write_bytes(proto.SerializeToString())


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor of a CPU as an array, of ml_dtypes' type where it is bfloat16."""
    if tensor.dtype == torch.bfloat16:  # which numpy does not know by itself
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def read_test_data(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inputs and the outputs in `folder`, by name."""
    found: dict[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
    for kind, arrays in found.items():
        for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
            proto = onnx.TensorProto.FromString((folder / f"{kind}_{i}.pb").read_bytes())
            arrays[proto.name] = numpy_helper.to_array(proto)
    return found["input"], found["output"]
