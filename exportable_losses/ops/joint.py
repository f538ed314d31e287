"""The arcs of logits that are sums, am(t) + lm(u), which are never in memory for all t, u and classes."""

import torch
from torch import Tensor


def joint_arcs(am: Tensor, lm: Tensor, labels: Tensor, blank_index: int) -> Tensor:
    """ln p(blank | t, u), ln p(label | t, u), and the normaliser: `[B, T, U+1, 3]`.

        p(k | t, u) = exp(am(t, k) + lm(u, k) - normaliser(t, u))

    The normaliser is the logarithm of a product of matrices of exponentials, each less its largest. Where no
    class is near the top of both, the product underflows, and those few sums are taken as they stand.

    Args:
        am: `[B, T, V]`, float32 or float64.
        lm: `[B, U+1, V]`, of the same type.
        labels: of each u `[B, U+1]`, int64.
        blank_index: the class of the blank.
    """
    (top, of_am), (base, of_lm) = _exponentials(am), _exponentials(lm)
    with torch.autocast(am.device.type, enabled=False):
        product = torch.matmul(of_am, of_lm.transpose(1, 2))
    far = product < torch.finfo(am.dtype).tiny / torch.finfo(am.dtype).eps
    norm = product.log_().add_(top).add_(base.transpose(1, 2))
    if bool(far.any()):
        item, t, u = far.nonzero(as_tuple=True)
        norm.index_put_((item, t, u), (am[item, t] + lm[item, u]).logsumexp(1))
    stay, emit = arcs_at(am, lm, labels, blank_index)
    return torch.stack([stay - norm, emit - norm, norm], 3)


def joint_arcs_grad(
    am: Tensor, lm: Tensor, labels: Tensor, blank_index: int, arcs: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients in `am` and `lm`, of that of the `arcs` that `joint_arcs` gives."""
    (top, of_am), (base, of_lm) = _exponentials(am), _exponentials(lm)
    through = grad[..., 2] - grad[..., 0] - grad[..., 1]  # the normaliser
    shares = (top + base.transpose(1, 2) - arcs[..., 2]).exp()
    far = ~(shares < torch.finfo(am.dtype).max * torch.finfo(am.dtype).eps)
    shares = through * shares.masked_fill(far, 0.0)
    with torch.autocast(am.device.type, enabled=False):
        grad_am = torch.matmul(shares, of_lm).mul_(of_am)
        grad_lm = torch.matmul(shares.transpose(1, 2), of_am).mul_(of_lm)
    if bool(far.any()):
        item, t, u = far.nonzero(as_tuple=True)
        each = (am[item, t] + lm[item, u]).softmax(1) * through[item, t, u].unsqueeze(1)
        grad_am.index_put_((item, t), each, accumulate=True)
        grad_lm.index_put_((item, u), each, accumulate=True)
    stay, emit = grad[..., 0], grad[..., 1]
    grad_am[..., blank_index] += stay.sum(2)
    grad_am.scatter_add_(2, labels.unsqueeze(1).expand_as(emit), emit)
    grad_lm[..., blank_index] += stay.sum(1)
    grad_lm.scatter_add_(2, labels.unsqueeze(2), emit.sum(1).unsqueeze(2))
    return grad_am, grad_lm


def _exponentials(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row `[..., 1]`, and the exponentials less it."""
    top = x.amax(2, keepdim=True)
    return top, (x - top).exp_()


def arcs_at(am: Tensor, lm: Tensor, labels: Tensor, blank_index: int) -> tuple[Tensor, Tensor]:
    """The logits of the blank and of the label at each node: `[B, T, U+1]` both."""
    stay = am[..., blank_index].unsqueeze(2) + lm[..., blank_index].unsqueeze(1)
    of_label = labels.unsqueeze(1).expand(-1, am.shape[1], -1)
    return stay, am.gather(2, of_label) + lm.gather(2, labels.unsqueeze(2)).squeeze(2).unsqueeze(1)


def joint_arcs_everywhere(am: Tensor, lm: Tensor, labels: Tensor, blank_index: int) -> Tensor:
    """`joint_arcs` for scripts and graphs: a product of float64, which goes down to e^-700.

    Autocast leaves float64 alone.
    """
    top, base = am.amax(2, keepdim=True), lm.amax(2, keepdim=True)
    product = torch.matmul((am - top).double().exp(), (lm - base).double().exp().transpose(1, 2))
    norm = product.log().to(am.dtype) + top + base.transpose(1, 2)
    stay, emit = arcs_at(am, lm, labels, blank_index)
    return torch.stack([stay - norm, emit - norm, norm], 3)
