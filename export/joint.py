"""Join a model and a loss into one ONNX graph."""

import copy
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
from onnx import TensorProto, helper
from torch import nn

from exportable_losses import catalog
from exportable_losses.contract import LEGAL

from .functions import DOMAIN, VERSION, same_operator
from .metadata import KEY, describe
from .onnx import to_onnx
from .protos import all_graphs, all_nodes, convert, load, opset_of, value_names, write

Scores = Literal["logits", "probs", "log_probs"]
Layout = Literal["BTC", "TBC"]
Dim = int | str  # a number, a name, or nothing known: ""

# What stands between the scores that a model gives and those that a loss takes. Logits that the loss
# puts through a log-softmax of its own may be log-probabilities as well.
_BRIDGES: dict[str, dict[str, str]] = {
    "log_probability": {"logits": "LogSoftmax", "probs": "Log", "log_probs": ""},
    "probability": {"logits": "Softmax", "probs": "", "log_probs": "Exp"},
    "logit": {"logits": "", "probs": "Log", "log_probs": ""},
}
# Types that cast to that of a loss without loss.
_CASTS = {
    TensorProto.FLOAT: {TensorProto.FLOAT16, TensorProto.BFLOAT16},
    TensorProto.DOUBLE: {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT},
    TensorProto.INT64: {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.UINT8},
}


def attach(
    model: str | os.PathLike[str],
    loss: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    inputs: Mapping[str, str],
    scores: Scores = "logits",
    layout: Layout = "BTC",
) -> onnx.ModelProto:
    """Write one graph of a model and a loss: the model's inputs and what else the loss takes in, both out.

    The model keeps its names, its weights and its metadata. What the loss brings is renamed where the
    model has the name already. A model older than opset 18 is converted to it; where it is newer, the
    loss follows. Weights in external data are not loaded: in another folder than the model's, `path`
    gets a copy of them beside it.

    Args:
        model: an ``.onnx`` file.
        loss: a module of the catalog, or the ``.onnx`` file it was exported to.
        path: the file to write.
        inputs: for each input of the loss that the model computes, the model's output.
        scores: what the model gives where the loss takes scores of classes: ``logits`` (before any
            softmax), ``probs`` or ``log_probs``. What has to stand between is put there.
        layout: the first two dimensions of what the model gives: ``BTC`` batch first, ``TBC`` time first.

    Returns:
        The model that was written, external data not loaded.

    Raises:
        FileNotFoundError: a file is not there, or a file with external data.
        TypeError: the module is not a row of the catalog.
        ValueError: a file is of another kind, or something does not fit: an output that the model does
            not have, its type, its rank, its number of classes.

    Example:
        A recogniser that gives probabilities ``[batch, time, classes]``::

            attach("model.onnx", el.CTCLoss(), "joint.onnx", inputs={"log_probs": "probs"}, scores="probs")
    """
    for argument, got, kinds in (("scores", scores, Scores), ("layout", layout, Layout)):
        if got not in get_args(kinds):
            raise ValueError(f"{argument}: got {got!r}, expected {_any_of(get_args(kinds))}")
    joint = load("model", model)
    if isinstance(loss, nn.Module):
        added, about = _export(loss, joint, inputs)
    else:
        added, about = _load_loss(loss)
    given = _Given(joint, added, about, inputs, scores, layout)
    joint = convert(joint, opset_of(added))
    _follow(added, opset_of(joint))
    names = _join(joint, added, given)
    _describe(joint, about, given, names)
    write(joint, model, path)
    return joint


# What is given, and whether it fits


