"""What the tests of this folder export: every row of the catalog in every shape it comes in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exports
import pytest
import torch
from torch import Tensor, nn

from exportable_losses import AdditiveAngularMargin, AngularMargin, catalog, checks, contract
from exportable_losses.catalog import Entry

# whose scores are products that are made inside, in 16 bits of numbers of 16 bits
PRODUCTS = {"FusedTransducerLoss", "LinearCTCLoss", "LinearCTCAlign", "LinearCTCGreedyDecode"}
PRODUCTS |= {"TransducerForwardChunk"}
Inputs = dict[str, Tensor]

TorchAlone = Callable[[Path, list[Inputs]], list[Any]]

# Three sizes to run at, none of them the exported one. At ALL_ONE every size is as small as the row
# allows, which is where a size of one that the exporter took for a broadcast would show. H and W leave
# one row and two columns behind a Laplacian of 5, since the variance of a single pixel is undefined.
ALL_ONE = {"B": 1, "T": 1, "C": 2, "S": 1, "U": 1, "V": 2, "E": 1, "H": 5, "W": 6, "L": 1, "Z": 1, "X0": 1}
ALL_ONE |= {"P": 1, "Q": 1, "K": 1}
SHORT = {"B": 4, "T": 3, "C": 5, "S": 2, "U": 2, "V": 4, "E": 4, "H": 8, "W": 7, "L": 4, "Z": 2, "X0": 3}
SHORT |= {"P": 4, "Q": 7, "K": 5}
LARGE = {"B": 5, "T": 29, "C": 11, "S": 6, "U": 7, "V": 12, "E": 3, "H": 10, "W": 16, "L": 7, "Z": 3, "X0": 4}
LARGE |= {"P": 19, "Q": 31, "K": 9}
# N is the frames of the targets, longer or shorter than the predictions, or else a size of its own.
OTHER_SIZES = {"all_one": (ALL_ONE, +2, 1), "short": (SHORT, -1, 6), "large": (LARGE, +3, 13)}


@dataclass(frozen=True)
class Case:
    """One graph: a row with its settings, and which inputs it is exported with.

    Args:
        row: its name in the catalog.
        name: what tells it from the other cases of the row.
        settings: of the module.
        without: the optional inputs that it is exported without.
        dropped: the letters of the optional dimensions that it is exported without.
        sizes: sizes that the settings fix (class weights fix C).
        same: letters whose size is another letter's.
        change: turns the inputs drawn into those used (another rank, say).
        dtype: of the floating-point inputs and buffers.
    """

    row: str
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[Inputs], Inputs] = dict
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return "-".join(filter(None, [self.row, self.name, *(f"no_{name}" for name in self.without)]))

    @property
    def entry(self) -> Entry:
        return catalog.get(self.row).fitted(self.settings)

    def module(self, dtype: torch.dtype | None = None) -> nn.Module:
        return self.entry.module(**self.settings).to(dtype or self.dtype)

    def inputs(self, size: str = "", seed: int = 0) -> Inputs:
        """Random inputs at one of `OTHER_SIZES`, or at the catalog's own sizes."""
        return self.inputs_of(_sizes(self.entry, size) if size else {}, seed)

    def inputs_of(self, sizes: Mapping[str, int], seed: int = 0) -> Inputs:
        """Random inputs of these sizes; the catalog's own without any."""
        chosen: dict[str, int | None] = {**sizes, **self.sizes}
        chosen |= {letter: chosen.get(other, SHORT[other]) for letter, other in self.same.items()}
        if not sizes:  # the catalog's own, but those of `same`
            chosen |= {other: SHORT[other] for other in self.same.values()}
        chosen |= dict.fromkeys(self.dropped)
        if "big_blank_durations" in self.entry.settings and "V" in chosen:
            chosen["V"] = max(chosen["V"] or 0, 4)  # a label beside three blanks
        drawn = self.entry.example_inputs(seed, blank_index=self.settings.get("blank_index"), **chosen)
        return _as_dtype(self.change({k: v for k, v in drawn.items() if k not in self.without}), self.dtype)

    def graph(self) -> Path:
        """Its ONNX file, of the catalog's own sizes."""
        return exports.onnx(self.module(), self.inputs())

    def script(self) -> Path:
        """Its TorchScript file."""
        return exports.torchscript(self.module())

    def truth(self, inputs: Inputs) -> dict[str, Tensor]:
        """What the eager module gives in float64."""
        legal = {value.name: value.legal for value in self.entry.inputs}
        exact = {k: v.double() if legal[k] in contract.FLOATING else v for k, v in inputs.items()}
        return self.outputs(self.module(torch.float64)(**exact))

    def outputs(self, returned: Any) -> dict[str, Tensor]:
        """What a module returned, by the catalog's names."""
        values = tuple(returned) if isinstance(returned, tuple) else (returned,)
        return dict(zip(self.entry.outputs, values, strict=True))


