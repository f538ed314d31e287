"""Export to ONNX."""

import contextlib
import copy
import itertools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir
import onnx_ir.passes.common
import torch
from onnxscript.optimizer import fold_constants_ir
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import exportable_losses
from exportable_losses import catalog
from exportable_losses.contract import Contract

from .functions import function_protos
from .gradients import Positional, gradients_of, with_gradients
from .metadata import KEY, describe
from .testdata import write_test_data
from .translations import translations

# A size for each letter of a trace: no two alike, so that two dimensions never look like one.
_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def to_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    inputs: Mapping[str, Tensor] | None = None,
    *,
    gradients: Sequence[str] | Literal["all"] = (),
) -> onnx.ModelProto:
    """Write `module` to `path` as an ONNX graph, with test data beside it.

    Every size is dynamic. Operators of this package are nodes of the domain `exportable_losses`
    whose bodies in standard operators are in the file, so that any runtime computes them. Names of
    inputs and outputs are the catalog's. ONNX's test data goes to ``test_data_set_0`` in the folder
    of `path`: give each graph a folder of its own to keep both together.

    Args:
        module: a module of the catalog.
        path: the file to write, by custom ``.onnx``.
        inputs: example inputs by name. They decide which optional inputs the graph has, the dtypes
            and the number of dimensions, and they become the test data; the catalog's example
            without them.
        gradients: inputs whose gradient the graph also gives, as `grad_` and the input's name: that of
            the first output, or of its sum where it is no scalar; ``"all"`` for all that have one.

    Returns:
        The model that was written.

    Raises:
        TypeError: the module is not a row of the catalog.
        ValueError: an input that the row does not have, or that does not fit; a gradient that there
            is not.

    Example:
        >>> import exportable_losses as el, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "ctc_loss.onnx")
        >>> model = to_onnx(el.CTCLoss(blank_index=0), path)
        >>> [value.name for value in model.graph.input]
        ['log_probs', 'targets', 'input_lens', 'target_lens']
    """
    about = describe(module)
    entry = catalog.find(module)
    assert entry is not None  # describe has checked it
    settings = catalog.settings_of(module)
    if inputs is None:
        inputs = entry.example_inputs(blank_index=settings.get("blank_index", 0))
    inputs = _in_order(entry.contract, inputs)
    module = copy.deepcopy(module).eval()
    names = gradients_of(entry.contract, inputs, gradients) if gradients else []
    wanted = [list(inputs).index(name) for name in names]
    outputs = (*entry.outputs, *(f"grad_{name}" for name in names))
    graph = Positional(module, list(inputs))
    values = (with_gradients(graph, wanted) if wanted else graph)(*inputs.values())
    model = _trace(graph, wanted, entry.contract, outputs, inputs, settings)
    _attach_bodies(model)
    model.metadata_props.add(key=KEY, value=about)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    named = dict(zip(outputs, values, strict=True))
    write_test_data(Path(path).parent / "test_data_set_0", inputs, named)
    return model


