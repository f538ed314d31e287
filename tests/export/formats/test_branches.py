"""Branches on data that only raise are passed; those that go on both ways are refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
import torch
from asking import answers
from export_cases import Inputs
from onnx_runs import as_arrays, onnx_runtime
from torch import Tensor, nn
from torch.nn import functional as F

from exportable_losses.export import to_onnx


def raises(v: Any) -> None:
    if v > 3:
        raise ValueError


def raises_unless(v: Any) -> None:
    if not v:
        raise ValueError(f"got {v!s:.5}")


def asserts(v: Any) -> None:
    assert v > 3, "a message"


def raises_after_more(v: Any) -> None:
    if v is not None and not v > 3:
        message = "got it"
        print(message)
        raise ValueError(message)


def raises_either_way(v: Any) -> None:
    if v > 3 or not v:
        raise ValueError


def raises_elsewhere(v: Any) -> int:
    if v is None:
        return 1
    elif v:
        raise ValueError
    else:
        return 2


def returns_or_raises(v: Any) -> int:
    if v:
        return 1
    raise ValueError


def raises_in_a_loop(v: Any) -> None:
    for _ in range(2):
        if not v:
            raise ValueError
        print(end="")


def raises_one_or_another(v: Any) -> int:
    if v > 3:
        if v:
            raise ValueError
        raise TypeError([x + 1 for x in (1, 2)])
    return 1


def chooses(v: Any) -> int:
    return 1 if v else 2


def assigns(v: Any) -> int:
    x = 1
    if v:
        x = 2
    return x


def repeats(v: Any) -> None:
    while v:
        pass


def prints(v: Any) -> None:
    if v:
        print("so")


def raises_perhaps(v: Any) -> int:
    if v:
        try:
            return int("three")
        except ValueError:
            return 3
    return 1


def is_asked_by_another(v: Any) -> None:
    if bool(v):
        raise ValueError


def stands_in_a_value(v: Any) -> Any:
    return v and 3


PASSED: dict[Callable[..., Any], list[bool]] = {
    raises: [False],
    raises_unless: [True],
    asserts: [True],
    raises_after_more: [True],
    raises_either_way: [False, True],
    raises_elsewhere: [False],
    returns_or_raises: [True],
    raises_in_a_loop: [True, True],
    raises_one_or_another: [False],
}
OPEN = (chooses, assigns, repeats, prints, raises_perhaps, is_asked_by_another, stands_in_a_value)


@pytest.mark.parametrize("function", PASSED)
def test_with_what_a_branch_is_passed(function: Callable[..., Any]) -> None:
    assert answers(function) == PASSED[function]


@pytest.mark.parametrize("function", OPEN)
def test_what_goes_on_both_ways_has_no_answer(function: Callable[..., Any]) -> None:
    assert answers(function) == [None]


class Recogniser(nn.Module):
    """What those of transformers do with `labels`: check, select, lose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.lm_head = nn.Linear(8, 5)

    def forward(self, x: Tensor, mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if labels is not None and labels.max() >= 5:
            raise ValueError("Label values must be <= vocab_size: 5")
        frames = mask.sum(-1)
        if frames.max().item() > x.shape[1] or not (frames > 0).all():
            message = f"got {frames.shape[0]} items with other lengths"
            raise ValueError(message)
        assert mask[:, :1].all(), "expected padding on the right"
        hidden = self.encoder(x.masked_fill(~mask.unsqueeze(-1), 0), src_key_padding_mask=~mask)
        logits = self.lm_head(hidden)
        assert labels is not None
        wanted = labels >= 0
        targets = labels.masked_select(wanted)
        log_probs = logits.log_softmax(-1).transpose(0, 1)
        loss = F.ctc_loss(log_probs, targets, frames, wanted.sum(-1), reduction="mean", zero_infinity=True)
        return {"loss": loss, "logits": logits}


def batch(items: int, frames: int, labels: int) -> Inputs:
    generator = torch.Generator().manual_seed(items)
    used = (frames - torch.arange(items) % 3).unsqueeze(1)
    number = (labels - torch.arange(items) % 2).unsqueeze(1)
    targets = torch.randint(1, 5, (items, labels), generator=generator)
    return {
        "x": torch.randn(items, frames, 8, generator=generator),
        "mask": torch.arange(frames) < used,
        "labels": torch.where(torch.arange(labels) < number, targets, -100),
    }


def test_a_recogniser_that_checks_its_labels() -> None:
    module, weights = Recogniser().eval(), ["lm_head.weight", "lm_head.bias"]
    path = exports.onnx(module, batch(2, 9, 3), weights)
    held = {name: module.get_parameter(name).detach() for name in weights}
    exact = copy.deepcopy(module).double()
    for sizes in ((2, 9, 3), (1, 14, 2), (5, 30, 7), (3, 5, 1)):
        inputs = batch(*sizes)
        outputs = exact(**{**inputs, "x": inputs["x"].double()})
        gradients = torch.autograd.grad(outputs["loss"], [exact.get_parameter(name) for name in weights])
        expected = {**outputs, **{f"grad_{n}": g for n, g in zip(weights, gradients, strict=True)}}
        got = onnx_runtime(path)(inputs | held)
        for name, value in as_arrays(expected).items():
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5 * max(1, np.abs(value).max()))


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 3:
            return x.sum()
        return x.exp().sum()