def letters(entry: Entry) -> set[str]:
    """Every letter that a size of the row has."""
    terms = " ".join(value.dims for value in entry.inputs).replace("*", "X0").replace("?", "").split()
    return {term.partition("+")[0] for term in terms}


def _sizes(entry: Entry, size: str) -> dict[str, int]:
    common, difference, own = OTHER_SIZES[size]
    n = common["T"] + difference if entry.contract.aligned else own
    known = letters(entry)
    return {letter: value for letter, value in {**common, "N": n}.items() if letter in known}


def _as_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


# Changes of what was drawn.


def flat(*names: str) -> Callable[[Inputs], Inputs]:
    """The named inputs without their last dimension."""
    return lambda inputs: {k: v[..., 0].contiguous() if k in names else v for k, v in inputs.items()}


def deep(*names: str) -> Callable[[Inputs], Inputs]:
    """The named inputs with one dimension more, of size 2."""
    return lambda inputs: {
        k: torch.stack([v, v.roll(1, 0)], -1) if k in names else v for k, v in inputs.items()
    }


def whole(*names: str) -> Callable[[Inputs], Inputs]:
    """The named inputs as integers, as a file with samples has them."""
    return lambda inputs: {k: (100 * v).long() if k in names else v for k, v in inputs.items()}


def _flags(inputs: Inputs) -> Inputs:
    """Targets of 0 and 1 as integers."""
    return {**inputs, "targets": inputs["targets"].long()}


def _frame_logits(inputs: Inputs) -> Inputs:
    """From ``[B, T, X0, 1]`` and ``[B, N, X0]`` to ``[B, T, 1]`` and ``[B, N]``."""
    return {**inputs, "inputs": inputs["inputs"][:, :, 0], "targets": inputs["targets"][:, :, 0]}


def _item_logits(inputs: Inputs) -> Inputs:
    """To ``[B, 1]`` and ``[B]``."""
    return {"inputs": inputs["inputs"][:, 0, 0], "targets": inputs["targets"][:, 0, 0]}


def _classes_to_indices(inputs: Inputs) -> Inputs:
    """To log-probabilities ``[B, T, C]`` and the classes ``[B, T]`` as a loss of one's own takes them."""
    log_probs = inputs["predictions"].log_softmax(-1)
    return {**inputs, "predictions": log_probs, "targets": inputs["targets"].argmax(-1)}


class FrameNLL(nn.Module):
    """A loss of one's own whose predictions have a dimension that its targets have not."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return -predictions.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)


# The table.


def reductions(entry: Entry) -> tuple[str, ...]:
    """Every reduction that the row's module takes; one empty name where it takes none."""
    if "reduction" not in entry.settings:
        return ("",)
    return tuple(reduction for reduction in checks.REDUCTIONS if _takes(entry, reduction))


def _takes(entry: Entry, reduction: str) -> bool:
    try:
        entry.module(reduction=reduction)
    except ValueError:
        return False
    return True


