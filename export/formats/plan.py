"""What of a module is traced, and what the file calls it: for a row of the catalog and for any other."""

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.contract import Contract

from .gradients import Positional, differentiable, named
from .metadata import describe

# A size for each letter of a trace: no two alike, so that two dimensions never look like one.
_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


@dataclass(frozen=True)
class Plan:
    """How a module becomes a graph.

    Args:
        module: what is traced.
        inputs: the example, by name, and weights that are inputs: the test data.
        outputs: names.
        differentiable: the inputs that have a gradient.
        traced: the tensors that the trace sees, of the inputs' types; only their sizes may differ.
        shapes: which dimensions of each are dynamic.
        letters: what each dimension of each input is called, where that is known.
        metadata: what the file says of itself; nothing where the module is no row.
    """

    module: Positional
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    differentiable: Sequence[str]
    traced: Sequence[Tensor]
    shapes: Sequence[Mapping[int, Any]]
    letters: Mapping[str, Sequence[str]] | None = None
    metadata: str | None = None


def plan(module: nn.Module, inputs: Mapping[str, Tensor] | None, gradients: Sequence[str] = ()) -> Plan:
    """The plan of a row, or of any other module, for which there must be inputs.

    Where one of `gradients` is a parameter of such a module it is an input too.

    Raises:
        TypeError: the module is no row and there are no inputs, or one is no tensor.
        ValueError: an input that forward does not have, or that is missing.
    """
    entry = catalog.find(module)
    return _of_module(module, inputs, gradients) if entry is None else _of_row(module, entry, inputs)


def _in_order(inputs: Mapping[str, Tensor], known: Mapping[str, bool]) -> dict[str, Tensor]:
    """`inputs` in the order of `known`, which says of each whether it may be missing."""
    unknown = sorted(set(inputs) - set(known))
    missing = [name for name, optional in known.items() if not optional and name not in inputs]
    if unknown or missing:
        got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
        raise ValueError(f"inputs: {got}, expected {', '.join(known)}")
    return {name: inputs[name] for name in known if inputs.get(name) is not None}


# Any module


def _of_module(module: nn.Module, inputs: Mapping[str, Tensor] | None, gradients: Sequence[str]) -> Plan:
    """Every dimension is dynamic that the trace does not find fixed, but for those of weights."""
    if not inputs:
        kind = type(module).__name__
        raise TypeError(f"module: got {kind}, expected a module of the catalog, or `inputs` for any other")
    inputs = _in_order(inputs, _arguments(module, inputs))
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TypeError(
                f"inputs: got {kind} for {name}, expected a tensor; the module keeps what is fixed"
            )
    module = copy.deepcopy(module).eval()
    weights = {name: p for name, p in module.named_parameters() if name in gradients and name not in inputs}
    graph = Positional(module, list(inputs), list(weights))
    auto = torch.export.Dim.AUTO
    shapes = [*(dict.fromkeys(range(value.dim()), auto) for value in inputs.values()), *({} for _ in weights)]
    with torch.no_grad():
        outputs = list(named(module(**inputs)))
    example = {name: value.detach() for name, value in (inputs | weights).items()}
    floats = [name for name, value in example.items() if value.is_floating_point()]
    return Plan(graph, example, outputs, floats, list(example.values()), shapes)


def _arguments(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, bool]:
    """The arguments of forward, and whether each may be missing."""
    parameters = inspect.signature(module.forward).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {p.name: p.default is not p.empty for p in parameters if p.kind in by_name}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        known |= dict.fromkeys((name for name in inputs if name not in known), True)
    return known


# A row


