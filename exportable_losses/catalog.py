"""The catalog: one entry per row, first the rows of SpeechBrain's page, then the others.

The command line, the exporter, the tests, the benchmarks and the tables in docs/ walk it. Nothing
lists the rows a second time.

Examples:
    >>> from exportable_losses import catalog
    >>> entry = catalog.get("l1_loss")
    >>> entry.module(reduction="batch")(**entry.example_inputs(B=2)).shape
    torch.Size([2])
"""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from . import (
    accuracy,
    autoencoder,
    classification,
    contrastive,
    distillation,
    edits,
    margin,
    masking,
    regression,
    separation,
    sharpness,
    verification,
)
from .contract import Contract, Input
from .lattice import (
    align,
    ctc,
    ctc_align,
    decode,
    durations,
    fused,
    hybrid,
    keyword,
    linear,
    posterior,
    pruned,
    simple,
    streaming,
    sums,
    transducer,
)
from .legal import blanks
from .lengths import frame_mask
from .settings import parameters_of
from .settings import settings_of as settings_of

# The sizes of an example where none is given: large enough that no size is 1, no two that may
# differ are equal, and a label sequence can be aligned. N (frames of the targets) follows T.
_SIZES = {"B": 3, "T": 14, "C": 7, "S": 4, "U": 5, "V": 8, "E": 2, "H": 13, "W": 9, "L": 11, "Z": 6, "X0": 5}
_SIZES |= {"P": 10, "Q": 15, "K": 16, "R": 6}


