"""ONNX models as files and as trees: reading, writing beside external data, walking, converting."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import AttributeProto, TensorProto, version_converter
from onnx.inliner import inline_local_functions

# Walking


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, those of subgraphs too."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that are attributes of a node: bodies of scans, branches."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all in it."""
    yield graph
    for node in all_nodes(graph.node):
        yield from subgraphs(node)


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model, wherever it may stand."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in itertools.chain(all_nodes(model.graph.node), *(all_nodes(f.node) for f in model.functions)):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def value_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values, those of subgraphs too."""
    found: set[str] = set()
    for each in all_graphs(graph):
        found |= {value.name for value in (*each.input, *each.output, *each.initializer)}
        found |= {tensor.values.name for tensor in each.sparse_initializer}
        found |= {name for node in each.node for name in (*node.input, *node.output)}
    return found


# Files


def load(argument: str, path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model at `path`, external data not loaded; `argument` is what errors call it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{argument}: got {os.fspath(path)}, expected an .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # a type of protobuf's
        raise ValueError(f"{argument}: {os.fspath(path)} is not an ONNX model") from error
    if not model.graph.output:
        raise ValueError(f"{argument}: {os.fspath(path)} is not an ONNX model, or has no outputs")
    return model


def write(joint: onnx.ModelProto, model: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Put the file at `path`, with a copy of the model's external data where it lies elsewhere."""
    source, target = Path(model).parent, Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".attach") as folder:
        copies = _move(joint, source, target)
        for name, data in copies.items():
            shutil.copyfile(data, Path(folder) / name)
        # the checker wants external data beside the file: copies are here, others where it will be
        beside = not copies and any(map(_external, all_tensors(joint)))
        new = (target.parent if beside else Path(folder)) / f"{Path(folder).name}.onnx"
        try:
            new.write_bytes(joint.SerializeToString())
            _check(new, model)
            for name in copies:
                os.replace(Path(folder) / name, target.parent / name)
            os.replace(new, target)
        finally:
            new.unlink(missing_ok=True)


def _check(new: Path, model: str | os.PathLike[str]) -> None:
    """Let ONNX's checker read the file. What it has against the model alone is not ours to refuse."""
    try:
        onnx.checker.check_model(str(new))
    except onnx.checker.ValidationError:
        try:
            onnx.checker.check_model(os.fspath(model))
        except onnx.checker.ValidationError:
            return
        raise


def _external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _move(joint: onnx.ModelProto, source: Path, target: Path) -> dict[str, Path]:
    """Name external data as they will be beside `target`; which files to copy for it, by their new name."""
    names: dict[str, str] = {}
    for tensor in filter(_external, all_tensors(joint)):
        [place] = [entry for entry in tensor.external_data if entry.key == "location"]
        inner = PurePosixPath(place.value)
        if inner.is_absolute() or ".." in inner.parts:
            raise ValueError(f"model: got external data in {place.value}, expected them in its own folder")
        if not (source / inner).is_file():
            raise FileNotFoundError(f"model: there is no file {source / inner}, which has its external data")
        if not source.samefile(target.parent):
            number = f".{len(names)}" if names else ""
            place.value = names.setdefault(place.value, f"{target.name}{number}.data")
    return {new: source / old for old, new in names.items()}


# Versions


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model is written in."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)


def convert(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model at opset `least` or a newer one: nodes change, nothing else does."""
    version, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if version > newest:
        raise ValueError(f"model: got opset {version}, expected at most {newest}, the newest that onnx knows")
    if version >= least:
        return model
    if model.functions:  # the converter loses them
        model = inline_local_functions(model)
    model.ir_version = max(model.ir_version, 8)  # before 4, initializers had to be inputs too
    try:
        converted = version_converter.convert_version(model, least)
    except Exception as error:  # the converter has several types for what it cannot do
        raise ValueError(f"model: opset {version} does not convert to {least}: {error}") from error
    # The converter takes an unknown shape for that of a scalar, so all but the nodes stays as it was.
    known = {tensor.name for tensor in model.graph.initializer}
    new = [tensor for tensor in converted.graph.initializer if tensor.name not in known]
    del model.graph.node[:], model.opset_import[:]
    model.graph.node.extend(converted.graph.node)
    model.graph.initializer.extend(new)
    model.opset_import.extend(converted.opset_import)
    return model