class Catches(nn.Module):
    """An error decides here about what is computed, wherever it is raised."""

    def check(self, x: Tensor) -> None:
        if x.max() > 3:
            raise ValueError("too large")

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.check(x)
        except ValueError:
            return x.clamp(max=3).sum()
        return x.sum()


@pytest.mark.parametrize("module", [Chooses(), Catches()])
def test_what_decides_is_refused(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not export: Could not guard on data-dependent expression"):
        to_onnx(module, tmp_path / "x.onnx", {"x": torch.ones(2, 3)})
    assert not list(tmp_path.iterdir())
    assert "__bool__" not in vars(torch.Tensor)  # as it was
    assert bool(torch.ones(1))


def test_an_example_that_does_not_pass(tmp_path: Path) -> None:
    inputs = batch(2, 9, 3)
    inputs["labels"][0, 0] = 7
    with pytest.raises(ValueError, match="Label values must be <= vocab_size: 5"):
        to_onnx(Recogniser(), tmp_path / "x.onnx", inputs)


class Transformer(nn.Module):
    """A recogniser of transformers: random weights, few of them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import transformers

        torch.manual_seed(0)
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        small |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 5}
        convolutions = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
        config = getattr(transformers, f"{name}Config")(
            **small,
            **convolutions,
            num_feat_extract_layers=2,
            ctc_zero_infinity=True,
            ctc_loss_reduction="mean",
        )
        self.model = getattr(transformers, f"{name}ForCTC")(config)

    def forward(self, x: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return self.model(input_values=x, attention_mask=mask.long(), labels=labels).loss


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["Wav2Vec2", "Hubert", "WavLM"])
def test_recognisers_of_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
    module, weights = Transformer(name).eval(), ["model.lm_head.weight", "model.lm_head.bias"]

    def sound(items: int, samples: int, labels: int) -> Inputs:
        return {**batch(items, samples, labels), "x": torch.randn(items, samples)}

    to_onnx(module, tmp_path / "x.onnx", sound(2, 400, 3), gradients=weights)
    held = {name: module.get_parameter(name).detach() for name in weights}
    exact = copy.deepcopy(module).double()
    for sizes in ((2, 400, 3), (1, 300, 2), (5, 800, 7), (3, 523, 6)):
        inputs = sound(*sizes)
        loss = exact(**{**inputs, "x": inputs["x"].double()})
        gradients = torch.autograd.grad(loss, [exact.get_parameter(name) for name in weights])
        expected = {"loss": loss, **{f"grad_{n}": g for n, g in zip(weights, gradients, strict=True)}}
        got = onnx_runtime(tmp_path / "x.onnx")(inputs | held)
        for key, value in as_arrays(expected).items():
            np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-5 * max(1, np.abs(value).max()))
