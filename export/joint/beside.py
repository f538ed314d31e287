"""Several models as one graph, which takes and returns what all of them take and return."""

import os
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_model

from exportable_losses.runtime.graphs import external_data

from ..formats.metadata import KEY
from ..nodes.protos import all_nodes, value_names
from .files import load
from .join import free, rename
from .versions import convert, opset_of

_MOST_IN_ONE = 1 << 30  # bytes of a file without external data; protobuf's limit is twice as much


def side_by_side(models: Sequence[str | os.PathLike[str]], path: Path) -> Path:
    """Write the models as one to `path`: names that an earlier one has are prefixed with the file's.

    Raises:
        FileNotFoundError: there is no such file, or none of its external data.
        ValueError: there is no model, one is no ONNX model or has a loss in it, or two have different
            functions of one name or versions of one domain.
    """
    if not models:
        raise ValueError("model: got none, expected a file or several")
    parts = []
    for each in models:
        part = load("model", each)
        missing = [str(file) for file in external_data(Path(each)).values() if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"model: there is no file {missing[0]}, which has data of {each}")
        if any(prop.key == KEY for prop in part.metadata_props):
            raise ValueError(f"model: {each} has a loss in it, expected the models first, and losses behind")
        load_external_data_for_model(part, os.fspath(Path(each).parent))
        parts.append(part)
    newest = max(map(opset_of, parts))
    first, *others = (convert(part, newest) for part in parts)
    for part, file in zip(others, models[1:], strict=True):
        _add(first, part, Path(file).stem)
    large = first.ByteSize() > _MOST_IN_ONE
    onnx.save(first, path, save_as_external_data=large, location=f"{path.name}.data")
    return path


def _add(model: onnx.ModelProto, part: onnx.ModelProto, stem: str) -> None:
    """Put the nodes of `part` beside those of `model`."""
    graph = model.graph
    taken = value_names(graph)
    nodes = {node.name for node in all_nodes(graph.node)}
    names = {name: free(taken, name, f"{stem}_{name}") for name in sorted(value_names(part.graph)) if name}
    clash = any(node.name in nodes for node in all_nodes(part.graph.node))
    prefix = free({name.partition("/")[0] for name in nodes}, stem) + "/" if clash else ""
    rename(part.graph, lambda name: names.get(name, name), prefix, {})
    _rename_dims(model, part, stem)
    for field in ("node", "initializer", "sparse_initializer", "input", "output"):
        getattr(graph, field).extend(getattr(part.graph, field))
    known = {(each.domain, each.name): each for each in model.functions}
    for function in part.functions:
        same = known.get((function.domain, function.name))
        if same is not None and same != function:
            raise ValueError(f"model: two have different functions {function.domain}.{function.name}")
        if same is None:
            model.functions.append(function)
    versions = {each.domain: each.version for each in model.opset_import}
    for each in part.opset_import:
        had = versions.setdefault(each.domain, each.version)
        if had != each.version:
            raise ValueError(f"model: got versions {had} and {each.version} of {each.domain}, expected one")
    del model.opset_import[:]
    model.opset_import.extend(starmap(onnx.helper.make_opsetid, versions.items()))
    known_props = {prop.key for prop in model.metadata_props}
    model.metadata_props.extend(prop for prop in part.metadata_props if prop.key not in known_props)
    model.ir_version = max(model.ir_version, part.ir_version)


def _rename_dims(model: onnx.ModelProto, part: onnx.ModelProto, stem: str) -> None:
    """Two models seldom mean the same by the name of a size, but of the first dimension, the batch."""
    known = {dim.dim_param for _, dim in _dims(model)}
    for axis, dim in _dims(part):
        if axis > 0 and dim.dim_param in known:
            dim.dim_param = f"{stem}_{dim.dim_param}"


def _dims(model: onnx.ModelProto) -> list[tuple[int, onnx.TensorShapeProto.Dimension]]:
    """The named dimensions of what goes in and comes out, each with its place."""
    values = (*model.graph.input, *model.graph.output)
    shapes = [value.type.tensor_type.shape.dim for value in values]
    return [(axis, dim) for shape in shapes for axis, dim in enumerate(shape) if dim.dim_param]
