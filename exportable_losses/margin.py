"""Angular margins for speaker recognition and the softmax loss around them.

Both margins: Xiang et al. 2019, "Margin Matters: Towards More Discriminative Deep Neural Network
Embeddings for Speaker Recognition", https://arxiv.org/abs/1906.07317.
"""

import inspect
import math
from typing import Final

import torch
from torch import Tensor, nn

from .checks import check_inputs
from .contract import Contract, Input, Total
from .masking import as_index
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["AdditiveAngularMargin", "AngularMargin", "LogSoftmaxWrapper"]

MARGIN = Contract(
    (Input("outputs", "B C", "cosine"), Input("targets", "B C", "one_hot")), ("predictions",), ("outputs",)
)
SOFTMAX = Contract(
    (
        Input("outputs", "B 1 C", "cosine"),
        Input("targets", "B 1", "index", below="C"),
        Input("length", "B", "relative_length", optional=True),
    ),
    differentiable=("outputs",),
    totals=(Total("loss"),),
)


class AngularMargin(nn.Module):
    """Subtract a margin from the cosine of the target class and scale: `s * (cos(theta) - m)`.

        s · (cos theta - m) for the target class, s · cos theta for every other class

    Wang et al. 2018, "Additive Margin Softmax for Face Verification", equation 5,
    https://arxiv.org/abs/1801.05599; for speakers, Xiang et al. 2019, https://arxiv.org/abs/1906.07317.

    Args:
        margin: m, in units of the cosine.
        scale: s.

    The call takes `outputs`, cosines `[B, C]`, and `targets`, one-hot `[B, C]`; it returns `[B, C]`.

    Examples:
        >>> import torch
        >>> AngularMargin(margin=0.5, scale=2.0)(torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]]))
        tensor([[0.8000, 0.2000]])
    """

    extra_repr = settings_repr

    def __init__(self, margin: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_inputs(MARGIN, {"outputs": outputs, "targets": targets})
        outputs, targets = widened(outputs), widened(targets)
        return self.scale * (outputs - self.margin * targets)


class AdditiveAngularMargin(AngularMargin):
    """Add a margin to the angle of the target class and scale: `s * cos(theta + m)`.

        s · cos(theta + m) for the target class, s · cos theta for every other class

    Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
    https://arxiv.org/abs/1801.07698; for speakers, Xiang et al. 2019, https://arxiv.org/abs/1906.07317. Where
    theta + m would exceed pi, `cos(theta) - m * sin(m)` takes its place, so that it stays monotonic in theta.

    Args:
        margin: m, in radians.
        scale: s.
        easy_margin: add the margin only where the cosine is positive.

    The call takes `outputs`, cosines `[B, C]`, and `targets`, one-hot `[B, C]`; it returns `[B, C]`.

    Examples:
        >>> import torch
        >>> AdditiveAngularMargin(margin=0.2)(torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]]))
        tensor([[0.7955, 0.1000]])
    """

    def __init__(self, margin: float = 0.0, scale: float = 1.0, easy_margin: bool = False) -> None:
        super().__init__(margin, scale)
        self.easy_margin = easy_margin
        self.cos_margin = math.cos(margin)
        self.sin_margin = math.sin(margin)
        self.threshold = math.cos(math.pi - margin)
        self.fallback = math.sin(math.pi - margin) * margin

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_inputs(MARGIN, {"outputs": outputs, "targets": targets})
        outputs, targets = widened(outputs), widened(targets)
        cosine = outputs.clamp(-1 + 1e-7, 1 - 1e-7)
        sine = (1.0 - cosine * cosine).sqrt()
        shifted = cosine * self.cos_margin - sine * self.sin_margin  # cos(theta + m)
        if self.easy_margin:
            shifted = torch.where(cosine > 0, shifted, cosine)
        else:
            shifted = torch.where(cosine > self.threshold, shifted, cosine - self.fallback)
        return self.scale * (targets * shifted + (1.0 - targets) * cosine)


class LogSoftmaxWrapper(nn.Module):
    """The cross-entropy of cosines behind a margin.

        loss = mean over items of -ln softmax(loss_fn(outputs, targets))[target]

    Xiang et al. 2019, https://arxiv.org/abs/1906.07317.

    Args:
        loss_fn: a module that takes `outputs` and one-hot `targets` (a margin), or `outputs` alone
            (`nn.Identity()`, the default). Its signature decides which.

    The call takes `outputs`, cosines `[B, 1, C]`, and `targets`, class indices `[B, 1]`; it returns a scalar.
    `length` is accepted because SpeechBrain passes it, but not read.

    Raises:
        TypeError: `loss_fn` takes neither one nor two tensors.

    Examples:
        >>> import torch
        >>> loss = LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=5.0))
        >>> loss(torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]]), torch.tensor([[0], [1]]))
        tensor(0.0619)
    """

    takes_targets: Final[bool]

    extra_repr = settings_repr

    def __init__(self, loss_fn: nn.Module | None = None) -> None:
        super().__init__()
        self.loss_fn = nn.Identity() if loss_fn is None else loss_fn
        required = [
            p for p in inspect.signature(self.loss_fn.forward).parameters.values() if p.default is p.empty
        ]
        if len(required) not in (1, 2):
            raise TypeError(
                f"loss_fn: got {len(required)} arguments, expected outputs, or outputs and targets"
            )
        self.takes_targets = len(required) == 2

    def forward(self, outputs: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            check_inputs(SOFTMAX, {"outputs": outputs, "targets": targets})
        outputs, targets = widened(outputs).squeeze(1), as_index(targets)
        if self.takes_targets:
            classes = torch.arange(outputs.shape[1], device=targets.device)
            outputs = self.loss_fn(outputs, (targets == classes).to(outputs.dtype))
        else:
            outputs = self.loss_fn(outputs)
        return -outputs.log_softmax(1).gather(1, targets).mean()
