"""The nodes of a loss behind those of a model, under names that the model does not have."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from ..nodes.functions import DOMAIN, VERSION
from ..nodes.protos import all_graphs, all_nodes, value_names
from .fit import Dim, Given, dims_of


def free(taken: set[str], *wanted: str) -> str:
    """The first of the names that is not taken; the last one with a number else. Taken from now on."""
    numbered = (f"{wanted[-1]}_{i}" for i in itertools.count(2))
    name = next(name for name in itertools.chain(wanted, numbered) if name not in taken)
    taken.add(name)
    return name


@dataclass
class Names:
    """What the loss's inputs and outputs are called in the joint graph."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def join(joint: onnx.ModelProto, loss: onnx.ModelProto, given: Given) -> Names:
    """Put the loss behind the model, in `joint`."""
    row, graph = given.about["row"], joint.graph
    taken, nodes = value_names(graph), {node.name for node in all_nodes(graph.node)}
    prefixes = {name.partition("/")[0] for name in taken | nodes}
    prefix = free(prefixes, row) + "/"
    remaining = [value.name for value in loss.graph.input if value.name not in given.inputs]
    names = Names(
        {name: free(taken, name, f"{row}_{name}") for name in remaining},
        {value.name: free(taken, value.name, f"{row}_{value.name}") for value in loss.graph.output},
    )
    within = {name: prefix + name for name in value_names(loss.graph) if name}
    for name, output in given.inputs.items():
        within[name] = output
        for i, (op_type, attributes) in enumerate(given.steps[name]):
            before, after = within[name], f"{prefix}{name}/{i}"
            graph.node.append(
                helper.make_node(op_type, [before], [after], f"{after}/{op_type}", **attributes)
            )
            within[name] = after
    within |= names.inputs | names.outputs
    functions = _functions(joint, loss)
    rename(loss.graph, lambda name: within.get(name, name), prefix, functions)
    size = _sizes(given, joint, row)
    for value in loss.graph.input:
        if value.name in names.inputs.values():
            _resize(value, size)
            graph.input.append(value)
    for value in loss.graph.output:
        _resize(value, size)
        graph.output.append(value)
    graph.node.extend(loss.graph.node)
    graph.initializer.extend(loss.graph.initializer)
    joint.ir_version = max(joint.ir_version, loss.ir_version)
    if DOMAIN not in {each.domain for each in joint.opset_import}:
        joint.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    return names


def rename(
    graph: onnx.GraphProto, name_of: Callable[[str], str], prefix: str, functions: Mapping[str, str]
) -> None:
    """Rename all values, nodes and functions of `graph`."""
    for each in all_graphs(graph):
        for value in (*each.input, *each.output, *each.initializer):
            value.name = name_of(value.name)
        for sparse in each.sparse_initializer:
            sparse.values.name = name_of(sparse.values.name)
        del each.value_info[:]  # shapes in the loss's own letters; any runtime finds them again
        for node in each.node:
            node.name = prefix + (node.name or node.op_type)
            for values in (node.input, node.output):
                values[:] = [name_of(name) if name else "" for name in values]
            if node.domain == DOMAIN:
                node.op_type = functions.get(node.op_type, node.op_type)


def _functions(joint: onnx.ModelProto, loss: onnx.ModelProto) -> dict[str, str]:
    """Put the loss's functions into `joint`; the names of those that it had under the same name already."""
    renamed: dict[str, str] = {}
    theirs = {f.name: f for f in joint.functions if f.domain == DOMAIN}
    taken = set(theirs)
    for function in loss.functions:  # those that another calls stand before it
        for node in all_nodes(function.node):
            if node.domain == DOMAIN:
                node.op_type = renamed.get(node.op_type, node.op_type)
        if theirs.get(function.name) == function:
            continue
        new = free(taken, function.name)
        if new != function.name:  # computed by its body alone: no library knows the name
            renamed[function.name] = function.name = new
        joint.functions.append(function)
    return renamed


def _sizes(given: Given, joint: onnx.ModelProto, row: str) -> Callable[[str], Dim]:
    """From a dimension of the loss to what it is in the joint graph."""
    taken: set[str] = set()
    for value in (*joint.graph.input, *joint.graph.output, *joint.graph.value_info):
        taken |= {str(dim) for dim in dims_of(value) or ()}
    known = dict(given.sizes)

    def size(term: str) -> Dim:
        letter, plus, more = term.partition("+")
        if not letter.isidentifier() or (plus and not more.isdigit()):
            return ""  # worked out from several: the runtime finds it
        if letter not in known:
            known[letter] = free(taken, letter, f"{row}_{letter}")
        have = known[letter]
        return have + int(more or 0) if isinstance(have, int) else have + plus + more

    return size


def _resize(value: onnx.ValueInfoProto, size: Callable[[str], Dim]) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_param"):
            new = size(dim.dim_param)
            dim.Clear()
            if isinstance(new, int):
                dim.dim_value = new
            elif new:
                dim.dim_param = new
