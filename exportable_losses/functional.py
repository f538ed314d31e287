"""The losses as functions: those of SpeechBrain under its names, argument names and defaults, and ours.

`prune` and `simple_loss_and_ranges` have no module: they are what a recipe with a pruned transducer calls.
"""

from .classification import bce_loss, classification_error, kldiv_loss, nll_loss
from .distillation import ce_kd, ctc_loss_kd, nll_loss_kd
from .lattice.ctc import ctc_loss
from .lattice.durations import multi_blank_transducer_loss, tdt_loss
from .lattice.fused import fused_transducer_loss
from .lattice.hybrid import hat_loss
from .lattice.linear import linear_ctc_loss
from .lattice.pruned import prune, pruned_transducer_loss
from .lattice.simple import prune_ranges, simple_loss_and_ranges, simple_transducer_loss
from .lattice.transducer import transducer_loss
from .masking import compute_length_mask, compute_masked_loss, get_mask, reduce_loss, truncate
from .regression import distance_diff_loss, l1_loss, mse_loss
from .separation import cal_si_snr, cal_snr, get_si_snr_with_pitwrapper, get_snr_with_pitwrapper

__all__ = [
    "bce_loss",
    "cal_si_snr",
    "cal_snr",
    "ce_kd",
    "classification_error",
    "compute_length_mask",
    "compute_masked_loss",
    "ctc_loss",
    "ctc_loss_kd",
    "distance_diff_loss",
    "fused_transducer_loss",
    "get_mask",
    "get_si_snr_with_pitwrapper",
    "get_snr_with_pitwrapper",
    "hat_loss",
    "kldiv_loss",
    "l1_loss",
    "linear_ctc_loss",
    "mse_loss",
    "multi_blank_transducer_loss",
    "nll_loss",
    "nll_loss_kd",
    "prune",
    "prune_ranges",
    "pruned_transducer_loss",
    "reduce_loss",
    "simple_loss_and_ranges",
    "simple_transducer_loss",
    "tdt_loss",
    "transducer_loss",
    "truncate",
]
