"""The normaliser of logits that are sums, am(t) + lm(u), and are never in memory for all t, u and classes."""

import torch
from torch import Tensor


def joint_normaliser(am: Tensor, lm: Tensor) -> Tensor:
    """ln sum over k of exp(am(t, k) + lm(u, k)), of `[B, T, V]` and `[B, U+1, V]`: `[B, T, U+1]`.

    A product of matrices of exponentials, each less its largest. Where no class is near the top of both, the
    product underflows, and those few sums are taken as they stand.
    """
    return _normaliser(am, lm)[0]


def joint_normaliser_grad(am: Tensor, lm: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients in `am` and `lm`, of that of the normaliser."""
    norm, (top, base), far = _normaliser(am, lm)
    shares = torch.where(far, 0.0, grad * (top + base.transpose(1, 2) - norm).exp())
    of_am, of_lm = (am - top).exp(), (lm - base).exp()
    with torch.autocast(am.device.type, enabled=False):
        grad_am = of_am * torch.matmul(shares, of_lm)
        grad_lm = of_lm * torch.matmul(shares.transpose(1, 2), of_am)
    if bool(far.any()):
        item, t, u = far.nonzero(as_tuple=True)
        each = (am[item, t] + lm[item, u]).softmax(1) * grad[item, t, u].unsqueeze(1)
        grad_am = grad_am.index_put((item, t), each, accumulate=True)
        grad_lm = grad_lm.index_put((item, u), each, accumulate=True)
    return grad_am, grad_lm


def _normaliser(am: Tensor, lm: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """The normaliser, the largest of each row, and which sums have underflowed."""
    top, base = am.amax(2, keepdim=True), lm.amax(2, keepdim=True)
    with torch.autocast(am.device.type, enabled=False):
        product = torch.matmul((am - top).exp(), (lm - base).exp().transpose(1, 2))
    far = product < torch.finfo(am.dtype).tiny / torch.finfo(am.dtype).eps
    norm = torch.where(far, 1.0, product).log() + top + base.transpose(1, 2)
    if bool(far.any()):
        item, t, u = far.nonzero(as_tuple=True)
        norm = norm.index_put((item, t, u), (am[item, t] + lm[item, u]).logsumexp(1))
    return norm, (top, base), far


def joint_normaliser_everywhere(am: Tensor, lm: Tensor) -> Tensor:
    """`joint_normaliser` for scripts and graphs: a product of float64, which goes down to e^-700.

    Autocast leaves float64 alone.
    """
    top, base = am.amax(2, keepdim=True), lm.amax(2, keepdim=True)
    product = torch.matmul((am - top).double().exp(), (lm - base).double().exp().transpose(1, 2))
    return product.log().to(am.dtype) + top + base.transpose(1, 2)
