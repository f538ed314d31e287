"""Export to ExecuTorch."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import sympy
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._sympy.value_ranges import ValueRanges

from .errors import Absent, reason
from .executorch_elsewhere import call
from .plan import Plan, plan
from .pt2 import trace
from .testdata import write_test_data
from .tracing import quiet, sparing


def to_executorch(
    module: nn.Module, path: str | os.PathLike[str], inputs: Mapping[str, Tensor] | None = None
) -> None:
    """Lower `module` to ExecuTorch's portable kernels and write it to `path`, with test data beside it.

    ExecuTorch plans its memory before it runs, so that sizes have bounds: those of `inputs` do fit. What a
    loop carries from step to step has one size only. For a lattice these are the batch and the longest
    target: pad to them, and give shorter lengths.

    ExecuTorch may be in an environment of its own, whose Python ``EXPORTABLE_LOSSES_EXECUTORCH`` names.

    Args:
        module: a module of the catalog, or any other that `torch.export` takes.
        path: the file to write, by custom ``.pte``.
        inputs: example inputs by name, as `to_onnx` takes them; the largest.

    Raises:
        Absent: there is no ExecuTorch; the message says what to install.
        RuntimeError: the exporter or ExecuTorch does not take the module; the message says why.
        TypeError: the module is not a row of the catalog and there are no inputs, or one is not a tensor.
        ValueError: an input that the module does not have, or that does not fit.
    """
    planned = plan(module, inputs)
    values = planned.module(*planned.inputs.values())
    try:
        with quiet("torch._export.serde.serialize"), sparing(), tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "program.pt2"
            torch.export.save(bounded(planned), archive)
            call("lower", str(archive), str(Path(path).resolve()))
    except Absent:
        raise
    except Exception as error:  # torch has many types for what it cannot do
        raise RuntimeError(f"module: {type(module).__name__} does not export: {reason(error)}") from error
    named = dict(zip(planned.outputs, values, strict=True))
    write_test_data(Path(path).parent / "test_data_set_0", planned.inputs, named)


def bounded(plan: Plan) -> ExportedProgram:
    """The program of `plan`, with a bound for each size, and one size for what a scan carries."""
    program = _trace(plan)
    carried = {
        symbol
        for node in program.graph.nodes
        if node.target is torch.ops.higher_order.scan
        for start in node.args[1]
        for size in start.meta["val"].shape
        for symbol in _symbols(size)
    }
    if carried:
        program = _trace(_fixed(plan, program, carried))
    largest = {
        size.node.expr: max(given, size.node.hint)
        for node, tensor in zip(_inputs(program), plan.inputs.values(), strict=True)
        for size, given in zip(node.meta["val"].shape, tensor.shape, strict=True)
        if isinstance(size, torch.SymInt)
    }
    program._range_constraints = {
        size: ValueRanges(bounds.lower, largest.get(size, bounds.upper))
        for size, bounds in program.range_constraints.items()
        if isinstance(size, sympy.Symbol)
    }
    return program


def _trace(plan: Plan) -> ExportedProgram:
    return trace(plan).run_decompositions({torch.ops.aten.sort.default: _sort})


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """`torch.sort`, for which ExecuTorch has no kernel."""
    values, indices = x.topk(x.shape[dim], dim, descending)
    return values, indices


def _fixed(plan: Plan, program: ExportedProgram, carried: set[sympy.Symbol]) -> Plan:
    """`plan` with the sizes that any of `carried` is in as they are in its inputs."""
    shapes = [
        {i: dim for i, dim in dims.items() if not _symbols(node.meta["val"].shape[i]) & carried}
        for node, dims in zip(_inputs(program), plan.shapes, strict=True)
    ]
    traced = []
    for tensor, blank, dims in zip(plan.inputs.values(), plan.traced, shapes, strict=True):
        sizes = [blank.shape[i] if i in dims else size for i, size in enumerate(tensor.shape)]
        traced.append(torch.full(sizes, float(blank.is_floating_point())).to(blank.dtype))
    return dataclasses.replace(plan, shapes=shapes, traced=traced)


def _inputs(program: ExportedProgram) -> list[Node]:
    names = program.graph_signature.user_inputs
    return [node for node in program.graph.nodes if node.name in names]


def _symbols(size: int | torch.SymInt) -> set[sympy.Symbol]:
    return size.node.expr.free_symbols if isinstance(size, torch.SymInt) else set()
