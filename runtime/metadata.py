"""What an exported file says of itself, held to what can be read: anybody may have written it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, get_type_hints

import numpy as np

from exportable_losses import __version__
from exportable_losses.contract import LEGAL, Contract, Input, Total

KEY = "exportable_losses"

_COMPOSED = ("ratio", "plus", "calibration")
_KINDS = ("mean", "exp_mean", "sum", "whole", *_COMPOSED)


def _fields(kind: type) -> dict[str, Any]:
    """The shape of a dataclass in JSON."""
    hints = get_type_hints(kind)
    return {
        each.name + "?" * (each.default is not MISSING): list if each.name == "only" else hints[each.name]
        for each in fields(kind)
    }


# What the JSON has to be: a type; a list of one shape; or an object, with what each key has to be, of which
# those with a ? may be missing. ... stands for any other key.
_SHAPE = {
    "row": str,
    "settings": {
        "blank_index?": int,
        "big_blank_durations?": [int],
        "durations?": [int],
        "allowed_len_diff?": int,
        "len_dim?": int,
        "kernel_size?": int,
        ...: object,
    },
    "version": str,
    "contract": {
        "inputs": [_fields(Input)],
        "outputs": [str],
        "differentiable": [str],
        "aligned": [str],
        "any_rank": bool,
        "totals?": [_fields(Total)],
        "classes?": str,
    },
    "attached?": {
        "computed": {...: str},
        "swapped": [str],
        "sizes": {...: int},
        "inputs": {...: str},
        "outputs": {...: str},
        ...: object,
    },
    ...: object,
}
_TERM = re.compile(r"(\*|\d+|[A-Za-z]\w*(\+\d+)?)\??")


def described(
    properties: Mapping[str, str], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[dict[str, Any], list[Loss]]:
    """What a file says of itself, nothing where it says nothing; and its losses.

    Args:
        properties: of the graph.
        inputs: that it has.
        outputs: that it has.

    Raises:
        ValueError: it says what this version does not read.
    """
    if KEY not in properties:
        return {}, []
    about = parsed(properties[KEY])
    more = about.get("more", [])
    if not isinstance(more, list):
        raise ValueError(f"graph: got metadata whose more is {_kind(more)}, expected a list")
    losses = []
    for loss in [Loss.from_metadata(each) for each in (about, *more)]:
        for entry in loss.contract.inputs:
            called = loss.names.get(entry.name)
            if called is not None and called not in inputs and not entry.optional:
                raise _missing("input", called, inputs)
        for total in loss.contract.totals:
            if total.output not in loss.outputs:
                raise _missing("output that adds up", total.output, list(loss.outputs))
        for name in (*loss.computed.values(), *loss.outputs.values()):
            if name not in outputs:
                raise _missing("output", name, outputs)
        names = {name: called for name, called in loss.names.items() if called in inputs}
        losses.append(replace(loss, names=names))  # exported without an optional input, say
    return about, losses


def _missing(what: str, name: str, known: Sequence[str]) -> ValueError:
    return ValueError(f"graph: got metadata of an {what} {name!r}, expected one of {', '.join(known)}")


def parsed(text: str) -> dict[str, Any]:
    """The object that JSON is of.

    Raises:
        ValueError: it is of none.
    """
    expected = "expected a JSON object, as to_onnx writes it"
    try:
        about = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"graph: got metadata that is no JSON: {error}, {expected}") from error
    if not isinstance(about, dict):
        raise ValueError(f"graph: got metadata that is {_kind(about)}, {expected}")
    return about


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _check(value: Any, shape: Any, where: str) -> None:
    """Hold a value to a shape.

    Raises:
        ValueError: it has another; `where` names it.
    """
    if isinstance(shape, type):
        fits = isinstance(value, shape) and (shape is not int or not isinstance(value, bool))
    else:
        fits = isinstance(value, type(shape))
    if not fits:
        raise ValueError(f"{where} is {_kind(value)}")
    if isinstance(shape, list):
        for i, each in enumerate(value):
            _check(each, shape[0], f"{where}[{i}]")
    elif isinstance(shape, dict):
        known = {name.rstrip("?"): kind for name, kind in shape.items() if name is not ...}
        for name, each in value.items():
            if name not in known and ... not in shape:
                raise ValueError(f"{where} has {name}, which is not known here")
            _check(each, known.get(name, shape.get(...)), f"{where}.{name}")
        for name in shape:
            if name is not ... and not name.endswith("?") and name not in value:
                raise ValueError(f"{where} has no {name}")


def _check_contract(contract: Contract) -> None:
    """Hold the words of a contract to those that are known.

    Raises:
        ValueError: one is not.
    """
    for entry in contract.inputs:
        terms = entry.dims.split()
        if entry.legal not in LEGAL:
            raise ValueError(f"{entry.name} takes {entry.legal}, which is not known here")
        if not all(map(_TERM.fullmatch, terms)) or terms.count("*") > 1:
            raise ValueError(f"{entry.name} has the dimensions {entry.dims}, which are not known here")
    if len(contract.aligned) not in (0, 2):
        raise ValueError(f"aligned has {len(contract.aligned)} letters")
    names = [total.output for total in contract.totals]
    for total in contract.totals:
        if total.kind not in _KINDS:
            raise ValueError(f"{total.output} adds up as {total.kind}, which is not known here")
        known = (*contract.outputs, *names) if total.kind in _COMPOSED else None
        parts = total.by.split()
        if any(not isinstance(each, (list, tuple)) or len(each) != 2 for each in total.only):
            raise ValueError(f"{total.output} adds up only with {total.only}, expected settings and values")
        if known is not None and not (len(parts) == 2 and set(parts) <= set(known)):
            raise ValueError(f"{total.output} is made of {total.by}, which is not known here")


@dataclass(frozen=True)
class Loss:
    """One loss of a file: the whole of it, or what `attach` has put behind a model.

    Args:
        contract: of its row.
        settings: of its module.
        names: what the graph calls its inputs.
        computed: the graph's outputs that are its other inputs, behind a model.
        swapped: those whose first two dimensions are the other way round.
        sizes: what the model fixes, by letter.
        outputs: what the graph calls its outputs.
    """

    contract: Contract
    settings: Mapping[str, Any]
    names: Mapping[str, str]
    computed: Mapping[str, str]
    swapped: Sequence[str]
    sizes: Mapping[str, int]
    outputs: Mapping[str, str]

    @staticmethod
    def from_metadata(about: Mapping[str, Any]) -> Loss:
        """The loss that a file says it has.

        Raises:
            ValueError: this version cannot read it: a newer one wrote it, perhaps.
        """
        try:
            _check(about, _SHAPE, "it")
            contract, attached = Contract.from_json(about["contract"]), about.get("attached", {})
            _check_contract(contract)
        except (KeyError, TypeError, ValueError) as error:
            writer = about.get("version", "unknown") if isinstance(about, dict) else "unknown"
            got = f"graph: got metadata of exportable-losses {writer}"
            raise ValueError(f"{got}, which {__version__} does not read: {error}") from error
        return Loss(
            contract,
            about.get("settings", {}),
            attached.get("inputs", {entry.name: entry.name for entry in contract.inputs}),
            attached.get("computed", {}),
            attached.get("swapped", ()),
            attached.get("sizes", {}),
            attached.get("outputs", {name: name for name in contract.outputs}),
        )

    def check(self, feed: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray] | None = None) -> None:
        """Check what goes into the loss; before the model has run, what can be known then."""
        arrays = {name: feed[called] for name, called in self.names.items() if called in feed}
        if outputs is None:
            ranks = {name: array.ndim for name, array in arrays.items()}
            for entry in self.contract.inputs:
                if entry.is_length and entry.name in self.computed:  # where padding begins is not known
                    for name in self.contract.spans(entry, ranks, self.settings):
                        arrays.pop(name, None)
        else:
            for name, called in self.computed.items():
                array = outputs[called]
                arrays[name] = array.swapaxes(0, 1) if name in self.swapped else array
        self.contract.check(arrays, self.settings, refuse_nan=True, known=self.sizes)

    def harmless(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The lengths and labels of `feed`, by the graph's names, as others that any scores take."""
        label = int(self.settings.get("blank_index", 0) == 0)
        found = {}
        for entry in self.contract.inputs:
            array = feed.get(self.names.get(entry.name, ""))
            if array is not None and (entry.is_length or entry.legal in ("count", "index")):
                harmless = label if entry.legal == "index" else int(entry.legal == "relative_length")
                found[self.names[entry.name]] = np.full_like(array, harmless)
        return found

    def check_types(self, dtypes: Mapping[str, Any]) -> None:
        """Refuse what the loss does not take, by the graph's names: once it is cast, nobody knows.

        Raises:
            TypeError: the message names the input, what it got and what it expected.
        """
        given = {name: dtypes[called] for name, called in self.names.items() if called in dtypes}
        self.contract.check_types(given)

    def with_lengths(
        self,
        feed: Mapping[str, np.ndarray],
        lengths: Mapping[str, np.ndarray],
        kinds: Mapping[str, np.dtype[Any]],
    ) -> dict[str, np.ndarray]:
        """`feed` with those of `lengths` that are this loss's, relative or absolute as the graph takes them.

        Args:
            feed: what goes into the graph beside lengths.
            lengths: as they came.
            kinds: the dtypes of the graph's inputs.

        Raises:
            TypeError: a length is of the other kind where what it counts is inside the graph.
            ValueError: a length is out of range.
        """
        arrays = {name: feed[called] for name, called in self.names.items() if called in feed}
        found = dict(feed)
        for entry in self.contract.inputs:
            called = self.names.get(entry.name, "")
            if entry.is_length and called in lengths:
                given = {**arrays, entry.name: lengths[called]}
                found[called] = self.contract.converted(
                    entry, kinds[called], given, self.settings, self.sizes
                )
        return found