def _in_order(contract: Contract, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    known = [entry.name for entry in contract.inputs]
    unknown = sorted(set(inputs) - set(known))
    missing = [e.name for e in contract.inputs if not e.optional and e.name not in inputs]
    if unknown or missing:
        got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
        raise ValueError(f"inputs: {got}, expected {', '.join(known)}")
    return {name: inputs[name] for name in known if inputs.get(name) is not None}


def _trace(
    module: Positional,
    wanted: Sequence[int],
    contract: Contract,
    outputs: Sequence[str],
    inputs: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> onnx.ModelProto:
    """The graph of `module`, every size dynamic that no setting fixes, whatever those of `inputs` are."""
    letters = contract.letters({name: tensor.dim() for name, tensor in inputs.items()})
    given = contract.sizes({name: tuple(tensor.shape) for name, tensor in inputs.items()})
    weighted = {n for value in settings.values() if isinstance(value, Tensor) for n in value.shape} - {1}
    fixed = {
        letter: size
        for letter, size in given.items()
        if size in weighted and not _runs(module, _blank(inputs, letters, {**given, letter: size + 1}))
    }
    primes = [n for n in _PRIMES if n not in fixed.values()]
    all_differ = dict(zip(given, primes, strict=False))
    example = _blank(inputs, letters, {**all_differ, **fixed})
    if not _runs(module, example):  # some must agree: those that do in `inputs`
        by_size = dict(zip(dict.fromkeys(given.values()), primes, strict=False))
        agreeing = {letter: by_size[size] for letter, size in given.items()}
        example = _blank(inputs, letters, {**agreeing, **fixed})
    dynamic = {
        name: {
            i: torch.export.Dim.DYNAMIC
            for i, term in enumerate(terms)
            if not term.isdigit() and _base(term) not in fixed
        }
        for name, terms in letters.items()
    }
    with _quiet():
        shapes = tuple(dynamic.values())
        values = tuple(example.values())
        exported = torch.export.export(module, values, dynamic_shapes={"values": shapes})
        if wanted:
            # Below autograd first, with the gradients written out: `torch.export` alone loses track of what
            # autograd saves of outputs.
            both = with_gradients(exported.module(check_guards=False), wanted)
            written_out = make_fx(both, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*values)
            exported = torch.export.export(written_out, values, dynamic_shapes=shapes)
        program = torch.onnx.export(
            exported,
            input_names=list(example),
            output_names=list(outputs),
            opset_version=18,
            custom_translation_table=translations(),
            dynamo=True,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    _simplify(program.model)
    _rename(program.model, list(example), outputs)
    return _tidy(program.model, letters)


def _blank(
    inputs: Mapping[str, Tensor], letters: Mapping[str, list[str]], sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Inputs of other sizes; ones, since a length of zero is refused, and zeros for an index."""
    blank = {}
    for name, terms in letters.items():
        shape = [int(t) if t.isdigit() else sizes[_base(t)] + int(t.partition("+")[2] or 0) for t in terms]
        dtype = inputs[name].dtype
        blank[name] = (
            torch.ones(shape, dtype=dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
        )
    return blank


def _runs(module: Positional, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the sizes of `inputs` fit the module's settings (a weight for each class, say)."""
    try:
        module(*inputs.values())
    except RuntimeError:
        return False
    except ValueError:  # what eager calls refuse (a difference of lengths) is nothing to a trace
        return True
    return True


def _rename(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give back the names that the exporter loses where an output is an input or another output."""
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name


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


def _base(term: str) -> str:
    return term.partition("+")[0]


def _tidy(model: ir.Model, letters: Mapping[str, list[str]]) -> onnx.ModelProto:
    """Name dimensions by their letters and drop what the exporter notes for itself."""
    named: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        for size, term in zip(value.shape, letters[value.name], strict=True):
            if isinstance(size, ir.SymbolicDim):
                named.setdefault(str(size.value), term)
    outputs = (node.outputs for node in model.graph.all_nodes())
    for value in itertools.chain(model.graph.inputs, model.graph.initializers.values(), *outputs):
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape(
                re.sub(r"\w+", lambda m: named.get(m[0], m[0]), str(s.value))
                if isinstance(s, ir.SymbolicDim) and s.value is not None
                else s
                for s in value.shape
            )
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.ir_version = 8
    proto = ir.to_proto(model)
    for proto_input in proto.graph.input:
        for dim, term in zip(proto_input.type.tensor_type.shape.dim, letters[proto_input.name], strict=True):
            if not dim.HasField("dim_value"):
                dim.dim_param = term
    proto.producer_name = "exportable-losses"
    proto.producer_version = exportable_losses.__version__
    return proto


def _attach_bodies(model: onnx.ModelProto) -> None:
    """Put the function behind each node of our domain into the file, what it calls before it."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.value_info)}
    bodies: dict[str, onnx.FunctionProto] = {}
    for node in model.graph.node:
        if node.domain == KEY:
            for body in function_protos(node.op_type, types[node.input[0]]):
                bodies.setdefault(body.name, body)
    model.functions.extend(bodies.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of itself (missing torchvision, its progress, deprecations)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
