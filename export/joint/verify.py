"""A model and a loss in one graph, run and held to the two of them one after the other."""

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from exportable_losses import catalog
from exportable_losses.contract import Contract
from exportable_losses.runtime import LossSession

from ..formats.errors import one_line
from ..formats.verify import Case, Run, Tensors, arrays, verified
from .fit import BRIDGES, Dim, Given, dims_of
from .join import Names
from .scores import WrongScores, check_scores

# Frames, or samples, of which a model may need many, as long as there are not too many numbers, or one; and
# how they are drawn.
_LONG = (7, 43, 1, 430, 16000)
_MOST_NUMBERS = 2**22
_DRAW: Sequence[Callable[[list[int]], Tensor]] = (torch.randn, torch.rand)
_ENOUGH = 2


def cases_of(
    model: str | os.PathLike[str],
    loss: str | os.PathLike[str],
    given: Given,
    names: Names,
    example: Tensors | None,
    *,
    check: bool,
) -> tuple[list[Case], Run]:
    """Inputs of the joint graph with the outputs of its two parts, and what computes these.

    The `example` comes first, with random numbers for what it lacks of the loss's inputs. The others are
    random, of sizes at which the model runs: what it takes nobody knows.

    Raises:
        ValueError: the model or the loss does not take the example, or with `check` the model's scores are
            not of the kind that was said.

    Warns:
        RuntimeWarning: there is no case, since the model does not run on what was drawn.
    """
    try:
        apart = _Apart(model, loss, given, names)
    except Exception as error:
        _warn(f"ONNX Runtime does not load the model: {one_line(error)}")
        return [], lambda _: {}
    problems: list[str] = []
    first = [] if example is None else [_case_of(apart, example, check)]
    # what a model makes of random numbers is less than what it makes of an example
    found = [*first, *itertools.islice(_cases(apart, problems, check and not first), _ENOUGH)]
    if not found:
        _warn(f"the model does not run on random inputs: {problems[-1]}; give an example")
    return found, apart


def verify_joint(path: Path, found: Sequence[Case], apart: Run) -> None:
    """Hold the graph at `path` to the model and the loss that it was made of.

    Raises:
        VerificationError: an output of the graph is not that of the two.
    """
    joint = LossSession(path, native=False)
    verified("onnxruntime", lambda inputs: joint.run(arrays(inputs)), found, apart)


def _warn(why: str) -> None:
    what = "the joint graph is not verified and has no test data"
    warnings.warn(f"{what}: {why}", RuntimeWarning, stacklevel=6)


def _case_of(apart: "_Apart", example: Tensors, check: bool) -> Case:
    called = {name: (apart.model, name) for name in apart.model.inputs}
    called |= {name: (apart.loss, of_loss) for of_loss, name in apart.names.inputs.items()}
    unknown = [name for name in example if name not in called]
    missing = [name for name in apart.model.inputs if name not in example]
    if unknown or missing:
        got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
        raise ValueError(f"example: {got}, expected {', '.join(called)}")
    try:
        inputs: dict[str, Tensor] = {}
        for name, array in arrays(example).items():
            part, of_part = called[name]
            inputs[name] = torch.from_numpy(part.cast(of_part, array))
        outputs = apart.model.run(arrays({name: inputs[name] for name in apart.model.inputs}))
        if check:
            apart.check_scores(outputs)
        inputs = {**apart.others(apart.scores(outputs), seed=0), **inputs}
        return Case(inputs, apart(inputs), {})
    except WrongScores:
        raise
    except Exception as error:  # whatever the model and the loss say of it
        raise ValueError(f"example: {one_line(error)}") from error


