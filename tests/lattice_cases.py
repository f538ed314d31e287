"""What fast_rnnt, NeMo, transformers and warprnnt-numba gave for transducers, as calls of our losses.

``data/lattices/NAME.json`` has the calls and the conventions of each peer, ``NAME.npz`` their arrays.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DATA = Path(__file__).parent / "data" / "lattices"
PEERS = ("fast_rnnt", "fast_rnnt_long", "fastemit", "hat", "nemo_cudasim", "nemo_pytorch", "transformers_tdt")
FLOATS = ("transformers_tdt", "nemo_cudasim")  # computed in float32 there


@dataclass
class Case:
    """A call of one of our losses, and what the peer gave for it."""

    name: str
    loss: str
    settings: dict[str, Any]
    inputs: dict[str, Tensor]
    output: Tensor
    gradients: dict[str, Tensor] = field(default_factory=dict)  # of the sum that `upstream` weights
    upstream: Tensor | None = None

    def __str__(self) -> str:
        return f"{self.loss}: {self.name}"

    @property
    def tolerance(self) -> float:
        return 2e-5 if self.name.startswith(FLOATS) else 1e-8


@cache
def cases() -> list[Case]:
    """All of them."""
    return [case for peer in PEERS for case in _of(peer)]


def _of(peer: str) -> Iterator[Case]:
    read = {
        **dict.fromkeys(("fast_rnnt", "fast_rnnt_long"), _fast_rnnt),
        **dict.fromkeys(("nemo_cudasim", "nemo_pytorch", "transformers_tdt"), _tokens_with_durations),
        **dict.fromkeys(("fastemit", "hat"), _one_softmax),
    }[peer]
    calls = json.loads((_DATA / f"{peer}.json").read_text())["cases"]
    with np.load(_DATA / f"{peer}.npz") as arrays:
        for call in calls:
            x, out = (
                {name: torch.from_numpy(arrays[key]) for name, key in call[kind].items()}
                for kind in ("inputs", "outputs")
            )
            x = {k: v.double() if v.is_floating_point() else v for k, v in x.items()}
            for case in read(f"{peer} {call['name']}", call, x, out):
                if "no legal path" in call["notes"]:  # a gradient of their floor, where ours is of nothing
                    case.gradients = {}
                yield case


def _fast_rnnt(name: str, call: Any, x: dict[str, Tensor], out: dict[str, Tensor]) -> Iterator[Case]:
    said, function = call["settings"], call["function"]
    if "symbols" not in x or said.get("am_only_scale"):  # theirs averages over the batch, and its padding
        return
    scores = x.get("logits", x.get("am"))
    assert scores is not None
    boundary = x.get("boundary")
    batch = len(scores)
    frames, labels = torch.full((batch,), scores.shape[1]), torch.full((batch,), x["symbols"].shape[1])
    if boundary is not None:
        if boundary[:, :2].any():  # we have no item that begins later
            return
        frames, labels = boundary[:, 3], boundary[:, 2]
    rest = {"targets": x["symbols"], "input_lens": frames, "target_lens": labels}
    own = {"blank_index": said.get("termination_symbol", 0), "topology": said.get("rnnt_type", "regular")}
    own["delay_penalty"] = said.get("delay_penalty", 0.0)
    simple = {**own, "lm_only_scale": said.get("lm_only_scale", 0.0)}
    up = x.get("upstream")
    if "logits" in x:
        yield Case(
            name,
            "TransducerLoss",
            own,
            {"logits": x["logits"], **rest},
            out["cost"],
            _grads(out, "logits"),
            up,
        )
        return
    joint = {"am": x["am"], "lm": x["lm"], **rest}
    chain = "ranges" in out and "->" in function
    if "pruned" not in function or chain:
        yield Case(name, "SimpleTransducerLoss", simple, joint, out["cost"], _grads(out, "am", "lm"), up)
    if chain:
        yield Case(name, "PruneRanges", {"prune_range": said["s_range"], **simple}, joint, out["ranges"])
    ranges = out.get("ranges", x.get("ranges"))
    if ranges is not None:
        before = "pruned_" if chain else ""
        given = {**joint, "ranges": ranges}
        grads = {k: out[f"{before}grad_{k}"] for k in ("am", "lm") if f"{before}grad_{k}" in out}
        yield Case(name, "PrunedTransducerLoss", own, given, out[f"{before}cost"], grads, up)


def _one_softmax(name: str, call: Any, x: dict[str, Tensor], out: dict[str, Tensor]) -> Iterator[Case]:
    said = call["settings"]
    if said.get("clamp", -1) > 0:
        return
    emphasis = said.get("fastemit_lambda")
    theirs = (
        ("logits", "logit_lengths", "label_lengths")
        if emphasis is None
        else ("acts", "act_lens", "label_lens")
    )
    ours = ("logits", "input_lens", "target_lens")
    given = {our: x[their] for our, their in zip(ours, theirs, strict=True)} | {"targets": x["labels"]}
    grads = {"logits": out[f"grad_{theirs[0]}"]}
    settings = {"blank_index": said["blank"]}
    if emphasis is None:
        yield Case(name, "HATLoss", settings, given, out["cost"], grads, x.get("upstream"))
    else:  # their cost is 1 + lambda times ours
        cost = out["cost"] / (1 + emphasis)
        settings["fastemit_lambda"] = emphasis
        yield Case(name, "TransducerLoss", settings, given, cost, grads, x.get("upstream"))


def _tokens_with_durations(
    name: str, call: Any, x: dict[str, Tensor], out: dict[str, Tensor]
) -> Iterator[Case]:
    said = call["settings"]
    took_another = said.get("took", "tdt") != "tdt" and "multiblank" not in call["function"]
    if said.get("clamp", 0) > 0 or said.get("reduction", "none") != "none" or took_another:
        return
    settings = {"blank_index": said.get("blank", said.get("blank_token_id"))}
    settings |= {k: said[k] for k in ("sigma", "fastemit_lambda") if k in said}
    for setting in ("durations", "big_blank_durations"):
        if setting in said:
            settings[setting] = tuple(said[setting])
    loss = {"durations": "TDTLoss", "big_blank_durations": "MultiBlankTransducerLoss"}
    kind = next((loss[k] for k in loss if k in settings), "TransducerLoss")
    if kind == "TransducerLoss":
        settings.pop("sigma", None)
    token = next(n for n in ("acts", "acts_rnnt", "token_acts", "token_logits") if n in x)
    duration = next((n for n in ("duration_acts", "duration_logits") if n in x), None)
    logits = torch.cat([x[token], x[duration]], -1) if duration else x[token]
    names = ("logit_lengths", "target_lengths") if "logit_lengths" in x else ("act_lens", "label_lens")
    targets = x["targets"] if "targets" in x else x["labels"]
    given = {"logits": logits, "targets": targets, "input_lens": x[names[0]], "target_lens": x[names[1]]}
    grads = [out[f"grad_{n}"].double() for n in (token, duration) if n and f"grad_{n}" in out]
    if not grads and "grad_acts" in out:
        grads = [out["grad_acts"].double()]
    cost = out["cost"].double() / (1 + said.get("fastemit_lambda", 0.0))
    whole = {"logits": torch.cat(grads, -1)} if grads else {}
    yield Case(name, kind, settings, given, cost, whole, x.get("upstream"))


def _grads(out: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: out[f"grad_{name}"] for name in names if f"grad_{name}" in out}
