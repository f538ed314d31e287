"""Gradients through the layers that speech models are made of: torch's, at sizes not exported."""

import copy
import math

import pytest
import torch
from export_cases import Inputs
from heads import Head, Heads, assert_gradients, number
from torch import Tensor, nn
from torch.nn import functional as F


def frames(items: int, frames: int, generator: torch.Generator) -> Inputs:
    return {"x": torch.randn(items, frames, 8, generator=generator)}


def picture(items: int, frames: int, generator: torch.Generator) -> Inputs:
    return {"x": torch.randn(items, 3, frames, frames + 2, generator=generator)}


def padded(items: int, frames: int, generator: torch.Generator) -> Inputs:
    lengths = frames - torch.arange(items) % 3 - 1
    x = torch.randn(items, frames, 8, generator=generator)
    return {"x": x, "padding": torch.arange(frames) >= lengths.unsqueeze(1)}


def labelled(items: int, frames: int, generator: torch.Generator) -> Inputs:
    x = torch.randn(items, frames, 8, generator=generator)
    return {"x": x, "i": torch.randint(6, (items, frames), generator=generator)}


def of_frames(layer: nn.Module) -> Head:
    return Head(layer, lambda layer, x: number(layer(x)), frames)


def over_time(layer: nn.Module) -> Head:
    return Head(layer, lambda layer, x: number(layer(x.transpose(1, 2))), frames)


def of_picture(layer: nn.Module) -> Head:
    return Head(layer, lambda layer, x: number(layer(x)), picture)


def recurrent(layer: nn.Module) -> Head:
    """The output, and the last states."""

    def call(layer: nn.Module, x: Tensor) -> Tensor:
        output, last = layer(x)
        last = last if isinstance(last, tuple) else (last,)
        return number(output) + sum(number((i + 2) * state) for i, state in enumerate(last))

    return Head(layer, call, frames)