def _same(row: str, reduction: str) -> dict[str, str]:
    """Unreduced, the two terms of the variational loss are added element by element."""
    elementwise = row == "VariationalAutoencoderLoss" and reduction in ("sum", "none")
    return {"L": "T", "Z": "X0"} if elementwise else {}


_MARGIN = {"margin": 0.2, "scale": 30.0}
# Settings that float32 cannot hold exactly: a graph that took them through float32 would show it.
_FLOAT64_SETTINGS: dict[str, dict[str, Any]] = {
    "nll_loss": {"label_smoothing": 0.1},
    "bce_loss": {"label_smoothing": 0.1},
    "kldiv_loss": {"label_smoothing": 0.1},
    "distance_diff_loss": {"beta": 0.3, "max_weight": 2.1},
    "AngularMargin": _MARGIN,
    "AdditiveAngularMargin": _MARGIN,
    "LogSoftmaxWrapper": {"loss_fn": AdditiveAngularMargin(**_MARGIN)},
    "MinDCF": {"c_miss": 1.3, "p_target": 0.3},
}


def _rows() -> Iterator[Case]:
    for row in catalog.names():
        entry = catalog.get(row)
        optional = tuple(value.name for value in entry.inputs if value.optional)
        for reduction in reductions(entry):
            settings = {"reduction": reduction} if reduction else {}
            yield Case(row, reduction, settings, same=_same(row, reduction))
            if optional:
                yield Case(row, reduction, settings, optional, same=_same(row, reduction))
        yield Case(row, "float64", _FLOAT64_SETTINGS.get(row, {}), dtype=torch.float64)


