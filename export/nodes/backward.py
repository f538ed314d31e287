"""Gradients of torch that the exporter has no translation of."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch._decomp import decomposition_table


def translations() -> dict[Any, Callable[..., Any]]:
    """The part of the table that is about them."""
    aten = torch.ops.aten
    return {
        aten.convolution_backward.default: _convolution_backward,
        aten.avg_pool2d_backward.default: _average_backward,
        aten.avg_pool3d_backward.default: _average_backward,
        aten.max_pool2d_with_indices_backward.default: _maximum_backward,
        aten.max_pool3d_with_indices_backward.default: _maximum_backward,
    }


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What torch writes in other operators by its own rules: gradients, and the forwards that feed them.

    The exporter translates such a forward for the sake of its first output and makes the second up, which the
    gradient reads: that of `nll_loss_forward` is the total weight that a mean is divided by. Losses and the
    like, for which it has no translation, are among them, since written out here they cost no second trace.
    """
    parts = ("_backward", "_forward", "_safe_softmax", "_loss", "binary_cross_entropy", "masked_index")
    names = ("aten::var.correction", "aten::std.correction", "aten::norm.ScalarOpt_dim", "aten::copy")
    return {
        operator: decompose
        for operator, decompose in decomposition_table.items()
        if isinstance(operator, torch._ops.OpOverload)
        and operator not in translations()
        and (operator.name() in names or any(part in operator.name() for part in parts))
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
    along = list(range(2, len(weight.shape)))  # the dimensions that the kernel moves along
    stride, padding, dilation = (
        [n[i % len(n)] for i in range(len(along))] for n in (stride, padding, dilation)
    )
    if transposed:  # what a convolution gives its input, so that input and gradient change places
        reached = op.Conv(
            grad_output, weight, strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups
        )
        of_input = _cut(reached, [0] * len(along), input)
        of_weight = _of_kernel(grad_output, input, weight, stride, padding, dilation, groups)
    else:
        of_input = _spread(grad_output, weight, input, stride, padding, dilation, groups)
        of_weight = _of_kernel(input, grad_output, weight, stride, padding, dilation, groups)
    return of_input, of_weight, op.ReduceSum(grad_output, _integers([0, *along]), keepdims=0)


def _spread(
    grad: Any,
    kernel: Any,
    like: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Any:
    """What each output of a convolution gives to the inputs it was made of; `like` has their sizes."""
    along = list(range(2, 2 + len(stride)))
    spread = op.ConvTranspose(grad, kernel, strides=stride, dilations=dilation, group=groups)
    unreached = _integers([0] * len(stride) + [n - 1 for n in stride])  # at the end, by no kernel
    return _cut(op.Pad(spread, unreached, axes=_integers(along)), padding, like)


def _cut(x: Any, start: Sequence[int], like: Any) -> Any:
    """`x` from `start` on, with the sizes of `like`, along all dimensions but the first two."""
    begin = _integers(start)
    along = list(range(2, 2 + len(start)))
    return op.Slice(x, begin, op.Add(begin, op.Shape(like, start=2)), _integers(along))


def _of_kernel(
    input: Any,
    grad: Any,
    weight: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """A convolution of the input by the gradient, `stride` apart in it, summed over the batch."""
    along = list(range(2, 2 + len(stride)))
    sizes = op.Shape(input, start=2)
    grouped = op.Reshape(input, op.Concat(op.Shape(input, end=1), _integers([groups, -1]), sizes, axis=0))
    by_channel = op.Transpose(grouped, perm=[2, 1, 0, *(n + 1 for n in along)])
    swapped = op.Conv(
        op.Reshape(by_channel, op.Concat(op.Shape(by_channel, end=1), _integers([-1]), sizes, axis=0)),
        op.Transpose(grad, perm=[1, 0, *along]),
        pads=[*padding, *padding],
        strides=dilation,
        dilations=stride,
        group=groups,
    )
    return op.Transpose(_cut(swapped, [0] * len(along), weight), perm=[1, 0, *along])


def _average_backward(
    grad_output: Any,
    input: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Any:
    """`aten::avg_pool2d_backward` and that of 3 dimensions: each window gives every frame the same."""
    number = len(kernel_size)
    kernel, padding = ([n[i % len(n)] for i in range(number)] for n in (kernel_size, padding))
    stride = [stride[i % len(stride)] for i in range(number)] if stride else kernel
    planes = op.Concat(_integers([-1, 1]), op.Shape(input, start=-number), axis=0)
    one_by_one = op.Concat(_integers([-1, 1]), op.Shape(grad_output, start=-number), axis=0)
    like, grad = op.Reshape(input, planes), op.Reshape(grad_output, one_by_one)
    _check_windows(kernel, stride, padding, ceil_mode)
    ones: Any = op.Expand(op.CastLike(_integers([1]), grad_output), _integers([1, 1, *kernel]))
    shared = _cut(_counted(like, ones, stride, padding, count_include_pad), [0] * number, grad)
    of_planes = _spread(op.Div(grad, shared), ones, like, stride, padding, [1] * number)
    return op.Reshape(of_planes, op.Shape(input))


def _check_windows(
    reach: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool
) -> None:
    """A window that begins behind the last frame is left out: of which size, a trace cannot know."""
    if ceil_mode and any(s + p > n for n, s, p in zip(reach, stride, padding, strict=True)):
        raise ValueError("pooling: got ceil_mode and windows shorter than stride and padding, expected none")


def _counted(
    planes: Any, kernel: Any, stride: Sequence[int], padding: Sequence[int], with_padding: bool
) -> Any:
    """How many frames each window counts; one that reaches beyond the padding counts none there."""
    number = len(stride)
    plane = op.Concat(_integers([1, 1]), op.Shape(planes, start=2), axis=0)
    one = op.CastLike(_integers([1]), planes)
    frames = op.Expand(one, plane)
    border = op.Squeeze(one if with_padding else op.Sub(one, one))
    padded = op.Pad(frames, _integers([0, 0, *padding] * 2), border)
    beyond = op.Pad(padded, _integers([0] * (4 + number) + [n - 1 for n in stride]))
    return op.Conv(beyond, kernel, strides=stride)


def _maximum_backward(
    grad_output: Any,
    input: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Any,
) -> Any:
    """`aten::max_pool2d_with_indices_backward` and that of 3 dimensions: to the frame that was taken."""
    reach = [n * (k - 1) + 1 for k, n in zip(kernel_size, dilation, strict=True)]
    _check_windows(reach, stride or kernel_size, padding, ceil_mode)
    planes = op.Concat(op.Shape(input, end=-len(kernel_size)), _integers([-1]), axis=0)
    nothing = op.Reshape(op.Expand(op.CastLike(_integers([0]), input), op.Shape(input)), planes)
    taken, grad = op.Reshape(indices, planes), op.Reshape(grad_output, planes)
    spread = op.ScatterElements(nothing, taken, grad, axis=-1, reduction="add")
    return op.Reshape(spread, op.Shape(input))


def _integers(values: Sequence[int]) -> Any:
    tensor: Any = ir.tensor(list(values), ir.DataType.INT64)
    return op.Constant(value=tensor)