class _Apart:
    """The model, what stands between, and the loss, one after the other."""

    def __init__(
        self, model: str | os.PathLike[str], loss: str | os.PathLike[str], given: Given, names: Names
    ) -> None:
        self.model, self.loss = LossSession(model, native=False), LossSession(loss, native=False)
        self.given, self.names = given, names
        self.contract = Contract.from_json(given.about["contract"])
        self.dims = {name: self.loss.dims[name] for name in self.loss.inputs}
        self.letters = self.contract.letters({name: len(dims) for name, dims in self.dims.items()})

    def __call__(self, inputs: Tensors) -> dict[str, np.ndarray]:
        fed = arrays(inputs)
        outputs = self.model.run({name: fed[name] for name in self.model.inputs})
        others = {name: fed[called] for name, called in self.names.inputs.items()}
        costs = self.loss(**self.scores(outputs), **others)
        return {**outputs, **{called: costs[name] for name, called in self.names.outputs.items()}}

    def scores(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the loss that the model computes."""
        found = {}
        for name, output in self.given.inputs.items():
            wanted = self.loss.dtype(name)
            x = torch.from_numpy(outputs[output].astype(wanted))
            if self.given.layout == "TBC" and tuple(self.letters[name][:2]) in (("B", "T"), ("B", "N")):
                x = x.transpose(0, 1)
            found[name] = _between(x, self.given.scores, self.given.legal[name]).contiguous().numpy()
        return found

    def check_scores(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Hold what the model gave as class scores to what was said of them.

        Raises:
            WrongScores: they are of another kind.
        """
        for name, output in self.given.inputs.items():
            if self.given.legal[name] in BRIDGES:
                check_scores(self.given.scores, output, outputs[output])

    def others(self, scores: Mapping[str, np.ndarray], seed: int) -> dict[str, Tensor]:
        """Random inputs of the loss that the model does not compute, by their names in the joint graph."""
        entry = catalog.get(self.given.about["row"]).fitted(self.given.about["settings"])
        sizes = self.contract.sizes({name: array.shape for name, array in scores.items()})
        for letter, size in sizes.items():
            said = self.given.sizes.get(letter, size)
            if isinstance(said, int) and size != said:  # the model is not as it says
                raise ValueError(f"{letter}: got {size} from the model, expected {said}")
        known = [sizes[letter] for letter in self.contract.aligned if letter in sizes]
        sizes |= dict.fromkeys(self.contract.aligned, known[0]) if len(known) == 1 else {}
        sizes |= {letter: size for letter, size in self.given.fixed.items() if letter not in sizes}
        for name, dims in self.dims.items():
            for letter, dim in zip(self.letters[name], dims, strict=True):
                letter, _, more = letter.partition("+")
                fixed = dim - int(more or 0) if isinstance(dim, int) else self.given.sizes.get(letter)
                if not letter.isdigit():
                    sizes.setdefault(letter, fixed if isinstance(fixed, int) else 2 + len(sizes) % 3)
        like = {
            name: torch.from_numpy(np.zeros([1] * len(dims), self.loss.dtype(name)))
            for name, dims in self.dims.items()
        }
        blank = self.given.about["settings"].get("blank_index")
        drawn = entry.example_as(like, sizes, seed, blank_index=blank)
        return {called: drawn[name] for name, called in self.names.inputs.items()}


def _between(x: Tensor, scores: str, legal: str) -> Tensor:
    """What the model gives as the loss takes it."""
    if legal not in ("log_probability", "probability", "logit") or (legal, scores) == ("logit", "logits"):
        return x
    log_probs = {"logits": lambda: x.log_softmax(-1), "probs": x.log, "log_probs": lambda: x}[scores]()
    return log_probs.exp() if legal == "probability" else log_probs


def _cases(apart: _Apart, problems: list[str], check: bool) -> Iterator[Case]:
    """Cases of several sizes that the model and the loss take; why there are no others goes to `problems`."""
    for seed, (long, draw) in enumerate(itertools.product(_LONG, _DRAW)):
        batch = 2 + _LONG.index(long) % 2
        torch.manual_seed(seed)
        sizes: dict[str, int] = {}
        try:
            inputs = {
                value.name: _random(value, sizes, apart.given.layout, batch, long, draw)
                for value in apart.given.model.graph.input
                if value.name in apart.model.inputs
            }
            outputs = apart.model.run(arrays(inputs))
            if check:
                apart.check_scores(outputs)
            inputs |= apart.others(apart.scores(outputs), seed)
            yield Case(inputs, apart(inputs), sizes)
        except WrongScores:
            raise
        except Exception as error:  # a model may need any sizes and any numbers
            problems.append(one_line(error))


def _random(
    value: onnx.ValueInfoProto,
    sizes: dict[str, int],
    layout: str,
    batch: int,
    long: int,
    draw: Callable[[list[int]], Tensor],
) -> Tensor:
    """An input of the model: floats as `draw` makes them, integers that may be lengths."""
    batch_at = 1 if layout == "TBC" else 0
    dims: list[Dim] = dims_of(value) or []
    shape = []
    for axis, dim in enumerate(dims):
        new = batch if axis == batch_at or len(dims) == 1 else long + len(sizes) * (long > 1)
        name = dim or f"{value.name}_{axis}"
        shape.append(dim if isinstance(dim, int) else sizes.setdefault(str(name), new))
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"{value.name}: an input of the sizes {shape} is not tried")
    kind: Any = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    dtype = torch.from_numpy(np.zeros(1, kind)).dtype
    if dtype.is_floating_point:
        return draw(shape).to(dtype)
    return torch.full(shape, long if len(shape) == 1 else 1).to(dtype)