def _settings() -> Iterator[Case]:
    weight = torch.linspace(0.2, 2.0, 7)
    length = ("length",)
    yield Case("nll_loss", "weight", {"weight": weight}, sizes={"C": 7})
    yield Case("nll_loss", "smoothing", {"label_smoothing": 0.1}, length)
    yield Case("nll_loss", "smoothing_weight", {"label_smoothing": 0.1, "weight": weight}, sizes={"C": 7})
    yield Case("bce_loss", "item_weight", {"weight": weight}, sizes={"B": 7})
    yield Case("bce_loss", "frames_weight", {"weight": weight}, sizes={"B": 7}, change=_frame_logits)
    yield Case("bce_loss", "items_weight", {"weight": weight}, length, sizes={"B": 7}, change=_item_logits)
    yield Case("bce_loss", "class_weight", {"weight": weight.reshape(1, 1, 7)}, sizes={"X0": 7})
    yield Case("bce_loss", "pos_weight", {"pos_weight": weight}, sizes={"X0": 7})
    yield Case("bce_loss", "one_pos_weight", {"pos_weight": torch.tensor([3.0])})
    yield Case("bce_loss", "smoothing", {"label_smoothing": 0.2})
    yield Case("bce_loss", "item_smoothing", {"label_smoothing": 0.2}, length, change=_item_logits)
    for reduction in checks.REDUCTIONS:
        smooth = {"label_smoothing": 0.2, "pad_idx": 1, "reduction": reduction}
        yield Case("kldiv_loss", f"smoothing_{reduction}", smooth)
        yield Case("kldiv_loss", f"mask_length_{reduction}", {**smooth, "mask_length": True})
    yield Case("kldiv_loss", "mask_length", {"label_smoothing": 0.2, "mask_length": True}, length)
    yield Case("distance_diff_loss", "settings", {"beta": 0.5, "max_weight": 2.0})
    of_ctc = ("ctc_loss", "ctc_loss_kd", "CTCGreedyDecode", "CTCPosterior", "CTCForwardChunk", "CTCAlign")
    transducers = ("transducer_loss", "TransducerPosterior", "TransducerAlign")
    for row in (*of_ctc, *transducers):
        yield Case(row, "blank_1", {"blank_index": 1})
        letter = "V" if row in transducers else "C"
        yield Case(row, "last_blank", {"blank_index": 5}, sizes={letter: 6})
    for reduction in checks.REDUCTIONS:
        yield Case("ctc_loss", f"infinite_{reduction}", {"zero_infinity": False, "reduction": reduction})
    for wildcard in ("max", "sum", "mean", "zero"):
        yield Case("ctc_loss", f"wildcard_{wildcard}", {"wildcard": wildcard})
    priors = {"log_priors": torch.linspace(1, 2, 6).log_softmax(0)}
    yield Case("ctc_loss", "priors", {**priors, "wildcard": "mean"}, sizes={"C": 6})
    yield Case("CTCAlign", "wildcard", {"wildcard": "mean", "free_ends": True, "blank_index": 1})
    yield Case("CTCAlign", "priors", priors, sizes={"C": 6})
    yield Case("CTCKeywordScore", "blank_1", {"blank_index": 1})
    yield Case("transducer_loss", "normalize", {"normalize": True})
    yield Case("transducer_loss", "normalize_none", {"normalize": True, "reduction": "none"})
    late = {"topology": "constrained", "delay_penalty": 0.1}
    yield Case("transducer_loss", "modified", {"topology": "modified", "fastemit_lambda": 0.01})
    yield Case("transducer_loss", "constrained", {**late, "normalize": True})
    durations = {"durations": (0, 5, 2), "sigma": 0.05, "fastemit_lambda": 0.01}
    yield Case("TDTLoss", "durations", {**durations, "blank_index": 1})
    yield Case("MultiBlankTransducerLoss", "one", {"blank_index": 1, "big_blank_durations": (3,)})
    yield Case("HATLoss", "last_blank", {"blank_index": 5}, sizes={"V": 6})
    smoothed = {"lm_only_scale": 0.25, "am_only_scale": 0.1}
    yield Case("SimpleTransducerLoss", "smoothed", {**smoothed, **late})
    yield Case("PruneRanges", "modified", {"prune_range": 3, "topology": "modified"})
    yield Case("PrunedTransducerLoss", "constrained", late)
    fused = {"durations": (0, 2, 1), "sigma": 0.05, "fastemit_lambda": 0.01, "activation": "relu"}
    yield Case("FusedTransducerLoss", "durations", {**fused, "blank_index": 1})
    yield Case("FusedTransducerLoss", "hybrid", {"hybrid": True, "activation": "silu"})
    yield Case("TransducerForwardChunk", "hybrid", {"hybrid": True, "activation": "relu"})
    yield Case("FusedTransducerLoss", "constrained", {**late, "activation": "identity"})
    for row in ("LinearCTCLoss", "LinearCTCAlign", "LinearCTCGreedyDecode"):
        yield Case(row, "last_blank", {"blank_index": 5}, sizes={"C": 6})
    yield Case("PitWrapper", "l1", {"base_loss": nn.L1Loss(reduction="none")})
    for row in ("AngularMargin", "AdditiveAngularMargin"):
        yield Case(row, "margin", _MARGIN)
    yield Case("AdditiveAngularMargin", "easy", {**_MARGIN, "easy_margin": True})
    yield Case("LogSoftmaxWrapper", "angular", {"loss_fn": AngularMargin(**_MARGIN)})
    yield Case("LogSoftmaxWrapper", "additive", {"loss_fn": AdditiveAngularMargin(**_MARGIN)}, length)
    yield Case("ContrastiveLoss", "temperature", {"logit_temp": 0.7})
    l1 = nn.L1Loss(reduction="none")
    for reduction in ("mean", "batch", "none"):
        along = {"len_dim": 2, "reduction": reduction}
        yield Case("AutoencoderLoss", f"len_dim_{reduction}", {**along, "rec_loss": l1})
        same = _same("VariationalAutoencoderLoss", reduction)
        weighted = {**along, "rec_loss": l1, "dist_loss_weight": 0.3}
        yield Case("VariationalAutoencoderLoss", f"len_dim_{reduction}", weighted, same=same)
    yield Case("Laplacian", "kernel_5", {"kernel_size": 5})
    for reduction in ("mean", "batch"):
        settings = {"kernel_size": 5, "len_dim": 2, "reduction": reduction}
        yield Case("LaplacianVarianceLoss", f"len_dim_{reduction}", settings)
    mse = nn.MSELoss(reduction="none")
    yield Case("compute_masked_loss", "mse", {"loss_fn": mse, "mask_shape": "predictions"})
    yield Case("compute_masked_loss", "loss_mask", {"mask_shape": "loss", "reduction": "batch"})
    yield Case("compute_masked_loss", "own", {"loss_fn": FrameNLL()}, change=_classes_to_indices)
    yield Case("compute_length_mask", "len_dim", {"len_dim": 2})
    yield Case("Accuracy", "top_3", {"top_k": 3})
    yield Case("ExpectedCalibrationError", "bins", {"n_bins": 3})
    yield Case("ExpectedCalibrationError", "one_bin", {"n_bins": 1})
    yield Case("CTCGreedyDecode", "padding", {"padding": -1})
    yield Case("SDR", "no_pit", {"pit": False})
    yield Case("SDR", "rescale", {"rescale": True, "zero_mean": True})
    yield Case("SISNRImprovement", "no_pit", {"pit": False})
    costs = {"c_miss": 3.0, "c_fa": 0.7, "p_target": 0.3}
    yield Case("MinDCF", "costs", costs)
    yield Case("MinDCF", "normalize", {**costs, "normalize": True})


