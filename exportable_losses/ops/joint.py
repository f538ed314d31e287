"""The arcs of logits that are sums, am(t) + lm(u), which are never in memory for all t, u and classes."""

import torch
from torch import Tensor

from .transducer import behind


def joint_arcs(
    am: Tensor,
    lm: Tensor,
    labels: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ln p(blank | t, u) and ln p(label | t, u) `[B, T, U+1, 2]`, and what the gradient needs of the way
    there.

        p(k | t, u) = exp(am(t, k) + lm(u, k) - normaliser(t, u))

    The normaliser is the logarithm of a product of matrices of exponentials, each less its largest. Where no
    class is near the top of both, the product underflows, and those few sums are taken as they stand. What
    lies behind an item's lengths means nothing.

    Args:
        am: `[B, T, V]`, float32 or float64.
        lm: `[B, U+1, V]`, of the same type.
        labels: of each u `[B, U+1]`, int64.
        input_lengths: frames per item `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        blank_index: the class of the blank.
    """
    (top, of_am), (base, of_lm) = _exponentials(am), _exponentials(lm)
    with torch.autocast(am.device.type, enabled=False):
        product = torch.matmul(of_am, of_lm.transpose(1, 2))
    far = _underflows(product)
    norm = product.log().add_(top).add_(base.transpose(1, 2))
    if bool(far.any()):
        item, t, u = far.nonzero(as_tuple=True)
        norm.index_put_((item, t, u), (am[item, t] + lm[item, u]).logsumexp(1))
    arcs = am.new_empty((*norm.shape, 2))
    stay, emit = arcs_at(am, lm, labels, blank_index)
    torch.sub(stay, norm, out=arcs[..., 0])
    torch.sub(emit, norm, out=arcs[..., 1])
    return arcs, product, of_am, of_lm


def joint_arcs_grad(
    am: Tensor,
    lm: Tensor,
    labels: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    arcs: Tensor,
    product: Tensor,
    of_am: Tensor,
    of_lm: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients in `am` and `lm`, of that of the `arcs` that `joint_arcs` gives."""
    nowhere = behind(product, input_lengths, target_lengths)
    grad = grad.masked_fill(nowhere.unsqueeze(3), 0.0)
    # a NaN behind the lengths stays there
    of_am, of_lm = without_padding(of_am, input_lengths), without_padding(of_lm, target_lengths + 1)
    through = grad.sum(3).neg_()  # the normaliser
    far = _underflows(product) & ~nowhere
    shares = (through / product).masked_fill_(far | nowhere, 0.0)
    with torch.autocast(am.device.type, enabled=False):
        grad_am = torch.matmul(shares, of_lm).mul_(of_am)
        grad_lm = torch.matmul(shares.transpose(1, 2), of_am).mul_(of_lm)
    if bool(far.any()):
        item, frame, place = far.nonzero(as_tuple=True)
        each = (am[item, frame] + lm[item, place]).softmax(1) * through[item, frame, place].unsqueeze(1)
        grad_am.index_put_((item, frame), each, accumulate=True)
        grad_lm.index_put_((item, place), each, accumulate=True)
    stay, emit = grad[..., 0], grad[..., 1]
    grad_am[..., blank_index] += stay.sum(2)
    grad_am.scatter_add_(2, labels.unsqueeze(1).expand_as(emit), emit)
    grad_lm[..., blank_index] += stay.sum(1)
    grad_lm.scatter_add_(2, labels.unsqueeze(2), emit.sum(1).unsqueeze(2))
    return grad_am, grad_lm


def _underflows(product: Tensor) -> Tensor:
    return product < torch.finfo(product.dtype).tiny / torch.finfo(product.dtype).eps


def _exponentials(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row `[..., 1]`, and the exponentials less it."""
    top = x.amax(2, keepdim=True)
    return top, (x - top).exp_()


def arcs_at(am: Tensor, lm: Tensor, labels: Tensor, blank_index: int) -> tuple[Tensor, Tensor]:
    """The logits of the blank and of the label at each node: `[B, T, U+1]` both."""
    stay = am[..., blank_index].unsqueeze(2) + lm[..., blank_index].unsqueeze(1)
    of_label = labels.unsqueeze(1).expand(-1, am.shape[1], -1)
    return stay, am.gather(2, of_label) + lm.gather(2, labels.unsqueeze(2)).squeeze(2).unsqueeze(1)


def joint_arcs_everywhere(
    am: Tensor,
    lm: Tensor,
    labels: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
) -> Tensor:
    """The arcs of `joint_arcs` for scripts and graphs: a product of float64, which goes down to e^-700.

    Autocast leaves float64 alone.
    """
    am, lm = without_padding(am, input_lengths), without_padding(lm, target_lengths + 1)
    top, base = am.amax(2, keepdim=True), lm.amax(2, keepdim=True)
    # what is transposed just before a product ONNX Runtime multiplies by a kernel that has no float64
    of_am, of_lm = (am - top).double().exp(), (lm - base).transpose(1, 2).double().exp()
    product = torch.matmul(of_am, of_lm)
    norm = product.log().to(am.dtype) + top + base.transpose(1, 2)
    stay, emit = arcs_at(am, lm, labels, blank_index)
    return torch.stack([stay - norm, emit - norm], 3)


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """`x` `[B, N, V]` with zeros behind the lengths `[B]`: autograd would multiply a NaN there by zero."""
    n = torch.arange(x.shape[1], device=x.device)
    return x.masked_fill((n >= lengths.unsqueeze(1)).unsqueeze(2), 0.0)