@dataclass
class _Given:
    """A model, a loss and which of its inputs comes from which output: what fits, and how."""

    model: onnx.ModelProto
    loss: onnx.ModelProto
    about: dict[str, Any]
    inputs: Mapping[str, str]
    scores: str
    layout: str

    def __post_init__(self) -> None:
        self.takes = {value.name: value for value in self.loss.graph.input}
        self.gives = {value.name: value for value in self.model.graph.output}
        self.legal = {entry["name"]: entry["legal"] for entry in self.about["contract"]["inputs"]}
        if self.about["row"] == "transducer_loss":
            self.legal["logits"] = "logit"
        if not self.inputs:
            raise ValueError(f"inputs: got none, expected some of {', '.join(self.takes)}")
        self.sizes: dict[str, Dim] = {}  # what the model says of the loss's letters
        self.steps = {name: self._steps(name, output) for name, output in self.inputs.items()}
        if self.layout == "TBC" and not any(map(self._timed, self.inputs)):
            raise ValueError(
                f"layout: got 'TBC', but batch and time are not first in {', '.join(self.inputs)}"
            )
        for name, output in self.inputs.items():
            self._fit(name, output)

    def _steps(self, name: str, output: str) -> list[tuple[str, dict[str, Any]]]:
        """The operators between the model's `output` and the loss's input `name`."""
        if name not in self.takes:
            raise ValueError(f"inputs: got {name!r}, expected some of {', '.join(self.takes)}")
        if output not in self.gives:
            known = ", ".join(self.gives)
            raise ValueError(f"inputs: got {output!r} for {name}, expected an output of the model: {known}")
        if not self.gives[output].type.HasField("tensor_type"):
            raise ValueError(f"inputs: {output}, for {name}, is not a tensor")
        steps: list[tuple[str, dict[str, Any]]] = []
        got, wanted = (v.type.tensor_type.elem_type for v in (self.gives[output], self.takes[name]))
        if got != wanted:
            if got not in _CASTS.get(wanted, ()):
                kinds = [TensorProto.DataType.Name(kind).lower() for kind in (got, wanted)]
                raise ValueError(
                    f"inputs: {output} is {kinds[0]}, expected {kinds[1]} for {name}, or what casts to it "
                    "without loss; a loss takes the types that it was exported with"
                )
            steps.append(("Cast", {"to": wanted}))
        if self.layout == "TBC" and self._timed(name):
            rank = len(_dims(self.takes[name]) or ())
            steps.append(("Transpose", {"perm": [1, 0, *range(2, rank)]}))
        step = self._bridge(name)
        if step:
            steps.append((step, {"axis": -1} if step.endswith("oftmax") else {}))
        return steps

    def _timed(self, name: str) -> bool:
        """Whether the dimensions of an input begin with batch and time: T, or N of the targets."""
        return (_dims(self.takes[name]) or [])[:2] in (["B", "T"], ["B", "N"])

    def _bridge(self, name: str) -> str:
        if self.legal[name] in _BRIDGES:
            return _BRIDGES[self.legal[name]][self.scores]
        scored = any(self.legal[each] in _BRIDGES for each in self.inputs if each in self.legal)
        if self.scores != "logits" and not scored:
            takes = LEGAL[self.legal[name]]
            raise ValueError(f"scores: got {self.scores!r}, but {name} of the loss takes {takes}")
        return ""

    def _fit(self, name: str, output: str) -> None:
        """Hold the dimensions of an output to those of an input, and note what it says of the letters."""
        terms, dims = _dims(self.takes[name]), _dims(self.gives[output])
        assert terms is not None
        if dims is None:
            return
        if len(dims) != len(terms):
            raise ValueError(
                f"inputs: {output} has {len(dims)} dimensions, expected {len(terms)} for {name}: "
                f"({', '.join(map(str, terms))})"
            )
        if self.layout == "TBC" and self._timed(name):
            dims[:2] = dims[1::-1]
        for axis, (term, size) in enumerate(zip(terms, dims, strict=True)):
            letter, _, more = str(term).partition("+")
            if isinstance(term, int):
                if isinstance(size, int) and size != term:
                    raise ValueError(
                        f"inputs: {output} has size {size} along dimension {axis} of {name}, expected "
                        f"{term}, which the loss's settings fix"
                    )
            elif isinstance(size, int):
                self._note(letter, size - int(more or 0), name, output)
            elif size and not more:
                self.sizes.setdefault(letter, size)
        self._check_blank(name, output, dims[-1] if dims else "")

    def _note(self, letter: str, size: int, name: str, output: str) -> None:
        known = self.sizes.get(letter)
        if isinstance(known, int) and known != size:
            raise ValueError(
                f"inputs: {output} has {letter}={size} for {name}, expected {known} as elsewhere"
            )
        self.sizes[letter] = size

    def _check_blank(self, name: str, output: str, classes: Dim) -> None:
        blank = self.about["settings"].get("blank_index")
        first = self.about["contract"]["inputs"][0]["name"]  # scores come first, their classes last
        if blank is not None and name == first and isinstance(classes, int) and not 0 <= blank < classes:
            raise ValueError(
                f"blank_index: got {blank}, expected an index in [0, {classes - 1}]: {output} has "
                f"{classes} classes"
            )


