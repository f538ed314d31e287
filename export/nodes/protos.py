"""ONNX models as trees: every node, graph, tensor and name of one."""

import itertools
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, TensorProto


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