def started(layer: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    return number(layer(x, h)[0])


def with_state(items: int, frames: int, generator: torch.Generator) -> Inputs:
    x = torch.randn(items, frames, 8, generator=generator)
    return {"x": x, "h": torch.randn(1, items, 5, generator=generator)}


def attend(layer: nn.Module, x: Tensor, **masks: Tensor | None) -> Tensor:
    return number(layer(x, x, x, need_weights=False, **masks)[0])


def causal(layer: nn.Module, x: Tensor) -> Tensor:
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return attend(layer, x, attn_mask=later)


def by_distance(layer: nn.Module, x: Tensor) -> Tensor:
    at = torch.arange(x.shape[1])
    return attend(layer, x, attn_mask=-(at.unsqueeze(1) - at).abs().to(x.dtype))


class WeightNormed(nn.Module):
    """That of `torch.nn.utils.parametrizations.weight_norm` along the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.empty(8, 4, 3)), nn.Parameter(torch.empty(1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, torch._weight_norm(self.v, self.g, 2), groups=2)


class RelativeAttention(nn.Module):
    """That of Transformer-XL, as Conformers have it: scores of content and of relative position."""

    def __init__(self) -> None:
        super().__init__()
        self.content, self.position = nn.Linear(8, 24), nn.Linear(8, 8, bias=False)
        self.u, self.v = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        items, frames, _ = x.shape
        q, k, v = (y.view(items, frames, 2, 4) for y in self.content(x).chunk(3, -1))
        phase = torch.arange(frames - 1, -frames, -1).unsqueeze(1) * torch.exp(
            torch.arange(0, 8, 2) * (-math.log(1e4) / 8)
        )
        p = self.position(torch.cat([phase.sin(), phase.cos()], -1).to(x.dtype)).view(1, -1, 2, 4)
        by_content = (q + self.u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        by_position = F.pad((q + self.v).transpose(1, 2) @ p.permute(0, 2, 3, 1), (1, 0))
        shifted = by_position.view(items, 2, -1, frames)[:, :, 1:].view(items, 2, frames, -1)[..., :frames]
        scores = ((by_content + shifted) / 2).softmax(-1)
        return (scores @ v.transpose(1, 2)).transpose(1, 2).reshape(items, frames, 8)


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        steps = [nn.LayerNorm(8), nn.Linear(8, 16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 8)]
        self.first, self.last = nn.Sequential(*steps), nn.Sequential(*copy.deepcopy(steps))
        self.attention = nn.Sequential(nn.LayerNorm(8), RelativeAttention())
        self.norm = nn.LayerNorm(8)
        depthwise = nn.Conv1d(8, 8, 5, padding=2, groups=8)
        self.convolution = nn.Sequential(
            nn.Conv1d(8, 16, 1), nn.GLU(1), depthwise, nn.BatchNorm1d(8), nn.SiLU(), nn.Conv1d(8, 8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x) / 2
        x = x + self.attention(x)
        x = x + self.convolution(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.last(x) / 2


def statistics(x: Tensor) -> Tensor:
    """What pooling over statistics takes."""
    parts = [x.mean(1), x.std(1), x.var(1, unbiased=False), x.amax(1), x.logsumexp(1), x.norm(dim=1)]
    return number(torch.cat(parts, -1)) + x.std()


def assigned(layer: nn.Module, x: Tensor, i: Tensor) -> Tensor:
    y = layer(x).clone()
    y[i > 2] = 2 * x[i > 2]
    y[:, 0] = x[:, 1]
    y[torch.arange(x.shape[0]), i[:, 0]] = x[:, 2]
    return number(y)


def indexed(x: Tensor, i: Tensor) -> Tensor:
    rows = torch.arange(x.shape[0]).unsqueeze(1)
    return number(x[rows, i]) + number(x[rows.int(), i.int()]) + number(x.index_select(1, i[0]))


def cut(x: Tensor) -> Tensor:
    windows = [x.unfold(1, 4, 2), x[:, 1::2], x.flip(1).roll(2, 1), x.repeat(1, 2, 1)]
    return torch.stack([number(y) for y in (*windows, *x.split(3, -1), x.repeat_interleave(2, 1))]).sum()


def plain(call: object, make: object = frames) -> Head:
    return Head(None, call, make)  # type: ignore[arg-type]


GROUPS: dict[str, dict[str, Head]] = {
    "convolution": {
        "strided": over_time(nn.Conv1d(8, 6, 3, stride=2, padding=1)),
        "depthwise": over_time(nn.Conv1d(8, 8, 5, padding=2, groups=8, bias=False)),
        "grouped": over_time(nn.Conv1d(8, 6, 3, stride=3, dilation=2, groups=2)),
        "same": over_time(nn.Conv1d(8, 4, 4, padding="same")),
        "picture": of_picture(nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(1, 2))),
        "picture_grouped": of_picture(nn.Conv2d(3, 6, 3, groups=3, stride=2)),
        "weight_norm": over_time(WeightNormed()),
    },
    "transposed": {
        "plain": over_time(nn.ConvTranspose1d(8, 6, 3)),
        "strided": over_time(nn.ConvTranspose1d(8, 6, 4, stride=3, padding=1, output_padding=2)),
        "grouped": over_time(nn.ConvTranspose1d(8, 6, 3, stride=2, dilation=2, groups=2, padding=2)),
        "picture": of_picture(
            nn.ConvTranspose2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2))
        ),
        "picture_grouped": of_picture(nn.ConvTranspose2d(3, 6, 3, groups=3, stride=2, bias=False)),
    },
    "average_pooling": {
        "plain": over_time(nn.AvgPool1d(2)),
        "ceiled": over_time(nn.AvgPool1d(3, 2, 1, ceil_mode=True)),
        "not_padded": over_time(nn.AvgPool1d(3, 2, 1, count_include_pad=False)),
        "picture": of_picture(nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True, count_include_pad=False)),
        "to_one": over_time(nn.AdaptiveAvgPool1d(1)),
        "to_four": over_time(nn.AdaptiveAvgPool1d(4)),
        "to_picture": of_picture(nn.AdaptiveAvgPool2d((2, 1))),
        "power": over_time(nn.LPPool1d(2, 3, 2)),
    },
    "maximum_pooling": {
        "plain": over_time(nn.MaxPool1d(2)),
        "ceiled": over_time(nn.MaxPool1d(3, 2, 1, ceil_mode=True)),
        "dilated": over_time(nn.MaxPool1d(3, 1, 1, dilation=2)),
        "overlapping": over_time(nn.Sequential(nn.ReLU(), nn.MaxPool1d(3, 1))),
        "picture": of_picture(nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True)),
        "over_all": plain(lambda x: number(x.max(1)[0]) + number(x.min(1)[0]) + number(x.topk(3, -1)[0])),
    },
    "gru": {
        "plain": recurrent(nn.GRU(8, 5, batch_first=True)),
        "both_ways": recurrent(nn.GRU(8, 3, batch_first=True, bidirectional=True)),
        "started": Head(nn.GRU(8, 5, batch_first=True, bias=False), started, with_state),
    },
    "lstm": {
        "plain": recurrent(nn.LSTM(8, 5, batch_first=True)),
        "both_ways": recurrent(nn.LSTM(8, 3, 2, bidirectional=True)),
    },
    "rnn": {
        "tanh": recurrent(nn.RNN(8, 5, batch_first=True)),
        "relu": recurrent(nn.RNN(8, 5, batch_first=True, nonlinearity="relu")),
        "cell": Head(nn.GRUCell(8, 8), lambda cell, x: number(cell(x[:, 0], cell(x[:, 1]))), frames),
    },
    "norm": {
        "batch": over_time(nn.BatchNorm1d(8)),
        "batch_picture": of_picture(nn.BatchNorm2d(3)),
        "layer": of_frames(nn.LayerNorm(8)),
        "root_mean_square": of_frames(nn.RMSNorm(8)),
        "group": over_time(nn.GroupNorm(2, 8)),
        "instance": over_time(nn.InstanceNorm1d(8, affine=True)),
        "unit": plain(lambda x: number(F.normalize(x, dim=-1))),
    },
    "activation": {
        "glu": of_frames(nn.GLU()),
        "silu": of_frames(nn.SiLU()),
        "gelu": of_frames(nn.GELU()),
        "tanh_gelu": of_frames(nn.GELU("tanh")),
        "softmax": of_frames(nn.Sequential(nn.Linear(8, 5), nn.Softmax(-1))),
        "log_softmax": of_frames(nn.LogSoftmax(-1)),
        "dropout": of_frames(nn.Dropout(0.5)),
        "prelu": over_time(nn.PReLU(8)),
        "others": of_frames(nn.Sequential(nn.ELU(), nn.Hardswish(), nn.Mish(), nn.Softplus())),
    },
    "attention": {
        "plain": Head(nn.MultiheadAttention(8, 2, batch_first=True), attend, frames),
        "padded": Head(
            nn.MultiheadAttention(8, 2, batch_first=True),
            lambda layer, x, padding: attend(layer, x, key_padding_mask=padding),
            padded,
        ),
        "causal": Head(nn.MultiheadAttention(8, 2, batch_first=True), causal, frames),
        "by_distance": Head(nn.MultiheadAttention(8, 2, batch_first=True), by_distance, frames),
    },
    "block": {
        "encoder": Head(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            lambda layer, x, padding: number(layer(x, src_key_padding_mask=padding)),
            padded,
        ),
        "conformer": of_frames(Conformer()),
    },
    "resampling": {
        "nearest": over_time(nn.Upsample(scale_factor=2)),
        "linear": over_time(nn.Upsample(scale_factor=2, mode="linear")),
        "aligned": over_time(nn.Upsample(scale_factor=2, mode="linear", align_corners=True)),
        "halved": over_time(nn.Upsample(scale_factor=0.5, mode="linear")),
        "to_size": over_time(nn.Upsample(size=20)),
        "bilinear": of_picture(nn.Upsample(scale_factor=2, mode="bilinear")),
        "bilinear_aligned": of_picture(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    },
    "padding": {
        "reflect": over_time(nn.Conv1d(8, 4, 3, padding=2, padding_mode="reflect")),
        "replicate": over_time(nn.Conv1d(8, 4, 3, padding=2, padding_mode="replicate")),
        "circular": over_time(nn.Conv1d(8, 4, 3, padding=2, padding_mode="circular")),
        "replicate_picture": of_picture(nn.ReplicationPad2d((1, 2, 1, 0))),
        "constant": of_picture(nn.ConstantPad2d((1, 2, -1, 0), 0.5)),
    },
    "indexing": {
        "embedding": Head(nn.Embedding(6, 8, padding_idx=2), lambda e, x, i: number(e(i) * x), labelled),
        "gather": plain(lambda x, i: number(x.gather(1, i.unsqueeze(-1).expand(-1, -1, 8))), labelled),
        "indexed": plain(indexed, labelled),
        "selected": plain(lambda x, i: number(x.masked_select(i.unsqueeze(-1) > 2)), labelled),
        "masked": plain(lambda x, i: number(x[i > 2]), labelled),
        "filled": plain(lambda x, i: number(x.masked_fill(i.unsqueeze(-1) > 3, 0)), labelled),
        "assigned": Head(nn.Linear(8, 8), assigned, labelled),
        "added": plain(lambda x, i: number(torch.zeros_like(x).index_add(1, i[0], x)), labelled),
    },
    "over_time": {
        "linear": of_frames(nn.Linear(8, 5)),
        "cumulative": plain(lambda x: number(x.cumsum(1)) + number(x.logcumsumexp(1))),
        "product": Head(nn.Linear(8, 8), lambda f, x: number(torch.einsum("btd,bsd->bts", f(x), x)), frames),
        "statistics": plain(statistics),
        "cut": Head(nn.Linear(8, 8), lambda f, x: cut(f(x)), frames),  # pieces of a size that is fixed
    },
}  # fmt: skip


class Layers(Heads):
    table = GROUPS


# what the other groups show as well, but for the operators' own gradients, which torch decomposes
AS_OTHERS = ("transposed", "resampling", "padding", "over_time", "rnn", "block")


@pytest.mark.parametrize(
    "group", [pytest.param(g, marks=pytest.mark.thorough if g in AS_OTHERS else ()) for g in GROUPS]
)
def test_gradients_through_layers(group: str) -> None:
    assert_gradients(Layers(group), torch.float32)


# onnxruntime has no convolution, pooling or error function of 64 bits on a CPU, ONNX no constants of layer
# norm or of an interpolation.
WITHOUT_FLOAT64 = ("convolution", "transposed", "average_pooling", "norm", "activation", "block")
WITHOUT_FLOAT64 += ("resampling", "padding", "over_time")


@pytest.mark.thorough
@pytest.mark.parametrize("group", GROUPS)
def test_gradients_through_layers_in_float64(group: str) -> None:
    if group not in WITHOUT_FLOAT64:
        assert_gradients(Layers(group), torch.float64)
        return
    with pytest.raises(RuntimeError, match=r"does not load it|is off by|does not export"):
        assert_gradients(Layers(group), torch.float64)
