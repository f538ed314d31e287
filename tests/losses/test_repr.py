"""`repr` of a module says what it was made with."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import exportable_losses as el
from exportable_losses import catalog, speechbrain

OTHERS = {  # than the defaults: tensors, modules
    "nll_loss": {"weight": torch.ones(7)},
    "bce_loss": {"weight": torch.ones(7), "pos_weight": torch.ones(2, 7)},
    "PitWrapper": {"base_loss": nn.MSELoss(reduction="none")},
    "LogSoftmaxWrapper": {"loss_fn": el.AdditiveAngularMargin(margin=0.2, scale=5.0)},
}
CASES = [*((row, {}) for row in catalog.names()), *OTHERS.items()]
ALONE = [row for row in catalog.names() if not list(catalog.get(row).module().children())]


@pytest.mark.parametrize(("row", "settings"), CASES)
def test_it_names_every_setting(row: str, settings: dict[str, Any]) -> None:
    entry = catalog.get(row)
    shown = repr(entry.module(**settings))
    assert shown.startswith(f"{entry.type.__name__}(")
    for name, value in {**entry.settings, **settings}.items():
        if isinstance(value, torch.Tensor):
            assert f"{name}=<tensor {list(value.shape)}>" in shown
        elif f"({name}): " in shown:  # a module: on a line of its own, by torch
            assert value is None or f"({name}): {value}" in shown
        else:
            assert f"{name}={value!r}" in shown


@pytest.mark.parametrize("row", ALONE)
def test_python_reads_it_back(row: str) -> None:
    module = catalog.get(row).module()
    again = eval(repr(module), {type(module).__name__: type(module), "torch": torch})
    assert type(again) is type(module)
    assert catalog.settings_of(again) == catalog.settings_of(module)


def test_it_is_what_was_given() -> None:
    shown = "CTCLoss(blank_index=3, reduction='mean', zero_infinity=True, wildcard='none', log_priors=None)"
    assert repr(el.CTCLoss(3)) == shown
    assert repr(el.EditDistance()) == "EditDistance()"
    assert repr(el.PITLoss()) == "PITLoss(base_loss=None)"
    margin = el.AdditiveAngularMargin(margin=0.2, scale=5.0)
    assert repr(el.LogSoftmaxWrapper(margin)).splitlines() == [
        "LogSoftmaxWrapper(",
        "  (loss_fn): AdditiveAngularMargin(margin=0.2, scale=5.0, easy_margin=False)",
        ")",
    ]


@pytest.mark.parametrize(("row", "settings"), CASES)
def test_copies_say_the_same(row: str, settings: dict[str, Any]) -> None:
    module = catalog.get(row).module(**settings)
    assert repr(copy.deepcopy(module)) == repr(module)
    assert repr(pickle.loads(pickle.dumps(module))) == repr(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert repr(torch.load(file, weights_only=False)) == repr(module)


def test_a_subclass_may_have_arguments_of_its_own() -> None:
    class OfVocabulary(el.CTCLoss):
        def __init__(self, tokens: list[str], reduction: str = "mean") -> None:
            super().__init__(tokens.index("<blk>"), reduction)

    assert repr(OfVocabulary(["a", "<blk>"])) == "OfVocabulary(reduction='mean')"


def test_a_row_under_its_name_in_the_drop_in() -> None:
    module = speechbrain.PitWrapper(nn.MSELoss(reduction="none"))
    assert repr(module).splitlines() == ["PitWrapper(", "  (base_loss): MSELoss()", ")"]
