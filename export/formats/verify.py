"""What was written is run and held to eager torch: on its test data, and at other sizes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession, compare

from .errors import VerificationError, one_line
from .gradients import Positional, with_gradients
from .guards import Guards
from .plan import Plan
from .sizes import Dims, Sizes, other_sizes, resized, sizes_of
from .testdata import as_array

Tensors = Mapping[str, Tensor]
Arrays = Mapping[str, np.ndarray]
Eager = Callable[[Tensors], Tensors]  # outputs by name
Run = Callable[[Tensors], Tensors | Arrays]

# How far an output may be off, of its largest magnitude: eager torch and a runtime add up in another order.
# A gradient has the rounding of the way there and of the way back.
_ROUNDING = {np.dtype(np.float64): 1e-10}
_ROUNDING_OF_FLOAT32 = 1e-4
_OF_GRADIENTS = 10
_LEAST = {np.dtype(np.float64): 2**-52}  # where all are close to zero
_LEAST_OF_FLOAT32 = 2**-23
# An output that a rounding of the inputs changes may be off by more: by what so many of them change.
_ROUNDINGS = 100
_NOTHING_DECIDED = Guards()


@dataclass(frozen=True)
class Case:
    """Inputs by name, what eager torch makes of them, and which sizes they have.

    Beyond a condition that decided what was traced, a file may refuse these sizes.
    """

    inputs: Tensors
    outputs: Tensors | Arrays
    sizes: Sizes
    beyond: str = ""


def cases(
    module: nn.Module, example: Tensors, dims: Dims, eager: Eager, guards: Guards = _NOTHING_DECIDED
) -> list[Case]:
    """The example, and inputs of other sizes that `eager` takes: on either side of each of the `guards`, too.

    Those of a row are drawn. Any other module has its example cut and repeated, and so has a row that does
    not take what is drawn.
    """
    entry = catalog.find(module)
    draw: list[Callable[[Sizes], Tensors]] = [lambda sizes: resized(example, dims, sizes)]
    if entry is not None:
        every = entry.contract.sizes({name: tuple(tensor.shape) for name, tensor in example.items()})
        blank = catalog.settings_of(module).get("blank_index")
        draw.insert(0, lambda sizes: entry.example_as(example, {**every, **sizes}, 1, blank_index=blank))

    def tried(sizes: Sizes) -> Case | None:
        for make in draw:
            try:
                inputs = make(sizes)
                outputs = eager(inputs)
            except Exception:  # sizes that do not go together; there are as many types as modules
                continue
            if all(_says_something(output) for output in outputs.values()):
                return Case(inputs, outputs, sizes, guards.broken(sizes))
        return None

    now = sizes_of(dims, example)
    edges = (tried(sizes) for sizes in guards.beyond(now))
    others = (*other_sizes(now, tried), *(case for case in edges if case is not None))
    return [Case(example, eager(example), now), *others]


def _says_something(output: Tensor) -> bool:
    """Whether it has a finite number, if it has any."""
    return not output.numel() or bool(output.isfinite().any())


def verified(name: str, run: Run, found: Iterable[Case], eager: Run) -> None:
    """Hold what `run` gives to what eager torch did.

    Args:
        name: of what runs, for the error.
        run: the outputs of the file.
        found: inputs and outputs.
        eager: what made the outputs.

    Raises:
        VerificationError: the file does not run, or an output is off; the message says by how much.
    """
    for case in found:
        at = ", ".join(f"{letter}={size}" for letter, size in case.sizes.items())
        where = f" at {at}" if at else ""
        try:
            got = arrays(run(case.inputs))
        except Exception as error:  # whatever a broken file makes a runtime say
            if case.beyond:
                continue
            raise VerificationError(f"{name} does not run it{where}: {one_line(error)}") from error
        problem = _problem(got, case, eager)
        if problem:
            why = f", where {case.beyond} does not hold, by which forward decides" if case.beyond else ""
            raise VerificationError(
                f"{problem} in {name}{where}{why}; nothing is written but with verify=False"
            )


def _problem(got: dict[str, np.ndarray], case: Case, eager: Run) -> str:
    """The first output that is off, and by how much; empty where none is."""
    expected = arrays(case.outputs)
    if set(got) != set(expected):
        return f"outputs: got {', '.join(got)}, expected {', '.join(expected)}"
    for name in (
        name for name in got if name.startswith("grad_") and got[name].shape == expected[name].shape
    ):
        # the gradient of an infinite cost, which torch does not know and a graph has none of
        unknown = np.isnan(expected[name])
        expected[name] = np.where(unknown, got[name], expected[name]) if unknown.any() else expected[name]
    moved: dict[str, float] | None = None
    for each in compare(got, expected):
        one, other = got[each.output], expected[each.output]
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            kinds = [f"{x.dtype} {list(x.shape)}" for x in (one, other)]
            return f"{each.output}: got {kinds[0]}, expected {kinds[1]}"
        gradient = each.output.startswith("grad_")
        rtol = _ROUNDING.get(other.dtype, _ROUNDING_OF_FLOAT32) * (_OF_GRADIENTS if gradient else 1)
        whole = other.dtype.kind in "iub"
        least = _LEAST.get(other.dtype, _LEAST_OF_FLOAT32)
        if each.within(0.0, 0.0) if whole else each.within(rtol, least):
            continue
        if moved is None:
            moved = _moved(case, eager)
        if moved is None:
            return f"{each.output}: eager torch gives another at every call, which nothing can be held to,"
        if whole or not each.absolute <= _ROUNDINGS * moved[each.output]:
            return f"{each.output} is off by {each.absolute:.2g}, its largest magnitude is {each.scale:.2g},"
    return ""


def _moved(case: Case, eager: Run) -> dict[str, float] | None:
    """How far eager's outputs move where its inputs do by a rounding; nothing where they move without."""
    expected = arrays(case.outputs)
    if any(each.absolute for each in compare(arrays(eager(case.inputs)), expected)):
        return None
    generator = torch.Generator().manual_seed(0)
    try:
        moved = eager({name: _rounded(tensor, generator) for name, tensor in case.inputs.items()})
        return {each.output: each.absolute for each in compare(arrays(moved), expected)}
    except Exception:  # a number may have been at the edge of what is legal
        return dict.fromkeys(expected, 0.0)


