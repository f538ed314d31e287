"""What a graph calls its inputs and outputs, and which files lie beside it: read without onnx."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .protobuf import message

# Fields of the messages, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_GRAPH, _FUNCTIONS = 7, 25  # of a ModelProto
_NODES, _INITIALIZERS, _INPUTS, _OUTPUTS = 1, 5, 11, 12  # of a GraphProto
_FUNCTION_NODES, _ATTRIBUTES = 7, 5  # of a FunctionProto, of a NodeProto
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11  # of an AttributeProto
_TENSOR_NAME, _EXTERNAL = 8, 13  # of a TensorProto
_VALUE_NAME = 1  # of a ValueInfoProto
_KEY, _VALUE = 1, 2  # of a StringStringEntryProto


@dataclass(frozen=True)
class Names:
    """What a graph calls its inputs and outputs.

    Args:
        required: the inputs without a default.
        optional: those with one.
        outputs: of the graph.
    """

    required: Set[str]
    optional: Set[str]
    outputs: Set[str]

    def fit(self, inputs: Set[str], outputs: Set[str]) -> bool:
        """Whether arrays of these names may be its inputs and its outputs."""
        return self.required <= inputs <= self.required | self.optional and outputs == self.outputs


def names_of(path: Path) -> Names | None:
    """The names in the graph at `path`; nothing where it cannot be read."""
    try:
        graph = message(message(memoryview(path.read_bytes()))[_GRAPH][-1])
        defaults, inputs, outputs = (
            {_text(message(each)[field][-1]) for each in graph.get(of, ())}
            for of, field in ((_INITIALIZERS, _TENSOR_NAME), (_INPUTS, _VALUE_NAME), (_OUTPUTS, _VALUE_NAME))
        )
    except (KeyError, OSError, TypeError, ValueError):
        return None
    return Names(inputs - defaults, inputs & defaults, outputs)


def external_data(path: Path) -> dict[str, Path]:
    """The files with weights of the graph at `path`, by what it calls them.

    Files outside its folder are left out, and all where the graph cannot be read: whatever runs it says so.
    """
    try:
        model = message(memoryview(path.read_bytes()))
        functions = map(message, model.get(_FUNCTIONS, []))
        nodes = [node for function in functions for node in function.get(_FUNCTION_NODES, [])]
        tensors = [*_tensors(message(model[_GRAPH][-1])), *_of_nodes(nodes)]
        places = {place: path.parent / place for tensor in tensors for place in _places(tensor)}
    except (KeyError, OSError, TypeError, ValueError):
        return {}
    folder = path.parent.resolve()
    return {
        place: file
        for place, file in places.items()
        if file.is_file() and file.resolve().is_relative_to(folder) and ".." not in Path(place).parts
    }


def _tensors(graph: dict[int, list[Any]]) -> Iterator[Any]:
    yield from graph.get(_INITIALIZERS, ())
    yield from _of_nodes(graph.get(_NODES, []))


def _of_nodes(nodes: list[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in map(message, message(node).get(_ATTRIBUTES, ())):
            yield from (*attribute.get(_TENSOR, ()), *attribute.get(_TENSORS, ()))
            for graph in (*attribute.get(_SUBGRAPH, ()), *attribute.get(_SUBGRAPHS, ())):
                yield from _tensors(message(graph))


def _places(tensor: Any) -> Iterator[str]:
    for entry in map(message, message(tensor).get(_EXTERNAL, ())):
        if _text(entry[_KEY][-1]) == "location":
            yield _text(entry[_VALUE][-1])


def _text(content: Any) -> str:
    return bytes(content).decode()