def _ranks() -> Iterator[Case]:
    starred = {
        row: names
        for row in catalog.names()
        if (names := tuple(v.name for v in catalog.get(row).inputs if v.dims in ("B T *", "B N *")))
    }
    for row, names in starred.items():
        yield Case(row, "flat", change=flat(*names))
        yield Case(row, "deep", change=deep(*names))
    yield Case("truncate", "two_ranks", change=flat("targets"))
    yield Case("PitWrapper", "flat", change=lambda drawn: {k: v[:, 0] for k, v in drawn.items()})
    yield Case(
        "PitWrapper",
        "deep",
        change=lambda drawn: {k: v.unsqueeze(1) + v.unsqueeze(2) for k, v in drawn.items()},
    )
    yield Case("bce_loss", "frames_1", change=_frame_logits)
    yield Case("bce_loss", "frames", change=lambda drawn: flat("inputs")(_frame_logits(drawn)))
    yield Case("bce_loss", "classes", change=flat("inputs"))
    classes = ("classification_error", "nll_loss", "kldiv_loss")
    for row in (*classes, "Accuracy", "ExpectedCalibrationError", "Perplexity"):
        yield Case(row, "items", {}, ("length",), ("T", "N"))
    yield Case("kldiv_loss", "smoothing_items", {"label_smoothing": 0.2}, ("length",), ("T", "N"))
    yield Case("bce_loss", "items_1", {}, ("length",), change=_item_logits)
    yield Case("bce_loss", "items", {}, ("length",), change=lambda drawn: flat("inputs")(_item_logits(drawn)))
    for row in ("cal_si_snr", "cal_snr", "get_mask"):
        yield Case(row, "no_channels", dropped=("E",))
    for row in ("Laplacian", "LaplacianVarianceLoss"):
        yield Case(row, "no_channels", dropped=("C",))
    yield Case("VariationalAutoencoderLoss", "flat_latent", dropped=("Z",))


def _integers() -> Iterator[Case]:
    for row in catalog.names():
        signals = tuple(value.name for value in catalog.get(row).inputs if value.legal == "signal")
        if signals:
            yield Case(row, "integers", change=whole(*signals))
    for row in ("l1_loss", "mse_loss"):
        yield Case(row, "integers", change=whole("predictions", "targets"))
    yield Case("compute_length_mask", "integers", change=whole("data"))
    yield Case("get_mask", "integers", change=whole("source"))
    yield Case("bce_loss", "integers", change=_flags)