def _rounded(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """`tensor` with each number up to a rounding smaller."""
    if not tensor.is_floating_point():
        return tensor
    by = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * torch.finfo(tensor.dtype).eps
    return (tensor.double() * (1 - by.to(tensor.device))).to(tensor.dtype)


def arrays(found: Tensors | Arrays) -> dict[str, np.ndarray]:
    """All of them as arrays."""
    return {name: as_array(each) for name, each in found.items()}


# Files of torch


def undifferentiated(module: Positional, plan: Plan) -> Eager:
    """The outputs of a module by the names of `plan`."""
    return lambda inputs: dict(zip(plan.outputs, module(*inputs.values()), strict=True))


def differentiated(module: Positional, plan: Plan) -> Eager:
    """The outputs of a module by the names of `plan`, and behind them the gradients that there are."""
    wanted = [list(plan.inputs).index(name) for name in plan.differentiable]
    names = (*plan.outputs, *(f"grad_{name}" for name in plan.differentiable))

    def eager(inputs: Tensors) -> dict[str, Tensor]:
        forward = with_gradients(module, wanted) if wanted else module
        return dict(zip(names, forward(*inputs.values()), strict=True))

    return eager


def dims_of_plan(plan: Plan) -> Dims:
    """The dimensions of each input of a row: its letter where it is dynamic, else its size."""
    assert plan.letters is not None
    return {
        name: [term if i in dynamic else plan.inputs[name].shape[i] for i, term in enumerate(terms)]
        for (name, terms), dynamic in zip(plan.letters.items(), plan.shapes, strict=True)
    }


# ONNX


def dims_of(model: onnx.ModelProto) -> dict[str, Sequence[str | int]]:
    """The dimensions of each input of a graph: a letter or a number."""
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }


def verify_onnx(path: Path, model: onnx.ModelProto, found: Iterable[Case], eager: Eager) -> None:
    """`verified` for a graph in ONNX Runtime: as it is, and with our operator library where there is one.

    Raises:
        VerificationError: as `verified` does.
    """
    found = list(found)
    for native in (False, True) if model.functions and library_path() else (False,):
        name = "onnxruntime with the operator library" if native else "onnxruntime"
        try:
            session = LossSession(path, native=native)
        except Exception as error:
            raise VerificationError(f"{name} does not load it: {one_line(error)}") from error
        verified(name, _run(session), found, eager)


def _run(session: LossSession) -> Run:
    return lambda inputs: session.run(arrays(inputs))
