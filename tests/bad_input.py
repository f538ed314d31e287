"""Inputs that every row must refuse, and what the refusal says.

Most cases follow from the catalog: what it calls a relative length must be in (0, 1], what it calls
an index below its size, two sizes under one letter equal. `_PARTICULAR` has what it cannot say.
Eager modules and exported graphs are held to the same table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from exportable_losses import catalog
from exportable_losses.catalog import Entry
from exportable_losses.contract import Input

Inputs = dict[str, Tensor]
NAN, INFINITY = float("nan"), float("inf")


TRANSDUCERS = (
    "transducer_loss",
    "TransducerPosterior",
    "TransducerAlign",
    "HATLoss",
    "HATPosterior",
    "HATAlign",
)


@dataclass(frozen=True)
class BadInput:
    """One case.

    Args:
        row: its name in the catalog.
        wrong: what is wrong, in a few words.
        change: the mistake: changes the dict of legal inputs.
        message: a regular expression for the start of the error: the input, what came, what was expected.
        settings: of the module.
        sizes: of the legal inputs, by letter; None drops a dimension.
        eager: whether eager modules refuse it. A NaN passes through them into the loss, and so does infinity.
    """

    row: str
    wrong: str
    change: Callable[[Inputs], None]
    message: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    eager: bool = True

    def __str__(self) -> str:
        return f"{self.row}-{self.wrong.replace(' ', '_')}"

    def module(self) -> torch.nn.Module:
        return catalog.get(self.row).module(**self.settings)

    def legal(self) -> Inputs:
        """Inputs that the row takes."""
        blank_index = self.settings.get("blank_index")
        return catalog.get(self.row).example_inputs(blank_index=blank_index, **self.sizes)

    def illegal(self) -> Inputs:
        """The same with the mistake in them."""
        inputs = self.legal()
        self.change(inputs)
        return inputs


def put(name: str, value: float, *at: int) -> Callable[[Inputs], None]:
    """Write `value` into one place, the first without `at`."""

    def change(inputs: Inputs) -> None:
        inputs[name] = inputs[name].clone()
        inputs[name][at or (0,) * inputs[name].dim()] = value

    return change


def cut(name: str, axis: int, by: int = 1) -> Callable[[Inputs], None]:
    """Take the last `by` of a dimension away."""

    def change(inputs: Inputs) -> None:
        inputs[name] = inputs[name].narrow(axis, 0, inputs[name].shape[axis] - by)

    return change


def repeat(name: str, axis: int) -> Callable[[Inputs], None]:
    """Make a dimension twice as long."""

    def change(inputs: Inputs) -> None:
        inputs[name] = torch.cat([inputs[name], inputs[name]], axis)

    return change


def expand(name: str) -> Callable[[Inputs], None]:
    """Add a dimension."""

    def change(inputs: Inputs) -> None:
        inputs[name] = inputs[name].unsqueeze(-1)

    return change


def drop(name: str) -> Callable[[Inputs], None]:
    """Drop the last dimension."""

    def change(inputs: Inputs) -> None:
        inputs[name] = inputs[name][..., 0]

    return change


# What the wrapper's `length` holds is nobody's business: it is taken because SpeechBrain passes it.
_NOT_READ = {("LogSoftmaxWrapper", "length")}


def bad_inputs() -> list[BadInput]:
    """The whole table."""
    rows = [catalog.get(name) for name in catalog.names()]
    return [*_PARTICULAR, *(case for entry in rows for case in _of_the_contract(entry))]


def _of_the_contract(entry: Entry) -> Iterator[BadInput]:
    legal = entry.example_inputs()
    seen: set[str] = set()
    for value in entry.inputs:
        if (entry.name, value.name) in _NOT_READ:
            continue
        for wrong, number, expected in _illegal_numbers(entry, value, legal):
            message = rf"{value.name}: got {wrong} at \[0.*\], expected {expected}"
            yield BadInput(entry.name, f"{value.name} {wrong}", put(value.name, number), message)
        if value.dtype == "float32" and not value.bounded:
            message = rf"{value.name}: got nan at \[0.*\], expected "
            yield BadInput(entry.name, f"{value.name} nan", put(value.name, NAN), message, eager=False)
            message = rf"{value.name}: got inf at \[0.*\], expected "
            yield BadInput(entry.name, f"{value.name} inf", put(value.name, INFINITY), message, eager=False)
        terms = value.dims.split()
        if "*" not in terms and "?" not in value.dims:
            message = rf"{value.name}: got .*, expected .*\bdimensions"
            yield BadInput(entry.name, f"{value.name} of one dimension more", expand(value.name), message)
        for axis, term in enumerate(terms[: legal[value.name].dim()]):
            letter = term.rstrip("?").partition("+")[0].replace("*", "X0")
            if letter == "1" and "?" not in term:
                message = rf"{value.name}: got size 2 along dimension {axis} .*, expected 1"
                yield BadInput(entry.name, f"{value.name} twice as long", repeat(value.name, axis), message)
            elif letter in seen:
                short = legal[value.name].shape[axis] - 1
                expected = rf"expected {short + 1}, the size in "
                message = rf"{value.name}: got size {short} along dimension {axis} .*, {expected}"
                yield BadInput(entry.name, f"{value.name} short of {letter}", cut(value.name, axis), message)
        seen |= {t.rstrip("?").partition("+")[0].replace("*", "X0") for t in terms}
    if entry.contract.aligned:
        yield from _lengths_too_different(entry)


def _illegal_numbers(entry: Entry, value: Input, legal: Inputs) -> Iterator[tuple[str, float, str]]:
    """What is wrong (as it is printed), the number, and what the message expects."""
    if value.legal.startswith("relative_length"):
        expected = r"relative lengths in [\(\[]0, 1\]"
        yield from ((str(x), x, expected) for x in (1.5, -0.5, NAN, INFINITY))
    if value.legal == "relative_length":
        yield "0.0", 0.0, r"relative lengths in \(0, 1\]"
    if value.legal == "count":
        size = legal["source"].shape[0]
        yield from ((str(x), x, rf"integer lengths in \[0, {size}\]") for x in (-1, size + 1))
    if value.legal == "index":
        classes = entry.contract.sizes({name: tuple(x.shape) for name, x in legal.items()})[value.below]
        yield from ((str(x), x, rf"an index in \[0, {classes - 1}\]") for x in (-1, classes))


def _lengths_too_different(entry: Entry) -> Iterator[BadInput]:
    first, second = (e.name for e in entry.inputs[:2])
    frames = entry.example_inputs()[first].shape[1]
    for name, one, other in ((first, frames - 4, frames), (second, frames, frames - 4)):
        message = rf"{second}: got length {other} where {first} has {one}, expected .* allowed_len_diff=3"
        yield BadInput(entry.name, f"{name} four frames shorter", cut(name, 1, 4), message)
    message = rf"{second}: got length {frames - 1} where {first} has {frames}, expected .* allowed_len_diff=0"
    strict = {"allowed_len_diff": 0}
    yield BadInput(entry.name, "no difference allowed", cut(second, 1), message, strict)


_PARTICULAR = [
    *(
        BadInput(
            row,
            "fewer classes than the blank",
            lambda inputs: inputs.update({name: x[..., :2] for name, x in inputs.items() if x.dim() > 2}),
            r"blank_index: got 5, expected an index in \[0, 1\]",
            {"blank_index": 5},
        )
        for row in (
            *("ctc_loss", "ctc_loss_kd", "CTCGreedyDecode", "CTCPosterior", "CTCAlign", "CTCKeywordScore"),
            *TRANSDUCERS,
        )
    ),
    *(
        BadInput(
            row,
            "target is the blank",
            put("targets", 5),
            r"targets: got 5 at \[0, 0\], expected labels other than blank_index=5",
            {"blank_index": 5},
        )
        for row in ("ctc_loss", "CTCPosterior", "CTCAlign", "CTCKeywordScore", *TRANSDUCERS)
    ),
    *(
        BadInput(
            row,
            "no place for the last label",
            cut("logits", 2),
            r"targets: got size 5 along dimension 1 \(U\), expected 4, the size in logits",
        )
        for row in TRANSDUCERS
    ),
    BadInput(
        "ctc_loss",
        "last label of a full target out of range",
        put("targets", 7, 0, -1),
        r"targets: got 7 at \[0, 4\], expected an index in \[0, 6\]",
        sizes={"S": 5},
    ),
    BadInput("l1_loss", "rank of targets", drop("targets"), r"targets: got .*, expected 3\b"),
    BadInput(
        "mse_loss", "rank of predictions", expand("predictions"), r"targets: got 3|predictions: got .* 3"
    ),
    BadInput("nll_loss", "rank of targets", drop("targets"), r"targets: got .*, expected 2\b"),
    BadInput("classification_error", "rank of targets", expand("targets"), r"targets: got .*dimensions"),
    BadInput("bce_loss", "rank of targets", drop("targets"), r"targets: got .*, expected \d"),
    BadInput("PitWrapper", "rank of targets", drop("targets"), r"targets: got .*, expected 3\b"),
    BadInput(
        "cal_snr", "rank of the estimate", drop("estimate_source"), r"estimate_source: got .*, expected 4\b"
    ),
    BadInput(
        "VariationalAutoencoderLoss", "rank of log_var", drop("log_var"), r"log_var: got .*, expected 3\b"
    ),
    BadInput("reduce_loss", "rank of the mask", drop("mask"), r"mask: got .*, expected 3\b"),
    *(
        BadInput(row, f"no {name}", cut(name, 0, size), f"{name}: got no elements, expected at least one")
        for row in ("EqualErrorRate", "MinDCF")
        for name, size in (("positive_scores", 10), ("negative_scores", 15))
    ),
    BadInput(
        "TokenErrorRate",
        "no token in any target",
        lambda inputs: inputs.update(target_lens=torch.zeros(3)),
        "target_lens: got zeros alone, expected at least one element within them in targets",
    ),
    BadInput(
        "TokenErrorRate",
        "lengths that round to no token",
        lambda inputs: inputs.update(target_lens=torch.full((3,), 0.1)),  # of four tokens
        "target_lens: got zeros alone, expected at least one element within them in targets",
    ),
    BadInput(
        "TokenErrorRate", "targets of no width", cut("targets", 1, 4), "targets: got no elements, expected"
    ),
    BadInput("Accuracy", "rank of targets", drop("targets"), r"targets: got .*, expected 2\b"),
    BadInput("Laplacian", "rank of an image", drop("data"), r"data: got .*dimensions", sizes={"C": None}),
]
