"""What a random call of a row is made of: values, sizes, types, layouts, and what stands behind lengths."""

import math
from dataclasses import dataclass

import torch
from export_cases import ALL_ONE, Case, Inputs, letters
from hypothesis import strategies as st
from onnx_runs import ROUNDINGS_OF
from torch import Tensor

from exportable_losses.contract import FLOATING, Input

HALVES = (torch.bfloat16, torch.float16)
GARBAGE = (math.nan, math.inf, -math.inf, 1e38, -100.0)
GARBAGE_LABELS = (-1, -100, 10**6, -(2**62))
# Of a ratio of energies in a few samples nothing but rounding is left where signals happen to be parallel.
LEAST = {row: {"T": 12} for row in (*ROUNDINGS_OF, "SDR", "cal_snr", "get_snr_with_pitwrapper")}
LEAST["PitWrapper"] = {"T": 3, "X0": 3}  # in fewer dimensions several permutations are as good
# Rows whose frames see each other, so that what lies behind a length reaches what is before it.
NEIGHBOURS = ("LaplacianVarianceLoss",)
EMPTY = ("B", "T", "S", "U", "K")  # letters that may be nothing


@dataclass(frozen=True, repr=False)
class Call:
    """What one call is made of.

    Args:
        case: the row, its settings, and which inputs it has.
        plain: contiguous, float64, nothing behind the lengths, which are shares.
        given: the same values as a caller may have them.
        frames: what each relative length is in whole numbers.
        autocast: the type of the autocast around eager calls.
    """

    case: Case
    plain: Inputs
    given: Inputs
    frames: Inputs
    autocast: torch.dtype | None

    def __repr__(self) -> str:
        described = (
            f"{name} {value.dtype} {list(value.shape)} by {value.stride()}: {value.tolist()}"
            for name, value in self.given.items()
        )
        return "\n".join([f"{self.case} under {self.autocast}", *described])


@st.composite
def calls(draw: st.DrawFn, cases: list[Case]) -> Call:
    """A call of one of `cases`."""
    case = draw(st.sampled_from(cases))
    values = case.inputs_of(draw(sizes(case)), draw(st.integers(0, 2**31)))
    legal = {entry.name: entry for entry in case.entry.inputs}
    frames: Inputs = {}
    plain, handed = {}, {}
    for name, value in values.items():
        entry = legal[name]
        if entry.legal.startswith("relative_length"):
            size = size_of(case, entry, values)
            if size is not None and "len_dim" not in case.settings and size > 0:
                least = int(entry.legal == "relative_length")
                lengths = draw(st.lists(st.integers(least, size), min_size=len(value), max_size=len(value)))
                frames[name] = torch.tensor(lengths, dtype=torch.int64)
                value = frames[name].double() / size
            plain[name], handed[name] = value.double(), draw(as_lengths(value, frames.get(name)))
            continue
        if value.is_floating_point() and case.dtype == torch.float32 and entry.legal != "state":
            kinds = (torch.float32, torch.float32, torch.float64, *HALVES)
            value = value.to(draw(st.sampled_from(kinds)))
        plain[name] = value.double() if entry.legal in FLOATING else value
        handed[name] = value
    for name, value in handed.items():
        if name not in frames and not legal[name].legal.startswith("relative_length"):
            value = spoiled(draw, case, legal[name], value, frames, legal)
            handed[name] = draw(layouts(value))
    return Call(case, plain, handed, frames, draw(st.sampled_from((None, None, *HALVES))))


@st.composite
def sizes(draw: st.DrawFn, case: Case) -> dict[str, int]:
    """A size for each letter of the row; now and then one is nothing."""
    chosen = {}
    known = letters(case.entry) - {letter for letter in ("N",) if case.entry.contract.aligned}
    empty = draw(st.sampled_from((None,) * 12 + EMPTY))
    counted = {entry.below for entry in case.entry.inputs if entry.legal == "count"}  # lengths from 1
    if case.row == "CTCForwardChunk":  # ONNX Runtime's `Scan` takes no chunk without a frame
        counted.add("T")
    for letter in sorted(known):
        least = max(ALL_ONE.get(letter, 1), LEAST.get(case.row, {}).get(letter, 0))
        chosen[letter] = draw(st.integers(least, least + 5))
        if letter == empty and letter not in (*case.sizes, *counted) and case.change is dict:
            chosen[letter] = 0
    if case.entry.contract.aligned:
        chosen["N"] = chosen["T"]
    return chosen


def size_of(case: Case, entry: Input, values: Inputs) -> int | None:
    """The size that a relative length is of; none where it is of nothing."""
    if not entry.of:
        return None
    found = case.entry.contract.sizes({name: tuple(value.shape) for name, value in values.items()})
    several = {found[letter] for letter in entry.of.split() if letter in found}
    return several.pop() if len(several) == 1 else None


@st.composite
def as_lengths(draw: st.DrawFn, share: Tensor, frames: Tensor | None) -> Tensor:
    """Lengths as shares in 32 or 64 bits, or as whole numbers."""
    kinds = [torch.float32, torch.float64, *((torch.int64, torch.int32) if frames is not None else ())]
    kind = draw(st.sampled_from(kinds))
    return share.to(kind) if kind.is_floating_point or frames is None else frames.to(kind)


def spoiled(
    draw: st.DrawFn, case: Case, entry: Input, value: Tensor, frames: Inputs, legal: dict[str, Input]
) -> Tensor:
    """`value` with garbage behind each of the lengths that it is padded to."""
    smoothed = (
        case.row == "kldiv_loss" and "label_smoothing" in case.settings
    )  # padding is what `pad_idx` says
    if smoothed or case.row in NEIGHBOURS or entry.legal in ("mask", "count"):
        return value
    terms = case.entry.contract.letters({entry.name: value.dim()})[entry.name]
    for name, lengths in frames.items():
        of = {*legal[name].of.split(), *(["N"] if "T" in legal[name].of else [])}
        for axis, term in enumerate(terms):
            letter, _, more = term.partition("+")
            if letter in of and axis > 0 and terms[0] == "B":
                garbage = draw(st.sampled_from(GARBAGE if value.is_floating_point() else GARBAGE_LABELS))
                turned = value.movedim(axis, 1)
                behind = torch.arange(turned.shape[1]) >= lengths.unsqueeze(1) + int(more or 0)
                behind = behind.reshape(*behind.shape, *(1 for _ in turned.shape[2:]))
                value = turned.masked_fill(behind, torch.tensor(garbage).to(value.dtype)).movedim(1, axis)
    return value


@st.composite
def layouts(draw: st.DrawFn, value: Tensor) -> Tensor:
    """The same values, otherwise in memory."""
    kind = draw(st.sampled_from(("plain", "fortran", "turned", "every second", "further on")))
    if value.dim() == 0 or kind == "plain":
        return value.contiguous()
    if kind == "fortran":
        backwards = tuple(range(value.dim()))[::-1]
        return value.permute(backwards).contiguous().permute(backwards)
    if kind == "turned":
        return value.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "every second":
        return torch.stack([value, torch.full_like(value, 77)], -1).flatten(-2)[..., ::2]
    return torch.cat([value.new_full([1], 77), value.flatten()])[1:].reshape(value.shape)