def _of_row(module: nn.Module, entry: catalog.Entry, inputs: Mapping[str, Tensor] | None) -> Plan:
    """Every dimension is dynamic that no setting fixes, whatever the sizes of `inputs` are."""
    about, settings, contract = describe(module), catalog.settings_of(module), entry.contract
    if inputs is None:
        inputs = _example(module, entry, settings)
    inputs = _in_order(inputs, {value.name: value.optional for value in contract.inputs})
    inputs = {  # absolute lengths are int64, whatever integers the example has
        name: value.long() if name in _lengths(contract) and value.dtype in _INTEGERS else value
        for name, value in inputs.items()
    }
    graph = Positional(copy.deepcopy(module).eval(), list(inputs))
    letters = contract.letters({name: tensor.dim() for name, tensor in inputs.items()})
    example, fixed = _sizes(graph, contract, letters, inputs, settings)
    dynamic = {
        name: {
            i: torch.export.Dim.DYNAMIC
            for i, term in enumerate(terms)
            if not term.isdigit() and _base(term) not in fixed
        }
        for name, terms in letters.items()
    }
    return Plan(
        graph,
        inputs,
        entry.outputs,
        differentiable(contract, inputs),
        list(example.values()),
        list(dynamic.values()),
        letters,
        about,
    )


def _weighted(settings: Mapping[str, Any]) -> set[int]:
    """The sizes of weights among the settings."""
    return {n for value in settings.values() if isinstance(value, Tensor) for n in value.shape} - {1}


def _example(module: nn.Module, entry: catalog.Entry, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The catalog's example, of a size that a weight fixes where it does not fit otherwise."""
    terms = dict.fromkeys(
        " ".join(each.dims for each in entry.inputs).replace("*", "X0").replace("?", "").split()
    )
    letters = [term for term in terms if term.isalnum() and not term.isdigit()]
    fixed = [{letter: n} for n in sorted(_weighted(settings)) for letter in letters]
    blank = settings.get("blank_index")
    for sizes in ({}, *fixed):
        inputs = entry.example_inputs(blank_index=blank, absolute=False, **sizes)
        if _runs(Positional(module, list(inputs)), inputs):
            return inputs
    return entry.example_inputs(blank_index=blank)


def _sizes(
    module: Positional,
    contract: Contract,
    letters: Mapping[str, list[str]],
    inputs: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Inputs in which sizes that may differ do, and the sizes that a setting fixes."""
    given = contract.sizes({name: tuple(tensor.shape) for name, tensor in inputs.items()})
    lengths = _lengths(contract)
    fixed = {
        letter: size
        for letter, size in given.items()
        if size in _weighted(settings)
        and not _runs(module, _blank(inputs, lengths, letters, {**given, letter: size + 1}))
    }
    primes = [n for n in _PRIMES if n not in fixed.values()]
    all_differ = dict(zip(given, primes, strict=False))
    example = _blank(inputs, lengths, letters, {**all_differ, **fixed})
    if not _runs(module, example):  # some must agree: those that do in `inputs`
        by_size = dict(zip(dict.fromkeys(given.values()), primes, strict=False))
        agreeing = {letter: by_size[size] for letter, size in given.items()}
        example = _blank(inputs, lengths, letters, {**agreeing, **fixed})
    return example, fixed


def _blank(
    inputs: Mapping[str, Tensor],
    lengths: Collection[str],
    letters: Mapping[str, list[str]],
    sizes: Mapping[str, int],
) -> dict[str, Tensor]:
    """Inputs of other sizes; ones, since a length of zero is refused, and zeros for an index."""
    blank = {}
    for name, terms in letters.items():
        shape = [int(t) if t.isdigit() else sizes[_base(t)] + int(t.partition("+")[2] or 0) for t in terms]
        dtype = inputs[name].dtype
        blank[name] = torch.full(shape, int(dtype.is_floating_point or name in lengths), dtype=dtype)
    return blank


def _runs(module: Positional, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the sizes of `inputs` fit the module's settings (a weight for each class, say)."""
    try:
        module(*inputs.values())
    except (RuntimeError, IndexError):
        return False
    except ValueError as error:  # what eager calls refuse (a difference of lengths) is nothing to a trace
        weights = (
            name for name, value in catalog.settings_of(module.module).items() if isinstance(value, Tensor)
        )
        return not str(error).startswith(tuple(f"{name}:" for name in weights))
    return True


def _lengths(contract: Contract) -> set[str]:
    return {value.name for value in contract.inputs if value.is_length}


def _base(term: str) -> str:
    return term.partition("+")[0]
