"""Export to ONNX."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import onnx_ir.passes.common
import torch
import torch._export.utils
from onnx import helper
from onnx.inliner import inline_local_functions
from onnxscript.optimizer import fold_constants_ir
from onnxscript.version_converter import _version_converter
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.nn.attention import SDPBackend, sdpa_kernel

import exportable_losses

from ..nodes import backward, composites, walks
from ..nodes.functions import DOMAIN, OPSET
from ..nodes.means import count_what_is_meant
from ..nodes.scatter import add_in_order
from ..nodes.translation import attach_bodies, translations
from .branches import passing
from .errors import one_line, reason
from .gradients import gradients_of, with_gradients
from .guards import Guards
from .half import Half, in_half, kept, narrow, rounded
from .metadata import KEY
from .placing import placed
from .plan import Plan, plan
from .testdata import place_of, write_test_data
from .tracing import out_of_place, quiet, sparing
from .verify import Tensors, cases, dims_of, verify_onnx

# A message of protobuf has at most 2 GiB: more weights than that go to a file of their own, but for small
# ones, which may be sizes that the checker and runtimes want to know.
_MOST_BYTES = 2**31 - 2**24
_SMALL = 1024
NEWEST_OPSET = min(
    getattr(_version_converter, "SUPPORTED_MAX_ONNX_OPSET", 23), onnx.defs.onnx_opset_version()
)


def to_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    inputs: Mapping[str, Tensor] | None = None,
    *,
    gradients: Sequence[str] | Literal["all"] = (),
    dtype: Half | None = None,
    opset: int = OPSET,
    inline: bool = False,
    verify: bool = True,
) -> onnx.ModelProto:
    """Write `module` to `path` as an ONNX graph, with test data beside it.

    This package's operators become nodes of the domain `exportable_losses`. The file carries their bodies in
    standard operators, so that any runtime computes them. The same holds for the lattices of
    `torch.nn.CTCLoss`, `torch.nn.functional.ctc_loss` and `torchaudio.functional.rnnt_loss` in a model that
    calls them. ONNX's test data is written beside the graph.

    For a row of the catalog every size is dynamic, and inputs and outputs have the catalog's names. Any other
    module is traced in evaluation mode. Its sizes are dynamic unless `torch.export` finds one fixed, by a
    weight or because it is 1 in the example (use a batch of two). A branch on data that can only raise is
    traced as the example takes it; one that decides what is computed, or whose error may be caught, is
    refused. Inputs are named after the arguments of forward, outputs after the dict or named tuple that it
    returns. Otherwise a single scalar is ``loss``, a single tensor ``output``, and several outputs are
    ``output_0`` and so on.

    Before the file is at `path`, ONNX Runtime runs the graph on its test data and on inputs of other sizes.
    Every output must equal that of eager torch, every gradient that of autograd. Inputs of a row are drawn at
    random; those of another module are cut and repeated from the example, and sizes that the module itself
    refuses are skipped.

    More than 2 GB of weights go to a separate file, ``model.onnx.data`` beside ``model.onnx``.

    Args:
        module: a module of the catalog, or any other that `torch.export` takes.
        path: the file to write, usually ``.onnx``.
        inputs: example inputs by name, which become the test data. For a row they decide which optional
            inputs the graph has, their dtypes (integer lengths make a graph that takes int64 lengths) and
            their number of dimensions; by default they are the catalog's example. Any other module needs
            them.
        gradients: inputs whose gradients the graph also returns, as ``grad_`` and the name of the input:
            gradients of the first output, or of its sum if it is not a scalar. ``"all"`` stands for every
            input that has one. A weight of your own module that is named here (``head.bias``) becomes an
            input of the graph.
        dtype: ``"float16"`` or ``"bfloat16"`` for a graph that takes and returns 16 bits and computes in
            float32. Lengths, and the state of a `…ForwardChunk`, stay float32.
        opset: the version of the standard operators.
        inline: write standard operators only, for runtimes and tools that do not know functions: bodies take
            the place of this package's nodes, and the native library has nothing to compute.
        verify: compare the written graph with eager torch. Without it no number is checked.

    Returns:
        The model that was written, without weights that are in a separate file. Its `repr` is one line.

    Raises:
        RuntimeError: the exporter does not take the module; the message says why.
        TypeError: the module is not a row of the catalog and there are no inputs, or one is not a tensor.
        ValueError: the module does not have an input of that name, or one does not fit; a gradient does not
            exist; the exporter does not know the opset.
        VerificationError: a `RuntimeError`: an output of the graph differs from eager torch. The message says
            which one, by how much and at which sizes; a file that was at `path` before is still there.

    Examples:
        >>> import exportable_losses as el, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "ctc_loss.onnx")
        >>> model = to_onnx(el.CTCLoss(blank_index=0), path)
        >>> [value.name for value in model.graph.input]
        ['log_probs', 'targets', 'input_lens', 'target_lens']

        A model of one's own, with a loss of torch in its forward::

            batch = {"features": x, "targets": y, "frames": t, "labels": u}
            to_onnx(model, "model.onnx", batch, gradients=("head.weight", "head.bias"))
    """
    if not OPSET <= opset <= NEWEST_OPSET:
        raise ValueError(f"opset: got {opset}, expected one from {OPSET} to {NEWEST_OPSET}")
    planned = plan(module, inputs, gradients)
    names = gradients_of(planned.differentiable, gradients) if gradients else []
    wanted = [list(planned.inputs).index(name) for name in names]
    outputs = (*planned.outputs, *(f"grad_{name}" for name in names))
    taken = [*planned.inputs, *outputs]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise ValueError(f"module: got {', '.join(twice)} twice, expected other names of outputs")
    forward = with_gradients(planned.module, wanted) if wanted else planned.module
    given = in_half(module, planned.inputs, dtype) if dtype else dict(planned.inputs)
    narrowed = [name for name, tensor in given.items() if tensor.dtype != planned.inputs[name].dtype]
    keep = kept(module)

    def eager(inputs: Tensors) -> dict[str, Tensor]:
        values = forward(*(inputs[name].float() if name in narrowed else inputs[name] for name in inputs))
        found = dict(zip(outputs, values, strict=True))
        return {n: rounded(v, dtype) if dtype and n not in keep else v for n, v in found.items()}

    expected, kind = eager(given), type(module).__name__
    try:
        graph, traces = _trace(planned, wanted, opset)
    except Exception as error:  # torch has many types for what it cannot do
        raise RuntimeError(f"module: {kind} does not export: {reason(error)}") from error
    _simplify(graph)
    add_in_order(graph)
    count_what_is_meant(graph)
    _rename(graph, list(planned.inputs), outputs)
    attach_bodies(graph)
    with placed(path) as new:
        _unload(graph, new)
        model = _tidy(graph, planned.letters or _letters(graph))
        if inline:
            model = _inlined(model)
        if dtype:
            narrow(model, narrowed, dtype, keep)
        if planned.metadata is not None:
            model.metadata_props.add(key=KEY, value=planned.metadata)
        onnx.save(model, new)
        try:
            onnx.checker.check_model(str(new), full_check=True)
        except Exception as error:  # types that do not agree, as the exporter writes some in float64
            raise RuntimeError(f"module: {kind} does not export: {one_line(error)}") from error
        write_test_data(new.parent / place_of(Path(path), given, expected), given, expected)
        if verify:
            dims = dims_of(model)
            guards = Guards() if planned.letters else Guards.of(traces, dims)  # a row decides by none
            verify_onnx(new, model, cases(module, given, dims, eager, guards), eager)
    return model


def _trace(plan: Plan, wanted: Sequence[int], opset: int) -> tuple[ir.Model, list[ExportedProgram]]:
    """The graph of the module, with the gradients in the `wanted` inputs behind its outputs; its traces."""
    values, shapes = tuple(plan.traced), tuple(plan.shapes)
    table = translations()  # before the trace, which wants to know torchaudio's operator, too
    # between the traces, too, an operator is told that it is exported
    exporting = torch._export.utils._compiling_state_context()
    with quiet("torch.onnx"), sparing(), composites.written_out(), passing(), exporting:
        exported = torch.export.export(plan.module, values, dynamic_shapes={"values": shapes})
        traces = [exported]
        if wanted:
            # Below autograd first, with the gradients written out: `torch.export` alone loses track of what
            # autograd saves of outputs.
            placed = {node.name: node.meta.get("val") for node in exported.graph.nodes}
            symbolic = [placed[str(name)] for name in exported.graph_signature.user_inputs]
            both = with_gradients(exported.module(check_guards=False), wanted)
            tracer = make_fx(both, backward.decompositions(), "symbolic", _allow_non_fake_inputs=True)
            with sdpa_kernel(SDPBackend.MATH):  # attention in ordinary operators, whose gradients are, too
                written_out = tracer(*symbolic)
            walks.join(written_out)
            out_of_place(written_out.graph)
            written_out.recompile()
            found = [  # what the first trace or this one has fixed is a number in what was written out
                {i: dim for i, dim in dims.items() if not is_concrete_int(value.shape[i])}
                for dims, value in zip(shapes, symbolic, strict=True)
            ]
            exported = torch.export.export(written_out, values, dynamic_shapes=tuple(found))
            traces.append(exported)
        program = torch.onnx.export(
            exported,
            opset_version=opset,
            custom_translation_table=table,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    return program.model, traces


def _rename(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names, and another to whatever has one of these already.

    The exporter is not told of them: it names values after operators, `t` or `add`, whatever inputs are
    called, and its passes mix up two of one name.
    """
    names, values = (*inputs, *outputs), list(_values(model.graph))
    taken = {*names, *(value.name for value in values)}
    for value in values:
        if value.name in names:
            value.name = next(new for i in itertools.count(1) if (new := f"{value.name}_{i}") not in taken)
            taken.add(value.name)
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), names, strict=True):
        value.name = name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph and of those inside it."""
    for each in (graph, *graph.subgraphs()):
        yield from (*each.inputs, *each.initializers.values())
        yield from (value for node in each for value in node.outputs)


def _simplify(model: ir.Model) -> None:
    """Fold constants and drop what is not used.

    The exporter's own optimizer does this too, but takes `x + 1e-8` for `x + 0` and drops the
    addition (the constants of its rewrite rules match within 1e-8).
    """
    ir.passes.common.InlinePass()(model)
    fold_constants_ir(model, onnx_shape_inference=True)
    for tidy in (
        ir.passes.common.RemoveUnusedNodesPass,
        ir.passes.common.RemoveUnusedFunctionsPass,
        ir.passes.common.RemoveUnusedOpsetsPass,
        ir.passes.common.LiftConstantsToInitializersPass,
        ir.passes.common.DeduplicateInitializersPass,
        ir.passes.common.CommonSubexpressionEliminationPass,
        ir.passes.common.OutputFixPass,
        ir.passes.common.NameFixPass,
    ):
        tidy()(model)


def _unload(model: ir.Model, path: Path) -> None:
    """Put the weights into a file beside `path` where there are too many for one."""
    weights = [
        value.const_value for value in model.graph.initializers.values() if value.const_value is not None
    ]
    if sum(weight.nbytes for weight in weights) > _MOST_BYTES:
        beside = f"{path.name}.data"
        ir.external_data.unload_from_model(model, path.parent, beside, size_threshold_bytes=_SMALL)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions in the places where they are called."""
    inlined = inline_local_functions(model)
    standard = [each for each in inlined.opset_import if each.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(standard)
    return inlined


def _letters(model: ir.Model) -> dict[str, list[str]]:
    """A name for each dimension of each input: where it stands first."""
    first: dict[str, str] = {}
    return {
        str(value.name): [
            first.setdefault(str(size), f"{value.name}_{i}") for i, size in enumerate(value.shape)
        ]
        for value in model.graph.inputs
        if value.shape is not None
    }


def _dim(size: int | ir.SymbolicDim, named: Mapping[str, str]) -> int | str | ir.SymbolicDim:
    """A size by its letters; the exporter writes one that a weight fixes as the digits of a name."""
    if isinstance(size, int) or size.value is None:
        return size
    text = re.sub(r"\w+", lambda m: named.get(m[0], m[0]), str(size.value))
    return int(text) if text.isdigit() else text


def _tidy(model: ir.Model, letters: Mapping[str, Sequence[str]]) -> onnx.ModelProto:
    """Name dimensions by their letters and drop what the exporter notes for itself."""
    named: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        for size, term in zip(value.shape, letters[value.name], strict=True):
            if isinstance(size, ir.SymbolicDim) and not str(size.value).isdigit():
                named.setdefault(str(size.value), term)
    outputs = (node.outputs for node in model.graph.all_nodes())
    for value in itertools.chain(model.graph.inputs, model.graph.initializers.values(), *outputs):
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape(_dim(s, named) for s in value.shape)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    proto = ir.to_proto(model)
    proto.ir_version = max(8, helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True))
    for proto_input in proto.graph.input:
        for dim, term in zip(proto_input.type.tensor_type.shape.dim, letters[proto_input.name], strict=True):
            if not dim.HasField("dim_value"):
                dim.dim_param = term
    proto.producer_name = "exportable-losses"
    proto.producer_version = exportable_losses.__version__
    return proto
