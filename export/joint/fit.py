"""Whether a loss fits behind a model: types, ranks, sizes, and what has to stand between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto

from exportable_losses.contract import LEGAL

Dim = int | str  # a number, a name, or nothing known: ""

# What stands between the scores that a model gives and those that a loss takes. Logits that the loss
# puts through a log-softmax of its own may be log-probabilities as well.
BRIDGES: dict[str, dict[str, str]] = {
    "log_probability": {"logits": "LogSoftmax", "probs": "Log", "log_probs": ""},
    "probability": {"logits": "Softmax", "probs": "", "log_probs": "Exp"},
    "logit": {"logits": "", "probs": "Log", "log_probs": ""},
}
# Types that cast to that of a loss without loss.
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32)
_CASTS = {
    TensorProto.FLOAT: {TensorProto.FLOAT16, TensorProto.BFLOAT16},
    TensorProto.DOUBLE: {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT},
    TensorProto.INT64: {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, *_UNSIGNED},
}


@dataclass
class Given:
    """A model, a loss and which of its inputs comes from which output: what fits, and how."""

    model: onnx.ModelProto
    loss: onnx.ModelProto
    about: dict[str, Any]
    inputs: Mapping[str, str]
    scores: str
    layout: str
    fixed: Mapping[str, int] = field(default_factory=dict)  # what constants say of the loss's letters

    def __post_init__(self) -> None:
        self.takes = {value.name: value for value in self.loss.graph.input}
        self.gives = {value.name: value for value in self.model.graph.output}
        self.legal = {entry["name"]: entry["legal"] for entry in self.about["contract"]["inputs"]}
        if self.about["row"] == "transducer_loss":
            self.legal["logits"] = "logit"
        if not self.inputs:
            raise ValueError(f"inputs: got none, expected some of {', '.join(self.takes)}")
        self.sizes: dict[str, Dim] = dict(self.fixed)  # what is known of the loss's letters
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
            rank = len(dims_of(self.takes[name]) or ())
            steps.append(("Transpose", {"perm": [1, 0, *range(2, rank)]}))
        step = self._bridge(name)
        if step:
            steps.append((step, {"axis": -1} if step.endswith("oftmax") else {}))
        return steps

    def _timed(self, name: str) -> bool:
        """Whether the dimensions of an input begin with batch and time: T, or N of the targets."""
        return (dims_of(self.takes[name]) or [])[:2] in (["B", "T"], ["B", "N"])

    def _bridge(self, name: str) -> str:
        if self.legal[name] in BRIDGES:
            return BRIDGES[self.legal[name]][self.scores]
        scored = any(self.legal[each] in BRIDGES for each in self.inputs if each in self.legal)
        if self.scores != "logits" and not scored:
            takes = LEGAL[self.legal[name]]
            raise ValueError(f"scores: got {self.scores!r}, but {name} of the loss takes {takes}")
        return ""

    def _fit(self, name: str, output: str) -> None:
        """Hold the dimensions of an output to those of an input, and note what it says of the letters."""
        terms, dims = dims_of(self.takes[name]), dims_of(self.gives[output])
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


def dims_of(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """The dimensions of a tensor, or nothing where not even their number is known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") else "" if dim.dim_param == "?" else dim.dim_param
        for dim in tensor.shape.dim
    ]
