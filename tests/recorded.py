"""What SpeechBrain 1.1.2 and torchaudio 2.11 gave for 158 calls, and the same calls of this package.

``data/speechbrain.json`` names the calls, ``data/speechbrain.npz`` holds their inputs and outputs,
``data/speechbrain_gradients.npz`` the gradients of the sum of the first output.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from exportable_losses import catalog, functional, speechbrain

_DATA = Path(__file__).parent / "data"
_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "l1": lambda: nn.L1Loss(reduction="none"),
    "mse": lambda: nn.MSELoss(reduction="none"),
    "Identity": nn.Identity,
    "AngularMargin": speechbrain.AngularMargin,
    "AdditiveAngularMargin": speechbrain.AdditiveAngularMargin,
}

Outputs = tuple[Any, ...]


class Prediction(NamedTuple):
    """The output of SpeechBrain's variational autoencoder."""

    rec: Tensor
    latent: None
    mean: Tensor
    log_var: Tensor
    latent_sample: None = None
    latent_length: None = None


@dataclass(frozen=True)
class Recording:
    """One recorded call.

    Args:
        id: tells it from the others.
        name: the row.
        init: what the class was made with.
        kwargs: what was given beside tensors.
        inputs: the names of the tensors given.
        outputs: how many outputs came.
        grads: the inputs with a recorded gradient.
        note: what is special about it.
    """

    id: str
    name: str
    init: dict[str, Any]
    kwargs: dict[str, Any]
    inputs: list[str]
    outputs: int
    grads: list[str]
    note: str

    def tensors(self) -> dict[str, Tensor]:
        """The inputs, new ones with every call."""
        return {name: _array(f"{self.id}/in/{name}") for name in self.inputs}

    def expected(self) -> list[Tensor]:
        return [_array(f"{self.id}/out/{i}") for i in range(self.outputs)]

    def gradient(self, name: str) -> Tensor:
        return _array(f"{self.id}/grad/{name}", "speechbrain_gradients.npz")

    def module(self) -> nn.Module:
        """The catalog's module with the settings of the call."""
        entry = catalog.get(self.name)
        given = {**self.init, **self.kwargs}
        for name in ("loss_fn", "base_loss"):
            if name in given:
                arguments = {k: given.pop(k) for k in ("margin", "scale") if k in given}
                given[name] = _LOSSES[given[name]](**arguments)
        if "use_torchaudio" in given:
            given["normalize"] = not given.pop("use_torchaudio")
        if given.get("reduction", "") is None:
            del given["reduction"]
        return entry.module(**given, **{k: v for k, v in self.tensors().items() if k in entry.settings})

    def as_module(self, tensors: dict[str, Tensor]) -> Outputs:
        """The outputs of the catalog's module."""
        names = [entry.name for entry in catalog.get(self.name).inputs]
        return _as_tuple(self.module()(**{k: v for k, v in tensors.items() if k in names}))

    def as_function(self, tensors: dict[str, Tensor]) -> Outputs:
        """The outputs of the function in `exportable_losses.functional`."""
        return self._call(getattr(functional, self.name), tensors)

    def as_speechbrain(self, tensors: dict[str, Tensor]) -> Outputs:
        """The outputs of the drop-in, called as SpeechBrain is."""
        called = getattr(speechbrain, self.name)
        if not self.name[0].isupper():
            return self._call(called, tensors)
        if self.name == "LogSoftmaxWrapper":
            made = called(self.module().loss_fn)
        elif self.name == "PitWrapper":
            made = called(_LOSSES[self.init["base_loss"]]())
        else:
            made = called(**self.init)
        if "rec" in tensors:
            predicted = Prediction(tensors["rec"], None, tensors["mean"], tensors["log_var"])
            return made.details(predicted, tensors["targets"], tensors["length"], **self.kwargs)
        return _as_tuple(made(**tensors, **self.kwargs))

    def _call(self, function: Callable[..., Any], tensors: dict[str, Tensor]) -> Outputs:
        given = dict(self.kwargs)
        if "loss_fn" in given:
            given["loss_fn"] = _LOSSES[given["loss_fn"]]()
        if self.name == "ctc_loss_kd":
            given["device"] = "cpu"
        return _as_tuple(function(**tensors, **given))


def _as_tuple(outputs: Any) -> Outputs:
    return tuple(outputs) if isinstance(outputs, tuple) else (outputs,)


@cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(_DATA / file) as archive:
        return dict(archive)


def _array(key: str, file: str = "speechbrain.npz") -> Tensor:
    return torch.from_numpy(_arrays(file)[key].copy())


def recordings() -> list[Recording]:
    """All of them."""
    return [Recording(**case) for case in json.loads((_DATA / "speechbrain.json").read_text())["cases"]]
