"""Operators of torch that a trace sees as others: torch's own way fixes a size, or has no gradient there."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch._export.utils
import torch.export.decomp_utils
from torch import Tensor
from torch._C import DispatchKey

from . import recurrent

_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)
# What torch asks which operators are composite, and remembers for good.
_ASKED = "_collect_all_valid_cia_ops_for_aten_namespace"


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Within it a trace has what they are made of, and the gradients are torch's of that."""
    with contextlib.ExitStack() as restore:
        for operator, composite in _composites().items():
            restore.callback(_kernels, operator, {key: operator.py_kernels.get(key) for key in _KEYS})
            _kernels(operator, dict.fromkeys(_KEYS, composite))
        for module in (torch._export.utils, torch.export.decomp_utils):
            restore.callback(setattr, module, _ASKED, getattr(module, _ASKED))
            setattr(module, _ASKED, _composite_operators)
        yield


@functools.cache
def _composite_operators() -> set[Any]:
    """Those within `written_out`; torch's own list, made outside, has not all of them."""
    return torch._export.utils._collect_all_valid_cia_ops_for_namespace(torch.ops.aten)


def _kernels(operator: torch._ops.OpOverload, kernels: dict[Any, Callable[..., Any] | None]) -> None:
    """What Python's dispatcher calls for `operator`, by key."""
    for key, kernel in kernels.items():
        operator.py_kernels.pop(key, None)
        if kernel is not None:
            operator.py_kernels[key] = kernel
    operator._dispatch_cache.clear()


def _composites() -> dict[Any, Callable[..., Any]]:
    aten = torch.ops.aten
    averages = (aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d)
    padding = (aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d)
    return {
        **recurrent.composites(),
        **dict.fromkeys([operator.default for operator in averages], _adaptive_average),
        **dict.fromkeys([operator.default for operator in padding], _replicated),
        aten.max_pool1d.default: _maximum,
        aten.masked_select.default: _selected,
        aten._weight_norm_interface.default: _weight_norm,
        aten.multilabel_margin_loss.default: _multilabel_margin,
    }


def _adaptive_average(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """A product with the windows: number i of o is from i * n / o to (i + 1) * n / o, rounded outwards."""
    for dim, wanted in enumerate(output_size, x.dim() - len(output_size)):
        size, first = x.shape[dim], torch.arange(wanted, device=x.device).unsqueeze(1)
        at = torch.arange(size, device=x.device)
        within = (at >= first * size // wanted) & (at * wanted < (first + 1) * size)
        windows = (within / within.sum(1, keepdim=True)).to(x.dtype)
        x = (x.transpose(dim, -1) @ windows.t()).transpose(dim, -1)
    return x


def _replicated(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Each frame is that of the index that lies nearest in `x`; `padding` begins with the last dimension."""
    for i, (before, behind) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        dim = x.dim() - 1 - i
        size = x.shape[dim]
        at = torch.arange(-before, size + behind, device=x.device)
        x = x.index_select(dim, at.clamp(0, size - 1))
    return x


def _maximum(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """`aten.max_pool1d` as that of two dimensions; its own way with a gradient fixes the number of frames."""
    settings = [[1, *stride] if stride else [], [0, *padding], [1, *dilation]]
    pooled = torch.ops.aten.max_pool2d(x.unsqueeze(-2), [1, *kernel_size], *settings, ceil_mode)
    return pooled.squeeze(-2)


def _selected(x: Tensor, mask: Tensor) -> Tensor:
    """`aten.masked_select` as a boolean index, whose gradient keeps every size open."""
    x, mask = torch.broadcast_tensors(x, mask)
    return x[mask]


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """`aten._weight_norm_interface`: the weight, and the norms of what `g` scales."""
    norms = torch.linalg.vector_norm(v, dim=[i for i in range(v.dim()) if i != dim], keepdim=True)
    return v * (g / norms), norms


def _multilabel_margin(x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """`aten.multilabel_margin_loss`; torch's own way in other operators takes padding for class 0."""
    classes = x.shape[-1]
    wanted = (target == -1).cumsum(-1) == 0
    scores = x.gather(-1, target.where(wanted, 0))
    at = torch.arange(classes, device=x.device)
    is_target = ((target.unsqueeze(-1) == at) & wanted.unsqueeze(-1)).any(-2)
    margins = (1 - scores.unsqueeze(-1) + x.unsqueeze(-2)).clamp(min=0)
    counted = wanted.unsqueeze(-1) & ~is_target.unsqueeze(-2)
    loss = torch.where(counted, margins, 0).sum((-2, -1)) / classes
    return [loss, loss.mean(), loss.sum()][reduction]
