"""Export to the archives of `torch.export`."""

import functools
import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._sympy.value_ranges import ValueRanges

from exportable_losses.ops import scans

from ..nodes import torch_losses  # noqa: F401  tells torch what `ctc_loss` returns
from .errors import reason
from .gradients import Positional
from .metadata import KEY
from .placing import placed
from .plan import Plan, plan
from .sizes import Dims
from .testdata import place_of, write_test_data
from .tracing import quiet, sparing
from .verify import cases, undifferentiated, verified

# Notes on where a node comes from: half of a file, with the paths of the machine that wrote it.
_ORIGINS = ("from_node", "nn_module_stack", "source_fn_stack", "stack_trace", "torch_fn")
_SIZE = r"(1 \+ )?L\['\w+'\]\.size\(\)\[\d+\]"


def to_pt2(
    module: nn.Module,
    path: str | os.PathLike[str],
    inputs: Mapping[str, Tensor] | None = None,
    *,
    verify: bool = True,
) -> ExportedProgram:
    """Write `module` to `path` as an archive of `torch.export`, with test data beside it.

    ``torch.export.load`` reads it with torch alone; AOTInductor and ExecuTorch compile it. It contains
    torch's own operators in place of this package's: a loop is one node, ``scan``, whatever the sizes.
    Uncompiled, such a loop runs in Python: load a file to check it, compile it for speed. Sizes, names and
    test data are those of `to_onnx`, but a program is called with keyword arguments. The archive is loaded
    and its outputs are verified in the same way.

    Args:
        module: a module of the catalog, or any other that `torch.export` takes. Losses of torch and
            torchaudio in it are left as they are.
        path: the file to write, usually ``.pt2``.
        inputs: example inputs by name, as in `to_onnx`.
        verify: compare the written program with eager torch. Without it no number is checked.

    Returns:
        The program that was written.

    Raises:
        RuntimeError: the exporter does not take the module; the message says why.
        TypeError: the module is not a row of the catalog and there are no inputs, or one is not a tensor.
        ValueError: the module does not have an input of that name, or one does not fit.
        VerificationError: a `RuntimeError`: an output of the program differs from the module's.

    Examples:
        >>> import exportable_losses as el, tempfile, os, torch
        >>> path = os.path.join(tempfile.mkdtemp(), "l1_loss.pt2")
        >>> program = to_pt2(el.L1Loss(), path)
        >>> loss = torch.export.load(path).module()
        >>> x = torch.zeros(1, 2, 3)
        >>> loss(predictions=x, targets=x + 1, length=torch.ones(1))
        tensor(1.)
    """
    planned = plan(module, inputs)
    eager = undifferentiated(planned.module, planned)
    expected = eager(planned.inputs)
    try:
        with quiet("torch._export.serde.serialize"), sparing():
            program = trace(planned)
            archive = io.BytesIO()
            about = {} if planned.metadata is None else {f"{KEY}.json": planned.metadata}
            torch.export.save(program, archive, extra_files=about)
    except Exception as error:  # torch has many types for what it cannot do
        raise RuntimeError(f"module: {type(module).__name__} does not export: {reason(error)}") from error
    with placed(path) as new:
        _pack(archive, new)
        write_test_data(new.parent / place_of(Path(path), planned.inputs, expected), planned.inputs, expected)
        if verify:
            loaded = Positional(torch.export.load(new).module(), list(planned.inputs))
            found = cases(module, planned.inputs, dims_of_program(program, planned), eager)
            verified("torch.export", undifferentiated(loaded, planned), found, eager)
    return program


def dims_of_program(program: ExportedProgram, plan: Plan) -> Dims:
    """The dimensions of each input: a letter of the row, or the program's own, where it is dynamic."""
    letters = plan.letters or {}
    return {
        name: [
            (letters[name][i] if letters else str(size).replace(" ", ""))
            if isinstance(size, torch.SymInt)
            else size
            for i, size in enumerate(node.meta["val"].shape)
        ]
        for name, node in zip(plan.inputs, inputs_of(program), strict=True)
    }


def inputs_of(program: ExportedProgram) -> list[Node]:
    """The nodes of the inputs, in order."""
    names = program.graph_signature.user_inputs
    return [node for node in program.graph.nodes if node.name in names]


def trace(plan: Plan) -> ExportedProgram:
    """The program of the module, in torch's own operators, for any sizes."""
    inputs = dict(zip(plan.inputs, plan.traced, strict=True))
    shapes = dict(zip(plan.inputs, plan.shapes, strict=True))
    module = _with_plain_outputs(plan.module.module)
    program = torch.export.export(module, (), inputs, dynamic_shapes=shapes)
    program = program.run_decompositions(scans.table())
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, GraphModule) else ():
            for key in _ORIGINS:
                node.meta.pop(key, None)
    # The trace notes whatever holds at its own sizes, so that none is 1 and which of two is larger. What the
    # program does depend on is which sizes agree.
    program._guards_code = [g for g in program._guards_code if re.fullmatch(f"{_SIZE} == {_SIZE}", g)]
    program._range_constraints = {
        size: bounds if free_unbacked_symbols(size) else ValueRanges(1, bounds.upper)
        for size, bounds in program.range_constraints.items()
    }
    return program


def _with_plain_outputs(module: nn.Module) -> nn.Module:
    """`module`, which is changed: a named tuple, of a type that no file knows, is a tuple."""
    forward = module.forward

    @functools.wraps(forward)  # its arguments are the names of the inputs
    def plain(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        return tuple(outputs) if isinstance(outputs, tuple) else outputs

    module.forward = plain
    return module


def _pack(archive: io.BytesIO, path: Path) -> None:
    """Write an archive to `path` with its text compressed, which is most of a loss."""
    with zipfile.ZipFile(archive) as plain, zipfile.ZipFile(path, "w") as packed:
        for entry in plain.infolist():
            text = entry.filename.endswith(".json")
            how = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
            packed.writestr(zipfile.ZipInfo(entry.filename), plain.read(entry), how)