@dataclass(frozen=True)
class Entry:
    """One row.

    Args:
        name: SpeechBrain's name; the name of the module if SpeechBrain has no such row.
        type: the class of the module.
        contract: the inputs and outputs.
        given: the settings of the module that it was `fitted` to, of those that say what the inputs are.
    """

    name: str
    type: type[nn.Module]
    contract: Contract
    given: Mapping[str, Any] = field(default_factory=dict)

    def fitted(self, settings: Mapping[str, Any]) -> "Entry":
        """The entry with the contract of a module that has these settings."""
        given = {name: settings[name] for name in ("durations", "big_blank_durations") if name in settings}
        return replace(self, contract=self.contract.fitted(given), given=given) if given else self

    def module(self, **settings: Any) -> nn.Module:
        """The module; every setting has a default."""
        return self.type(**settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The names of the module's settings with their defaults."""
        return {p.name: p.default for p in parameters_of(self.type)}

    @property
    def documentation(self) -> str:
        """The docstring of the module, or of the function that the module wraps."""
        text = inspect.getdoc(self.type) or ""
        if text.startswith("`"):
            function = getattr(inspect.getmodule(self.type), text.split("`")[1])
            text = inspect.getdoc(function) or ""
        return text

    @property
    def summary(self) -> str:
        """The first sentence of the documentation."""
        first = self.documentation.partition("\n\n")[0].replace("\n", " ")
        return first.partition(". ")[0].rstrip(".") + "."

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs in the order of `forward`."""
        return self.contract.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return self.contract.outputs

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The inputs that have a gradient."""
        return self.contract.differentiable

    def example_inputs(
        self, seed: int = 0, *, blank_index: int | None = None, absolute: bool = False, **sizes: int | None
    ) -> dict[str, Tensor]:
        """Random valid inputs of any size.

        Args:
            seed: the same seed gives the same tensors.
            blank_index: the class that no label has, the module's default if it is None; the number of
                classes grows to include it.
            absolute: whether lengths are integers, in frames or labels, where they count one size.
            sizes: by letter (``B=2, T=100``); None drops an optional dimension (``T=None``).

        Raises:
            ValueError: a letter that the row does not have.
        """
        chosen: dict[str, int | None] = {**_SIZES, "N": sizes.get("T", _SIZES["T"]), **sizes}
        letters = {term.partition("+")[0] for entry in self.inputs for term in _terms(entry, {})}
        unknown = sorted(set(sizes) - letters)
        if unknown:
            known = ", ".join(sorted(letters))
            raise ValueError(f"sizes: got one for {', '.join(unknown)}, expected some of {known}")
        for entry in self.inputs:
            if entry.legal == "index" and entry.lengths and entry.below not in sizes:
                every = self._blanks(blank_index)
                chosen[entry.below] = max(chosen[entry.below] or 0, every.stop, len(every) + 1)
        chosen = self._possible(chosen)
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for entry in self.inputs:
            shape = [_size(term, chosen) for term in _terms(entry, chosen)]
            values = _random(entry, shape, chosen, self._blanks(blank_index), generator)
            counted = {chosen[letter] for letter in entry.of.split() if absolute}
            of_one_size = len(counted) == 1 and None not in counted
            drawn[entry.name] = _absolute(entry, values, chosen) if of_one_size else values
        return drawn

    def _possible(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """`sizes`, with ranges that are no wider than there are numbers of labels."""
        ranged = any(entry.legal == "range" for entry in self.inputs)
        return {**sizes, "R": min(sizes["R"], sizes["U"] + 1)} if ranged and "R" in sizes else {**sizes}

    def _blanks(self, blank_index: int | None) -> range:
        known = {"blank_index": 0, **self.settings, **self.given}
        return blanks(known if blank_index is None else {**known, "blank_index": blank_index})

    def example_as(
        self,
        like: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        seed: int = 0,
        *,
        blank_index: int | None = None,
    ) -> dict[str, Tensor]:
        """Random valid inputs with the names, ranks and dtypes of `like`.

        Args:
            like: some of the inputs, by name.
            sizes: one for each letter in their dimensions.
            seed: the same seed gives the same tensors.
            blank_index: the class that no label has, the module's default if it is None.
        """
        sizes = self._possible(sizes)
        letters = self.contract.letters({name: tensor.dim() for name, tensor in like.items()})
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for entry in (entry for entry in self.inputs if entry.name in like):
            shape = [_size(term, sizes) for term in letters[entry.name]]
            values = _random(entry, shape, sizes, self._blanks(blank_index), generator)
            dtype = like[entry.name].dtype
            if values.is_floating_point() and not dtype.is_floating_point:
                samples = (100 * values).round()  # as a file has them
                values = _absolute(entry, values, sizes) if entry.of else samples
            drawn[entry.name] = values.to(dtype)
        return drawn


def names() -> list[str]:
    """The names of all rows."""
    return list(_ENTRIES)


def get(name: str) -> Entry:
    """The entry with the name of a row or of its module.

    Raises:
        KeyError: there is none; the message lists the rows.

    Examples:
        >>> get("CTCLoss") is get("ctc_loss")
        True
    """
    found = _ENTRIES.get(name) or _by_module().get(name)
    if found is None:
        raise KeyError(f"no row {name!r}, expected one of {', '.join(_ENTRIES)}")
    return found


@cache
def _by_module() -> dict[str, Entry]:
    return {entry.type.__name__: entry for entry in _ENTRIES.values()}


def find(module: nn.Module) -> Entry | None:
    """The entry of a module, fitted to its settings, or None."""
    found = next((entry for entry in _ENTRIES.values() if type(module) is entry.type), None)
    return found and found.fitted(settings_of(module))


@cache
def classes() -> dict[str, type]:
    """The public classes of `exportable_losses`, by name."""
    families = dict.fromkeys(sys.modules[entry.type.__module__] for entry in _ENTRIES.values())
    return {name: getattr(family, name) for family in families for name in family.__all__}


def _terms(entry: Input, chosen: dict[str, int | None]) -> list[str]:
    """The dimensions of an example: optional ones where they have a size, one for ``*``."""
    terms = ["X0" if term == "*" else term for term in entry.dims.split()]
    return [t.rstrip("?") for t in terms if not (t.endswith("?") and chosen.get(t[:-1], 1) is None)]


def _size(term: str, chosen: Mapping[str, int | None]) -> int:
    letter, _, more = term.partition("+")
    size = int(letter) if letter.isdigit() else chosen[letter]
    if size is None:
        raise ValueError(f"{letter}: got None, expected a size; the dimension is not optional")
    return size + int(more or 0)


def _random(
    entry: Input,
    shape: list[int],
    chosen: Mapping[str, int | None],
    blanks: range,
    generator: torch.Generator,
) -> Tensor:
    kind = entry.legal
    if kind == "index":
        classes = _size(entry.below, chosen)
        if entry.lengths:  # labels of a lattice: anything but a blank
            if classes <= len(blanks):
                raise ValueError(f"{entry.below}: got {classes}, expected more than the {len(blanks)} blanks")
            return (torch.randint(classes - len(blanks), shape, generator=generator) + blanks.stop) % classes
        return torch.randint(classes, shape, generator=generator)
    if kind == "range":
        first = torch.arange(shape[1]) * (_size(entry.below, chosen) + 1 - shape[2]) // max(shape[1] - 1, 1)
        return (first.unsqueeze(1) + torch.arange(shape[2])).repeat(shape[0], 1, 1)
    if kind == "token":  # of few kinds, so that some are equal
        return torch.randint(4, shape, generator=generator)
    if kind == "count":
        return torch.randint(1, _size(entry.below, chosen) + 1, shape, generator=generator)
    if kind.startswith("relative_length"):
        return _lengths(shape[0], generator)
    if kind == "mask":
        mask = frame_mask(_lengths(shape[0], generator), shape[1]).reshape(
            *shape[:2], *(1 for _ in shape[2:])
        )
        return mask.float().expand(shape).clone()
    if kind in ("binary", "one_hot"):
        classes = shape[-1] if kind == "one_hot" else 2
        drawn = torch.randint(classes, shape[:-1] if kind == "one_hot" else shape, generator=generator)
        return torch.eye(classes)[drawn] if kind == "one_hot" else drawn.float()
    if kind == "cosine":
        return 1.8 * torch.rand(shape, generator=generator) - 0.9
    if kind == "position":
        return 10 * torch.rand(shape, generator=generator)
    normal = torch.randn(shape, generator=generator)
    if kind == "log_probability":
        return normal.log_softmax(-1)
    return normal.softmax(-1) if kind == "probability" else normal


def _lengths(batch: int, generator: torch.Generator) -> Tensor:
    """Relative lengths of a padded batch: the longest is 1, the others at least half of it."""
    lengths = 0.5 + 0.5 * torch.rand(batch, generator=generator)
    lengths[:1] = 1.0
    return lengths


def _absolute(entry: Input, lengths: Tensor, sizes: Mapping[str, int | None]) -> Tensor:
    """Relative lengths as integers of what they count."""
    return (lengths * min(_size(letter, sizes) for letter in entry.of.split())).round().long()


_ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        # of SpeechBrain's page, under its names
        Entry("l1_loss", regression.L1Loss, regression.PAIR),
        Entry("mse_loss", regression.MSELoss, regression.PAIR),
        Entry("classification_error", classification.ClassificationError, classification.ERROR),
        Entry("nll_loss", classification.NLLLoss, classification.LOG_PROBABILITIES),
        Entry("bce_loss", classification.BCEWithLogitsLoss, classification.BINARY),
        Entry("kldiv_loss", classification.KLDivLoss, classification.DIVERGENCE),
        Entry("distance_diff_loss", regression.DistanceDiffLoss, regression.DISTANCE),
        Entry("ctc_loss", ctc.CTCLoss, ctc.CTC),
        Entry("transducer_loss", transducer.TransducerLoss, transducer.TRANSDUCER),
        Entry("ctc_loss_kd", distillation.CTCDistillationLoss, distillation.CTC_KD),
        Entry("ce_kd", distillation.CrossEntropyDistillationLoss, distillation.CE_KD),
        Entry("nll_loss_kd", distillation.NLLDistillationLoss, distillation.NLL_KD),
        Entry("PitWrapper", separation.PITLoss, separation.PIT),
        Entry("get_si_snr_with_pitwrapper", separation.PITSISNRLoss, separation.PIT_SI_SNR),
        Entry("get_snr_with_pitwrapper", separation.PITSNRLoss, separation.PIT_SNR),
        Entry("cal_si_snr", separation.SISNRLoss, separation.RATIO),
        Entry("cal_snr", separation.SNRLoss, separation.RATIO),
        Entry("AngularMargin", margin.AngularMargin, margin.MARGIN),
        Entry("AdditiveAngularMargin", margin.AdditiveAngularMargin, margin.MARGIN),
        Entry("LogSoftmaxWrapper", margin.LogSoftmaxWrapper, margin.SOFTMAX),
        Entry("ContrastiveLoss", contrastive.ContrastiveLoss, contrastive.CONTRASTIVE),
        Entry("AutoencoderLoss", autoencoder.AutoencoderLoss, autoencoder.AUTOENCODER),
        Entry("VariationalAutoencoderLoss", autoencoder.VariationalAutoencoderLoss, autoencoder.VARIATIONAL),
        Entry("Laplacian", sharpness.Laplacian, sharpness.LAPLACIAN),
        Entry("LaplacianVarianceLoss", sharpness.LaplacianVarianceLoss, sharpness.VARIANCE),
        Entry("truncate", masking.Truncate, masking.TRUNCATE),
        Entry("compute_masked_loss", masking.MaskedLoss, masking.MASKED_LOSS),
        Entry("compute_length_mask", masking.LengthMask, masking.LENGTH_MASK),
        Entry("reduce_loss", masking.ReduceLoss, masking.REDUCE_LOSS),
        Entry("get_mask", masking.SourceMask, masking.SOURCE_MASK),
        # not of that page, under the names of their modules
        Entry("Accuracy", accuracy.Accuracy, accuracy.ACCURACY),
        Entry("ExpectedCalibrationError", accuracy.ExpectedCalibrationError, accuracy.CALIBRATION),
        Entry("Perplexity", accuracy.Perplexity, accuracy.PERPLEXITY),
        Entry("EqualErrorRate", verification.EqualErrorRate, verification.EER),
        Entry("MinDCF", verification.MinDCF, verification.MIN_DCF),
        Entry("SDR", separation.SDR, separation.SDR_PIT),
        Entry("SISNRImprovement", separation.SISNRImprovement, separation.IMPROVEMENT),
        Entry("CTCGreedyDecode", decode.CTCGreedyDecode, decode.DECODE),
        Entry("CTCPosterior", posterior.CTCPosterior, posterior.CTC_POSTERIOR),
        Entry("CTCForwardChunk", streaming.CTCForwardChunk, streaming.CHUNK),
        Entry("CTCAlign", ctc_align.CTCAlign, ctc_align.CTC_ALIGN),
        Entry("CTCKeywordScore", keyword.CTCKeywordScore, keyword.KEYWORD),
        Entry("TransducerPosterior", posterior.TransducerPosterior, posterior.TRANSDUCER_POSTERIOR),
        Entry("TransducerAlign", align.TransducerAlign, align.TRANSDUCER_ALIGN),
        Entry("TDTLoss", durations.TDTLoss, durations.TDT),
        Entry("TDTPosterior", posterior.TDTPosterior, posterior.TDT_POSTERIOR),
        Entry("TDTAlign", align.TDTAlign, align.TDT_ALIGN),
        Entry("MultiBlankTransducerLoss", durations.MultiBlankTransducerLoss, transducer.TRANSDUCER),
        Entry(
            "MultiBlankTransducerPosterior",
            posterior.MultiBlankTransducerPosterior,
            posterior.TRANSDUCER_POSTERIOR,
        ),
        Entry("MultiBlankTransducerAlign", align.MultiBlankTransducerAlign, align.TRANSDUCER_ALIGN),
        Entry("HATLoss", hybrid.HATLoss, transducer.TRANSDUCER),
        Entry("HATPosterior", posterior.HATPosterior, posterior.TRANSDUCER_POSTERIOR),
        Entry("HATAlign", align.HATAlign, align.TRANSDUCER_ALIGN),
        Entry("SimpleTransducerLoss", simple.SimpleTransducerLoss, sums.SIMPLE),
        Entry("SimpleTransducerPosterior", posterior.SimpleTransducerPosterior, posterior.SIMPLE_POSTERIOR),
        Entry("SimpleTransducerAlign", align.SimpleTransducerAlign, align.SIMPLE_ALIGN),
        Entry("PruneRanges", simple.PruneRanges, simple.RANGES),
        Entry("PrunedTransducerLoss", pruned.PrunedTransducerLoss, pruned.PRUNED),
        Entry("PrunedTransducerPosterior", posterior.PrunedTransducerPosterior, posterior.PRUNED_POSTERIOR),
        Entry("PrunedTransducerAlign", align.PrunedTransducerAlign, align.PRUNED_ALIGN),
        Entry("FusedTransducerLoss", fused.FusedTransducerLoss, fused.FUSED),
        Entry("LinearCTCLoss", linear.LinearCTCLoss, linear.LINEAR_CTC),
        Entry("LinearCTCAlign", linear.LinearCTCAlign, linear.LINEAR_ALIGN),
        Entry("LinearCTCGreedyDecode", linear.LinearCTCGreedyDecode, linear.LINEAR_DECODE),
        Entry("TransducerForwardChunk", streaming.TransducerForwardChunk, streaming.TRANSDUCER_CHUNK),
        Entry("EditDistance", edits.EditDistance, edits.EDITS),
        Entry("TokenErrorRate", edits.TokenErrorRate, edits.RATE),
    )
}
