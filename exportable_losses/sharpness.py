"""The Laplacian of spectrograms and the loss on its variance, against blur."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from .checks import check_choice, check_inputs
from .contract import Contract, Input, Total
from .lengths import mask_of, zero_behind
from .masking import LENGTH
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["Laplacian", "LaplacianVarianceLoss"]

LAPLACIAN = Contract((Input("data", "B C? H W"),), ("laplacian",), ("data",))
# of a corpus the mean over images: the variance over all of it would want every pixel
VARIANCE = Contract(
    (Input("predictions", "B C? H W"), replace(LENGTH, of="")),
    differentiable=("predictions",),
    totals=(Total("loss"),),
)


class Laplacian(nn.Module):
    """The discrete Laplacian of images: each pixel against the sum of its neighbours.

        y(i, j) = k² · x(i, j) - sum of x over the k by k pixels around (i, j)

    Args:
        kernel_size: k, the side of the square kernel, odd.
        dtype: of the buffer `kernel`; the result has the dtype of the data.

    The call takes `data` `[B, H, W]` or `[B, C, H, W]`. The result is `kernel_size - 1` smaller in height and
    width.

    Raises:
        ValueError: `kernel_size` is even or below 3.

    Examples:
        >>> import torch
        >>> Laplacian(3)(torch.eye(3).unsqueeze(0))
        tensor([[[6.]]])
    """

    kernel: Tensor

    extra_repr = settings_repr

    def __init__(self, kernel_size: int = 3, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, expected an odd number from 3 on")
        self.kernel_size = kernel_size
        self.dtype = dtype
        self.register_buffer("kernel", self.get_kernel())

    @torch.jit.unused
    def get_kernel(self) -> Tensor:
        """The kernel `[1, 1, size, size]`: minus one around a middle that makes it sum to zero."""
        kernel = -torch.ones(1, 1, self.kernel_size, self.kernel_size, dtype=self.dtype)
        kernel[0, 0, self.kernel_size // 2, self.kernel_size // 2] = self.kernel_size**2 - 1.0
        return kernel

    def forward(self, data: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_inputs(LAPLACIAN, {"data": data})
        data = widened(data)
        # the kernel is minus a box, but for its middle: sums along rows, then columns, take 2k steps for k²
        size = self.kernel_size
        rows, columns = data.shape[-2] - size + 1, data.shape[-1] - size + 1
        wide = data.narrow(-1, 0, columns)
        for i in range(1, size):
            wide = wide + data.narrow(-1, i, columns)
        box = wide.narrow(-2, 0, rows)
        for i in range(1, size):
            box = box + wide.narrow(-2, i, rows)
        middle = data.narrow(-1, size // 2, columns).narrow(-2, size // 2, rows)
        return size * size * middle - box


class LaplacianVarianceLoss(nn.Module):
    """Minus the variance of the Laplacian: the sharper the image, the lower.

        loss = -sum of (y - mean of y)² / (n - 1),  over the n pixels of y = Laplacian(x) within length

    Args:
        kernel_size: the side of the Laplacian's kernel.
        len_dim: the dimension of the Laplacian that `length` counts.
        reduction: ``batch`` for a variance per item, ``mean`` for one over all pixels that count.

    The call takes `predictions` `[B, H, W]` or `[B, C, H, W]` and, optionally, `length` `[B]`, relative in
    (0, 1] or integers. It returns a scalar, or `[B]` for ``batch``. `length` counts rows of the Laplacian,
    and n of those read n + kernel_size - 1 rows of the image.

    Examples:
        >>> import torch
        >>> LaplacianVarianceLoss()(torch.arange(32.0).square().reshape(1, 8, 4))
        tensor(-0.)
    """

    extra_repr = settings_repr

    def __init__(self, kernel_size: int = 3, len_dim: int = 1, reduction: str = "mean") -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.len_dim = len_dim
        self.reduction = check_choice("reduction", reduction, ("mean", "batch"))
        self.laplacian = Laplacian(kernel_size)

    def forward(self, predictions: Tensor, length: Tensor | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            given = {"predictions": predictions, "length": length}
            check_inputs(VARIANCE, given, len_dim=self.len_dim, kernel_size=self.kernel_size)
        values = self.laplacian(predictions).movedim(self.len_dim, 1)
        mask = mask_of(values, length)
        values, counts = zero_behind(values, mask), zero_behind(torch.ones_like(values), mask)
        if self.reduction == "batch":
            return -_variance(values.flatten(1), counts.flatten(1))
        return -_variance(values.reshape(1, -1), counts.reshape(1, -1)).squeeze(0)


def _variance(values: Tensor, counts: Tensor) -> Tensor:
    """The unbiased variance of each row of `values` over where `counts` is one: `[rows]`."""
    number = counts.sum(1)
    mean = (values * counts).sum(1) / number
    deviation = (values - mean.unsqueeze(1)) * counts
    return (deviation * deviation).sum(1) / (number - 1)
