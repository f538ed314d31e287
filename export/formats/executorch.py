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
from torch.utils._sympy.value_ranges import ValueRanges

from .errors import Absent, reason
from .executorch_elsewhere import run
from .placing import placed
from .plan import Plan, plan
from .pt2 import dims_of_program, inputs_of, trace
from .testdata import place_of, write_test_data
from .tracing import quiet, sparing
from .verify import Eager, Tensors, cases, undifferentiated, verified


def to_executorch(
    module: nn.Module,
    path: str | os.PathLike[str],
    inputs: Mapping[str, Tensor] | None = None,
    *,
    verify: bool = True,
) -> None:
    """Lower `module` to ExecuTorch's portable kernels and write it to `path`, with test data beside it.

    ExecuTorch plans its memory before it runs, so that sizes have upper bounds: those of `inputs`. What a
    loop carries from step to step has a fixed size. For a lattice these are the batch and the longest target:
    pad to them, and pass shorter lengths.

    ExecuTorch may live in a separate environment, whose Python ``EXPORTABLE_LOSSES_EXECUTORCH`` names. Before
    the file is at `path`, the program runs there on its test data and on inputs of other sizes within the
    bounds, and every output must equal that of the module.

    Args:
        module: a module of the catalog, or any other that `torch.export` takes.
        path: the file to write, usually ``.pte``.
        inputs: example inputs by name, as in `to_onnx`, of the largest sizes.
        verify: compare the written program with eager torch. Without it no number is checked.

    Raises:
        Absent: ExecuTorch is not installed; the message says what to install.
        RuntimeError: the exporter or ExecuTorch does not take the module; the message says why.
        TypeError: the module is not a row of the catalog and there are no inputs, or one is not a tensor.
        ValueError: the module does not have an input of that name, or one does not fit.
        VerificationError: a `RuntimeError`: an output of the program differs from the module's.
    """
    planned = plan(module, inputs)
    eager = undifferentiated(planned.module, planned)
    expected = eager(planned.inputs)
    with placed(path) as new, tempfile.TemporaryDirectory() as folder:
        try:
            with quiet("torch._export.serde.serialize"), sparing():
                program = bounded(planned)
                archive = Path(folder) / "program.pt2"
                torch.export.save(program, archive)
            within = _within(program, planned, eager)
            dims = dims_of_program(program, planned)
            found = cases(module, planned.inputs, dims, within) if verify else []
            got = iter(run([(new, each.inputs) for each in found], (archive, new)))
        except Absent:
            raise
        except Exception as error:  # torch has many types for what it cannot do
            raise RuntimeError(f"module: {type(module).__name__} does not export: {reason(error)}") from error
        write_test_data(new.parent / place_of(Path(path), planned.inputs, expected), planned.inputs, expected)
        verified("ExecuTorch", lambda _: _named(planned, next(got)), found, eager)


def _within(program: ExportedProgram, plan: Plan, eager: Eager) -> Eager:
    """`eager` of sizes that are within the bounds of the program."""
    bounds = program.range_constraints
    legal = {
        name: [
            bounds[size.node.expr] if isinstance(size, torch.SymInt) else ValueRanges(size, size)
            for size in node.meta["val"].shape
        ]
        for name, node in zip(plan.inputs, inputs_of(program), strict=True)
    }

    def checked(inputs: Tensors) -> Tensors:
        for name, tensor in inputs.items():
            if any(size not in bound for size, bound in zip(tensor.shape, legal[name], strict=True)):
                raise ValueError(f"{name}: got {list(tensor.shape)}, expected sizes in {legal[name]}")
        return eager(inputs)

    return checked


def _named(plan: Plan, outputs: list[Tensor] | str) -> dict[str, Tensor]:
    if isinstance(outputs, str):
        raise RuntimeError(outputs)
    return dict(zip(plan.outputs, outputs, strict=True))


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
        for node, tensor in zip(inputs_of(program), plan.inputs.values(), strict=True)
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
        for node, dims in zip(inputs_of(program), plan.shapes, strict=True)
    ]
    traced = []
    for tensor, blank, dims in zip(plan.inputs.values(), plan.traced, shapes, strict=True):
        sizes = [blank.shape[i] if i in dims else size for i, size in enumerate(tensor.shape)]
        traced.append(torch.full(sizes, float(blank.is_floating_point())).to(blank.dtype))
    return dataclasses.replace(plan, shapes=shapes, traced=traced)


def _symbols(size: int | torch.SymInt) -> set[sympy.Symbol]:
    return size.node.expr.free_symbols if isinstance(size, torch.SymInt) else set()
