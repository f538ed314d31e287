"""What an item of a corpus may be where a batch may not, and what it must be where a batch need not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from exportable_losses.legal import whole

from ..metadata import Loss


def counted_apart(loss: Loss) -> Loss:
    """`loss` for items one by one: one without anything to divide by counts in what is divided.

    A word that is heard in silence is an insertion, and the words of the corpus are what it is divided by.
    """
    ratios = any(total.kind == "ratio" for total in loss.contract.totals)
    if not ratios:
        return loss
    inputs = tuple(replace(entry, nonempty=False) for entry in loss.contract.inputs)
    return replace(loss, contract=replace(loss.contract, inputs=inputs))


def refuse_unaligned(loss: Loss, feed: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> None:
    """Refuse an item whose target cannot be aligned, which `zero_infinity` lets cost nothing.

    In training it is to be passed over. In a corpus it would be the best item of all.

    Args:
        loss: of the graph.
        feed: what went into it.
        values: what came of it, an item a row.

    Raises:
        ValueError: there is such an item.
    """
    names = [loss.names.get(name) for name in ("log_probs", "targets", "input_lens", "target_lens")]
    if not loss.settings.get("zero_infinity") or None in names:
        return
    log_probs, targets, frames, labels = (feed[name] for name in names if name is not None)
    frames, labels = whole(frames, log_probs.shape[1]), whole(labels, targets.shape[1])
    for row in np.flatnonzero(values[loss.outputs["loss"]] == 0):
        of, target = log_probs[row, : frames[row]], targets[row, : labels[row]]
        if not _aligns(of, target, loss.settings["blank_index"]):
            got = f"{names[1]}: got {len(target)} labels for {len(of)} frames"
            raise ValueError(f"{got}, expected a target that can be aligned")


def _aligns(log_probs: np.ndarray, target: np.ndarray, blank: int) -> bool:
    """Whether some path of CTC's lattice has a probability.

    Its states are a blank, the first label, a blank and so on. A path stays, takes a step, or skips the blank
    between two labels that differ; it begins on the first blank before the first frame, and ends at the last.
    """
    states = np.full(2 * len(target) + 1, blank)
    states[1::2] = target
    skips = states[2:] != states[:-2]

    def stepped(reached: np.ndarray) -> np.ndarray:
        found = reached.copy()
        found[1:] |= reached[:-1]
        found[2:] |= reached[:-2] & skips
        return found

    reached = np.arange(len(states)) == 0
    for frame in log_probs:
        reached = stepped(reached) & (frame[states] > -np.inf)
    return bool(stepped(reached)[-1])
