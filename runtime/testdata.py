"""ONNX's test data, read without onnx: ``input_0.pb`` … and ``output_0.pb`` … in a folder beside a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .graphs import Names, names_of
from .protobuf import integers, message

SUFFIXES = (".onnx", ".pt", ".pt2", ".pte")
SHARED = "test_data_set_"  # ONNX's name for it, with a number

# Fields of a TensorProto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9
_LISTS = {4: "<f4", 5: "varint", 7: "varint", 10: "<f8", 11: "varint"}
_TYPES = {
    **{1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8"},
    **{12: "u4", 13: "u8"},
}
_BFLOAT16 = 16
_BITS = (10, _BFLOAT16)  # of 16 bits a list of integers has the bits


def exported(path: Path, suffix: str) -> list[tuple[str, Path]]:
    """The files with a suffix under a folder, or a file that has it, each with its row.

    ``ctc_loss/ctc_loss.pt`` is ``ctc_loss``.
    """
    if path.is_file():
        return [(path.stem, path)] if path.suffix == suffix else []
    found = []
    for each in sorted(p for p in path.rglob(f"*{suffix}") if p.is_file()):
        row = each.relative_to(path).with_suffix("")
        found.append(((row.parent if row.parent.name == row.name else row).as_posix(), each))
    return found


def own(path: Path) -> str:
    """How the folders of test data that are one file's alone begin: ``joint_onnx_test_data_set_``."""
    return f"{path.stem}_{path.suffix[1:]}_{SHARED}"


def data_sets(path: Path) -> list[Path]:
    """The folders of a file's test data: its own where it has some, else those that its folder shares.

    All formats of a model share ``test_data_set_0``. Where several models in a folder have no test data of
    their own, it is that of the graph whose inputs and outputs have the same names.
    """
    beside = sorted(path.parent.iterdir())
    folders = [each for each in beside if each.is_dir()]
    alone = [each for each in folders if each.name.startswith(own(path))]
    shared = [each for each in folders if each.name.startswith(SHARED)]
    if alone or not shared:
        return alone
    sharing = [
        each
        for each in beside
        if each.suffix in SUFFIXES and not any(data.name.startswith(own(each)) for data in folders)
    ]
    graphs = {each.stem: names_of(each) for each in sharing if each.suffix == ".onnx"}
    if len({each.stem for each in sharing}) == 1 or (path.stem in graphs and graphs[path.stem] is None):
        return shared  # a graph that cannot be read is found out when it is run
    return [each for each in shared if _is_for(path.stem, each, graphs)]


def _is_for(stem: str, folder: Path, graphs: Mapping[str, Names | None]) -> bool:
    """Whether shared test data are those of a model: of its graph, or of no graph at all."""
    try:
        inputs, outputs = map(set, read_test_data(folder))
    except (OSError, ValueError):  # which whoever reads them says
        return True
    fits = {name for name, graph in graphs.items() if graph is not None and graph.fit(inputs, outputs)}
    return stem in fits if stem in graphs else not fits


def read_test_data(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inputs and the outputs in `folder`, by name.

    Raises:
        ValueError: a file is not a tensor of numbers.
    """
    found: dict[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
    for kind, arrays in found.items():
        for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
            name, array = read_tensor((folder / f"{kind}_{i}.pb").read_bytes())
            arrays[name] = array
    return found["input"], found["output"]


def read_tensor(content: bytes) -> tuple[str, np.ndarray]:
    """The name and the numbers of a TensorProto.

    Raises:
        ValueError: it is none, or has no numbers in it.
    """
    try:
        return _tensor(message(content))
    except TypeError as error:  # a field is of another kind
        raise ValueError("got no tensor, expected a TensorProto") from error


def _tensor(fields: dict[int, list[Any]]) -> tuple[str, np.ndarray]:
    kind = fields.get(_TYPE, [0])[-1]
    if kind != _BFLOAT16 and kind not in _TYPES:
        raise ValueError(f"got a tensor of ONNX's type {kind}, expected numbers")
    name = bytes(fields.get(_NAME, [b""])[-1]).decode()
    shape = [size for value in fields.get(_DIMS, ()) for size in integers(value)]
    dtype = _dtype(kind)
    if _RAW in fields:
        array = np.frombuffer(fields[_RAW][-1], dtype.newbyteorder("<")).astype(dtype)
    else:
        array = _listed(fields, kind, dtype)
    if array.size != math.prod(shape):
        raise ValueError(f"{name}: got {array.size} numbers, expected the shape {shape}")
    return name, array.reshape(shape)


def _listed(fields: dict[int, list[Any]], kind: int, dtype: np.dtype[Any]) -> np.ndarray:
    """The numbers of a tensor that has them in a field of their type."""
    for field, of in _LISTS.items():
        if field in fields and of == "varint":
            numbers = [number for value in fields[field] for number in integers(value)]
            bits = np.array([number % (1 << 64) for number in numbers], np.uint64)
            if kind in _BITS:
                return bits.astype(np.uint16).view(dtype)
            return bits.view(np.int64).astype(dtype)
        if field in fields:
            return np.frombuffer(b"".join(fields[field]), of).astype(dtype)
    return np.zeros(0, dtype)


def _dtype(kind: int) -> np.dtype[Any]:
    from .session import bfloat16

    return bfloat16() if kind == _BFLOAT16 else np.dtype(_TYPES[kind])