CASES = (*_rows(), *_settings(), *_ranks(), *_integers())
BY_NAME = {str(case): case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases of one name would share an export"


# The rows whose graphs in float64 `make test` runs: one of a kind.
_WIDE = ("l1_loss", "bce_loss", "ctc_loss", "transducer_loss", "PitWrapper", "AngularMargin", "SDR")


# Rows whose reductions are one function (`lattice.arcs.reduced`), which `transducer_loss` shows.
ON_ARCS = ("TDTLoss", "MultiBlankTransducerLoss", "HATLoss", "SimpleTransducerLoss", "PrunedTransducerLoss")


def _like_others(case: Case) -> bool:
    """A reduction whose code is that of others (a sum and a mean of items, or what no length changes), or
    constants of another width."""
    if case.name == "float64":
        return case.row not in _WIDE
    reduction = case.name.rpartition("_")[2]
    if case.row == "reduce_loss" or reduction not in checks.REDUCTIONS:
        return False
    if case.row in ON_ARCS and reduction != "mean":
        return True
    return reduction in ("sum", "batchmean") or (bool(case.without) and reduction != "mean")


# Rows whose graphs `make test` exports with every reduction, and with and without lengths, with flat and deep
# inputs, and with integers: what does these is one function for all rows, or one of a kind.
_REDUCED = ("l1_loss", "ctc_loss", "transducer_loss", "AutoencoderLoss", "reduce_loss")
_WITHOUT_LENGTH = ("l1_loss", "compute_length_mask", "ExpectedCalibrationError", "LogSoftmaxWrapper")
_OF_ANY_RANK = ("l1_loss", "truncate", "PitWrapper", "reduce_loss")
_OF_INTEGERS = ("l1_loss", "bce_loss", "cal_si_snr", "compute_length_mask")

# What `bce_loss-frames_weight`, `-classes`, `-pos_weight` and `nll_loss-items` show as well, and so on.
_PIECES = ("item_weight", "items_weight", "one_pos_weight", "item_smoothing", "frames_1", "frames", "items_1")
_PIECES += ("smoothing_items", "one_bin", "margin", "costs", "blank_1", "infinite_batch", "normalize_none")
_PIECES += ("wildcard_mean",)  # `ctc_loss-priors` has it
# Rows whose graphs test_lattices and test_ctc_paths run with the last class as the blank.
_WITH_EVERY_BLANK = ("ctc_loss", "ctc_loss_kd", "CTCPosterior", "CTCAlign")
_WITH_EVERY_BLANK += ("transducer_loss", "TransducerPosterior", "TransducerAlign")


def _exported_like_others(case: Case) -> bool:
    """A graph made of pieces of others: to export one takes longer than all the rest that is done with it.

    The setting itself is in its numbers, eager and scripted, which are computed of all the same.
    """
    if case.name in ("flat", "deep", "integers"):
        return case.row not in (_OF_INTEGERS if case.name == "integers" else _OF_ANY_RANK)
    if case.name in _PIECES or (case.name == "items" and case.row not in ("nll_loss", "Accuracy")):
        return True
    if case.name == "last_blank" and case.row in _WITH_EVERY_BLANK:
        return True
    if case.name == "constrained" and case.row == "PrunedTransducerLoss":  # as of the other transducers
        return True
    if case.name == "no_channels":
        return case.row not in ("cal_snr", "Laplacian")
    reduction = case.name.rpartition("_")[2]
    if reduction in checks.REDUCTIONS and reduction != "mean":
        return case.row not in _REDUCED
    return case.name == "mean" and bool(case.without) and case.row not in _WITHOUT_LENGTH


def _each(thorough: Callable[[Case], bool]) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.thorough if thorough(case) else ())
        for name, case in BY_NAME.items()
    ]


EACH = _each(_like_others)  # the names, for tests of every case
EXPORTED = _each(lambda case: _like_others(case) or _exported_like_others(case))  # the same, of every graph
QUICK = [BY_NAME[name] for name, *_ in (each.values for each in EXPORTED if not each.marks)]
