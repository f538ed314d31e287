"""The log-probabilities of a few classes of each row of logits, where nothing else of a softmax is wanted."""

from torch import Tensor

from .scores import widened


def picked(logits: Tensor, classes: Tensor) -> Tensor:
    """`logits` `[N, V]` through a log-softmax at `classes` `[N, K]`, int64, -1 for none: `[N, K]`, -inf of
    none.

    A row of which no class is wanted may hold anything.
    """
    wanted = classes >= 0
    rows = widened(logits).masked_fill(~wanted.any(1, keepdim=True), 0.0)
    return rows.log_softmax(1).gather(1, classes.clamp(min=0)).masked_fill(~wanted, -float("inf"))


def picked_grad(logits: Tensor, classes: Tensor, grad: Tensor) -> Tensor:
    """The gradient in `logits`, of their type, of that of `picked`."""
    wanted = classes >= 0
    grad = grad.masked_fill(~wanted, 0.0)
    rows = widened(logits).masked_fill(~wanted.any(1, keepdim=True), 0.0)
    slopes = rows.softmax(1) * -grad.sum(1, keepdim=True)
    return slopes.scatter_add(1, classes.clamp(min=0), grad).to(logits.dtype)