def _dims(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """The dimensions of a tensor, or nothing where not even their number is known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") else "" if dim.dim_param == "?" else dim.dim_param
        for dim in tensor.shape.dim
    ]


def _any_of(words: Iterable[str]) -> str:
    return " or ".join(map(repr, words))


def _export(
    loss: nn.Module, model: onnx.ModelProto, inputs: Mapping[str, str]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph of a module as the model's scores want it: their type, their rank, their classes."""
    about, entry = json.loads(describe(loss)), catalog.find(loss)
    assert entry is not None  # describe has checked it
    first, blank = entry.inputs[0], catalog.settings_of(loss).get("blank_index", 0)
    scores = [v for v in model.graph.output if v.name == inputs.get(first.name)]
    dims = (_dims(scores[0]) if scores else None) or [""]
    sizes: dict[str, Any] = {}
    letter = first.dims.split()[-1]
    if letter.isalpha() and isinstance(dims[-1], int):
        sizes[letter] = dims[-1]
    if "T?" in first.dims.split() and len(dims) == first.fixed:
        sizes["T"] = None
    example = entry.example_inputs(blank_index=blank, **sizes)
    if "T" in sizes:  # without frames there are no lengths either
        example = {value.name: example[value.name] for value in entry.inputs if not value.optional}
    if scores and scores[0].type.tensor_type.elem_type == TensorProto.DOUBLE:
        loss = copy.deepcopy(loss).double()
        example = {n: x.double() if x.is_floating_point() else x for n, x in example.items()}
    with tempfile.TemporaryDirectory() as folder:
        graph = to_onnx(loss, Path(folder) / "loss.onnx", example)
    return graph, about


def _load_loss(loss: str | os.PathLike[str]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph of a loss, and what it says of itself."""
    model = load("loss", loss)
    about = _about(model)
    if about is None or "attached" in about:
        kind = "has a model in it already" if about else "was not exported by this package"
        raise ValueError(
            f"loss: {os.fspath(loss)} {kind}, expected a module of the catalog or the file of one"
        )
    return model, about


def _about(model: onnx.ModelProto) -> dict[str, Any] | None:
    return next((json.loads(prop.value) for prop in model.metadata_props if prop.key == KEY), None)


# Versions


def _follow(loss: onnx.ModelProto, version: int) -> None:
    """Take the loss to the newer opset `version`, if its operators are still the same there."""
    before = opset_of(loss)
    for holder in (loss, *loss.functions):
        for each in holder.opset_import:
            if each.domain == "":
                each.version = version
    for graph in (loss.graph, *loss.functions):
        for node in all_nodes(graph.node):
            if node.domain == "" and not same_operator(node.op_type, before, version):
                raise ValueError(
                    f"model: got opset {version}, where {node.op_type} is another operator than at {before}; "
                    f"convert the model to opset {before}"
                )


# Names


def _free(taken: set[str], *wanted: str) -> str:
    """The first of the names that is not taken; the last one with a number else. Taken from now on."""
    numbered = (f"{wanted[-1]}_{i}" for i in itertools.count(2))
    name = next(name for name in itertools.chain(wanted, numbered) if name not in taken)
    taken.add(name)
    return name


@dataclass
class _Names:
    """What the loss's inputs and outputs are called in the joint graph."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def _join(joint: onnx.ModelProto, loss: onnx.ModelProto, given: _Given) -> _Names:
    """Put the loss behind the model, in `joint`."""
    row, graph = given.about["row"], joint.graph
    taken, nodes = value_names(graph), {node.name for node in all_nodes(graph.node)}
    prefixes = {name.partition("/")[0] for name in taken | nodes}
    prefix = _free(prefixes, row) + "/"
    remaining = [value.name for value in loss.graph.input if value.name not in given.inputs]
    names = _Names(
        {name: _free(taken, name, f"{row}_{name}") for name in remaining},
        {value.name: _free(taken, value.name, f"{row}_{value.name}") for value in loss.graph.output},
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
    _rename(loss.graph, lambda name: within.get(name, name), prefix, functions)
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


def _rename(
    graph: onnx.GraphProto, name_of: Callable[[str], str], prefix: str, functions: Mapping[str, str]
) -> None:
    """Rename all values, nodes and functions of `graph`."""
    for each in all_graphs(graph):
        for value in (*each.input, *each.output, *each.initializer):
            value.name = name_of(value.name)
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
        new = _free(taken, function.name)
        if new != function.name:  # computed by its body alone: no library knows the name
            renamed[function.name] = function.name = new
        joint.functions.append(function)
    return renamed


def _sizes(given: _Given, joint: onnx.ModelProto, row: str) -> Callable[[str], Dim]:
    """From a dimension of the loss to what it is in the joint graph."""
    taken: set[str] = set()
    for value in (*joint.graph.input, *joint.graph.output, *joint.graph.value_info):
        taken |= {str(dim) for dim in _dims(value) or ()}
    known = dict(given.sizes)

    def size(term: str) -> Dim:
        letter, plus, more = term.partition("+")
        if not letter.isidentifier() or (plus and not more.isdigit()):
            return ""  # worked out from several: the runtime finds it
        if letter not in known:
            known[letter] = _free(taken, letter, f"{row}_{letter}")
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


# Metadata


def _describe(joint: onnx.ModelProto, about: dict[str, Any], given: _Given, names: _Names) -> None:
    """Say what was attached and where it is; a loss that was attached before keeps the first place."""
    swapped = [name for name, steps in given.steps.items() if any(op == "Transpose" for op, _ in steps)]
    about["attached"] = {
        "computed": dict(given.inputs),
        "swapped": swapped,
        "sizes": {letter: size for letter, size in given.sizes.items() if isinstance(size, int)},
        "inputs": names.inputs,
        "outputs": names.outputs,
        "scores": given.scores,
        "layout": given.layout,
    }
    first = _about(joint)
    if first is not None:
        first.setdefault("more", []).append(about)
    kept = [prop for prop in joint.metadata_props if prop.key != KEY]
    del joint.metadata_props[:]
    joint.metadata_props.extend(kept)
    joint.metadata_props.add(key=KEY, value=json.dumps(first or about))
