"""Gradients of torch that the exporter has no translation of."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch._decomp import decomposition_table


def translations() -> dict[Any, Callable[..., Any]]:
    """The part of the table that is about them."""
    return {torch.ops.aten.convolution_backward.default: _convolution_backward}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What torch writes in other operators by its own rules: gradients, and the forwards that feed them.

    The exporter translates such a forward for the sake of its first output and makes the second up, which the
    gradient reads: that of `nll_loss_forward` is the total weight that a mean is divided by.
    """
    return {
        operator: decompose
        for operator, decompose in decomposition_table.items()
        if isinstance(operator, torch._ops.OpOverload)
        and any(half in operator.name() for half in ("_backward", "_forward"))
    }


def _convolution_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """`aten::convolution_backward`: of the input, the weight and the bias.

    What `output_mask` does not ask for is not used, and falls away.
    """
    if transposed:
        raise ValueError("gradients: got a transposed convolution, expected none before what they flow to")
    along = list(range(2, len(weight.shape)))  # the dimensions that the kernel moves along
    stride, padding, dilation = (
        [n[i % len(n)] for i in range(len(along))] for n in (stride, padding, dilation)
    )
    # each output gives its gradient to the inputs it was made of: at the end those no kernel reached follow
    spread = op.ConvTranspose(grad_output, weight, strides=stride, dilations=dilation, group=groups)
    padded = op.Pad(spread, _integers([0] * len(stride) + [n - 1 for n in stride]), axes=_integers(along))
    ends = op.Add(_integers(padding), op.Shape(input, start=2))
    of_input = op.Slice(padded, _integers(padding), ends, _integers(along))

    # a convolution of the input by the gradient, which stands `stride` apart in it, summed over the batch
    sizes = op.Shape(input, start=2)
    grouped = op.Reshape(input, op.Concat(op.Shape(input, end=1), _integers([groups, -1]), sizes, axis=0))
    by_channel = op.Transpose(grouped, perm=[2, 1, 0, *(n + 1 for n in along)])
    swapped = op.Conv(
        op.Reshape(by_channel, op.Concat(op.Shape(by_channel, end=1), _integers([-1]), sizes, axis=0)),
        op.Transpose(grad_output, perm=[1, 0, *along]),
        pads=[*padding, *padding],
        strides=dilation,
        dilations=stride,
        group=groups,
    )
    within = op.Slice(swapped, _integers([0] * len(along)), op.Shape(weight, start=2), _integers(along))
    of_weight = op.Transpose(within, perm=[1, 0, *along])

    of_bias = op.ReduceSum(grad_output, _integers([0, *along]), keepdims=0)
    return of_input, of_weight, of_bias


def _integers(values: Sequence[int]) -> Any:
    tensor: Any = ir.tensor(list(values), ir.DataType.INT64)
    return op.Constant(value=tensor)
