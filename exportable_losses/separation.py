"""Losses of source separation: signal-to-noise ratios and permutation-invariant training."""

import torch
from torch import Tensor, nn

from . import ops
from .checks import check_inputs
from .contract import Contract, Input, Total
from .masking import as_floating
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["SDR", "PITLoss", "PITSISNRLoss", "PITSNRLoss", "SISNRImprovement", "SISNRLoss", "SNRLoss"]

PIT = Contract(
    (Input("preds", "B * S"), Input("targets", "B * S")),
    ("loss", "permutations"),
    ("preds", "targets"),
    totals=(Total("loss"),),
)
RATIO = Contract(
    (Input("source", "T E? B C", "signal"), Input("estimate_source", "T E? B C", "signal")),
    differentiable=("source", "estimate_source"),
    totals=(Total("loss", by="E C", each=True),),
)
PIT_SI_SNR = Contract(
    (Input("source", "B T S", "signal"), Input("estimate_source", "B T S", "signal")),
    differentiable=("source", "estimate_source"),
    totals=(Total("loss"),),
)
PIT_SNR = Contract(
    (Input("source", "B T E S", "signal"), Input("estimate_source", "B T E S", "signal")),
    differentiable=("source", "estimate_source"),
    totals=(Total("loss"),),
)

SDR_PIT = Contract(
    (Input("source", "B T S", "signal"), Input("estimate_source", "B T S", "signal")),
    ("sdr", "permutations"),
    ("source", "estimate_source"),
    totals=(Total("sdr", by="S", each=True),),
)
IMPROVEMENT = Contract(
    (*SDR_PIT.inputs, Input("mixture", "B T", "signal")),
    ("improvement", "permutations"),
    ("source", "estimate_source", "mixture"),
    totals=(Total("improvement", by="S", each=True),),
)


def _centred(signal: Tensor, time: int) -> Tensor:
    """`signal` around its mean, time last: sums along contiguous memory are fast and accurate."""
    signal = as_floating(signal).movedim(time, -1)
    rows = signal.reshape(-1, signal.shape[-1])  # onnxruntime would move a bare transposition behind the sum
    return (rows - rows.sum(-1, keepdim=True) / rows.shape[-1]).reshape(signal.shape)


def _under_autocast(tensor: Tensor) -> bool:
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _products(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each signal `[B, S, T]` of one with each of the other: `[B, S, S]`.

    A matrix product under autocast reads 16 bits, backwards too; a script cannot ask whether it is on.
    """
    dtype = torch.promote_types(one.dtype, other.dtype)
    if not torch.jit.is_scripting():  # noqa: SIM102  (a script would compile the other half of an `and`)
        if not _under_autocast(one):
            return one.to(dtype) @ other.transpose(1, 2).to(dtype)
    return (one.unsqueeze(2) * other.unsqueeze(1)).sum(-1)


def _energy(signal: Tensor) -> Tensor:
    return (signal * signal).sum(-1)


def _decibels(signal: Tensor, noise: Tensor, epsilon: float = 1e-8) -> Tensor:
    return 10 * torch.log10(signal / (noise + epsilon) + epsilon)


def _si_snr(target: Tensor, estimate: Tensor, dot: Tensor, epsilon: float = 1e-8) -> Tensor:
    """The scale-invariant ratio of centred signals `[*, T]`, given their inner products `[*]`."""
    energy = _energy(target)
    scale = dot / (energy + epsilon)
    # SpeechBrain's order of operations: the ratio of an exact estimate is all rounding
    noise = estimate - dot.unsqueeze(-1) * target / (energy + epsilon).unsqueeze(-1)
    return _decibels(scale * scale * energy, _energy(noise))


def _snr(target: Tensor, estimate: Tensor) -> Tensor:
    """The ratio of centred signals `[*, T]`."""
    return _decibels(_energy(target), _energy(estimate - target))


def cal_si_snr(source: Tensor, estimate_source: Tensor) -> Tensor:
    """Minus the scale-invariant signal-to-noise ratio, in decibels.

        target = <estimate, source> · source / |source|²
        loss = -10 log10(|target|² / |estimate - target|²)

    Le Roux et al. 2019, "SDR - half-baked or well done?", equation 3, https://arxiv.org/abs/1811.02508. The
    mean of each signal is removed first.

    Args:
        source: the true signals `[T, B, C]`; integers are accepted.
        estimate_source: the estimates `[T, B, C]`.

    Returns:
        `[1, B, C]`.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> t = torch.arange(8.0).reshape(8, 1, 1)
        >>> cal_si_snr(t.sin(), t.sin() + 0.1 * t.cos())
        tensor([[[-19.3559]]])
    """
    if not torch.jit.is_scripting():
        check_inputs(RATIO, {"source": source, "estimate_source": estimate_source})
    target, estimate = _centred(source, 0), _centred(estimate_source, 0)
    return -_si_snr(target, estimate, (estimate * target).sum(-1)).unsqueeze(0)


def cal_snr(source: Tensor, estimate_source: Tensor) -> Tensor:
    """Minus the signal-to-noise ratio, in decibels, for each channel.

        loss = -10 log10(|source|² / |estimate - source|²)

    The mean of each signal is removed first.

    Args:
        source: the true signals `[T, E, B, C]` (E channels) or `[T, B, C]`; integers are accepted.
        estimate_source: the estimates, the same shape.

    Returns:
        `[1, E, B, C]` or `[1, B, C]`.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> t = torch.arange(8.0).reshape(8, 1, 1)
        >>> cal_snr(t.sin(), 0.5 * t.sin())
        tensor([[[-6.0206]]])
    """
    if not torch.jit.is_scripting():
        check_inputs(RATIO, {"source": source, "estimate_source": estimate_source})
    return -_snr(_centred(source, 0), _centred(estimate_source, 0)).unsqueeze(0)


def best_assignment(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cost `[B]` of the cheapest assignment, and the assignment `[B, S]`.

    `costs` `[B, S, S]` has target i and prediction j at (i, j).
    """
    if torch.jit.is_scripting():
        permutations = ops.best_permutation(costs.detach())
    else:
        permutations = torch.ops.exportable_losses.best_permutation(costs.detach())
    return costs.gather(2, permutations.unsqueeze(-1)).squeeze(-1).mean(1), permutations


def pairs(preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Every prediction beside every target: `[..., S, S]`, target i and prediction j at (i, j)."""
    pair = torch.broadcast_tensors(preds.unsqueeze(-2), targets.unsqueeze(-1))
    return pair[0], pair[1]


def _by_source(x: Tensor) -> Tensor:
    """`[B, *, S]` as one row for each source: `[B, S, n]`."""
    return x.movedim(-1, 1).unsqueeze(2).flatten(2)


class PITLoss(nn.Module):
    """A loss under the best assignment of predictions to targets.

        loss = min over permutations p of  mean over i of base_loss(preds[p(i)], targets[i])

    Yu et al. 2017, "Permutation Invariant Training of Deep Models for Speaker-Independent Multi-talker Speech
    Separation", https://arxiv.org/abs/1607.00325. A dynamic programme over subsets finds the permutation in
    2^S steps instead of S!.

    Args:
        base_loss: a module that takes predictions and targets and reduces nothing; by default the squared
            error.

    The call takes `preds` and `targets` `[B, *, S]`, sources last. It returns the loss `[B]`, a mean over
    everything but B, and the permutations `[B, S]` (int64): prediction `p[b, i]` belongs to target i.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> targets = torch.arange(12.0).reshape(1, 4, 3)
        >>> loss, permutations = PITLoss()(targets[..., [2, 0, 1]], targets)
        >>> loss, permutations
        (tensor([0.]), tensor([[1, 2, 0]]))
    """

    extra_repr = settings_repr

    def __init__(self, base_loss: nn.Module | None = None) -> None:
        super().__init__()
        self.base_loss = base_loss

    def forward(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            check_inputs(PIT, {"preds": preds, "targets": targets})
        return best_assignment(self.costs(preds, targets))

    def costs(self, preds: Tensor, targets: Tensor) -> Tensor:
        """The loss of every prediction j with every target i at (i, j): `[B, S, S]`."""
        preds, targets = widened(preds), widened(targets)
        if self.base_loss is None:  # the squared error, sources first: means along contiguous memory
            error = _by_source(preds).unsqueeze(1) - _by_source(targets).unsqueeze(2)
            return (error * error).mean(-1)
        prediction, target = pairs(preds, targets)
        loss = self.base_loss(prediction, target)
        return loss.unsqueeze(1).flatten(1, -3).mean(1)


def get_si_snr_with_pitwrapper(source: Tensor, estimate_source: Tensor) -> Tensor:
    """Minus the SI-SNR under the best assignment of estimates to sources, in decibels: `[B]`.

        loss = min over permutations p of  mean over i of cal_si_snr(source[i], estimate_source[p(i)])

    `cal_si_snr` of Le Roux et al. 2019, https://arxiv.org/abs/1811.02508, assigned as in Yu et al. 2017,
    https://arxiv.org/abs/1607.00325.

    Args:
        source: `[B, T, S]`; integers are accepted.
        estimate_source: `[B, T, S]`.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> t = torch.arange(8.0)
        >>> source = torch.stack([t.sin(), t.cos()], -1).unsqueeze(0)
        >>> get_si_snr_with_pitwrapper(source, source[..., [1, 0]] + 0.1) < -60
        tensor([True])
    """
    if not torch.jit.is_scripting():
        check_inputs(PIT_SI_SNR, {"source": source, "estimate_source": estimate_source})
    # every source j with every estimate i at (i, j)
    target, estimate = _centred(source, 1), _centred(estimate_source, 1)
    dot = _products(estimate, target)
    return best_assignment(-_si_snr(target.unsqueeze(1), estimate.unsqueeze(2), dot))[0]


def get_snr_with_pitwrapper(source: Tensor, estimate_source: Tensor) -> Tensor:
    """Minus the SNR under the best assignment of estimates to sources, in decibels: `[B]`.

        loss = min over permutations p of
               mean over i and channels of cal_snr(source[i], estimate_source[p(i)])

    Assigned as in Yu et al. 2017, https://arxiv.org/abs/1607.00325.

    Args:
        source: `[B, T, E, S]` with E channels; integers are accepted.
        estimate_source: `[B, T, E, S]`.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> t = torch.arange(8.0)
        >>> source = torch.stack([t.sin(), t.cos()], -1).reshape(1, 8, 1, 2)
        >>> get_snr_with_pitwrapper(source, 0.5 * source[..., [1, 0]])
        tensor([-6.0206])
    """
    if not torch.jit.is_scripting():
        check_inputs(PIT_SNR, {"source": source, "estimate_source": estimate_source})
    # every source j with every estimate i at (i, j), for each channel
    target, estimate = _centred(source, 1), _centred(estimate_source, 1)
    return best_assignment(-_snr(target.unsqueeze(2), estimate.unsqueeze(3)).mean(1))[0]


class SISNRLoss(nn.Module):
    """`cal_si_snr` as a module. The call takes `source` and `estimate_source`."""

    def forward(self, source: Tensor, estimate_source: Tensor) -> Tensor:
        return cal_si_snr(source, estimate_source)


class SNRLoss(nn.Module):
    """`cal_snr` as a module. The call takes `source` and `estimate_source`."""

    def forward(self, source: Tensor, estimate_source: Tensor) -> Tensor:
        return cal_snr(source, estimate_source)


class PITSISNRLoss(nn.Module):
    """`get_si_snr_with_pitwrapper` as a module. The call takes `source` and `estimate_source`."""

    def forward(self, source: Tensor, estimate_source: Tensor) -> Tensor:
        return get_si_snr_with_pitwrapper(source, estimate_source)


class PITSNRLoss(nn.Module):
    """`get_snr_with_pitwrapper` as a module. The call takes `source` and `estimate_source`."""

    def forward(self, source: Tensor, estimate_source: Tensor) -> Tensor:
        return get_snr_with_pitwrapper(source, estimate_source)


def _chosen(ratios: Tensor, pit: bool) -> tuple[Tensor, Tensor]:
    """The ratio of each source `[B, S]` and the estimate that is its own `[B, S]`.

    `ratios` `[B, S, S]` has source i and estimate j at (i, j). With `pit` the assignment is the one
    with the highest sum; without it every estimate stands where its source does.
    """
    if not pit:
        sources = torch.arange(ratios.shape[1], device=ratios.device)
        permutations = sources.unsqueeze(0).repeat(ratios.shape[0], 1)
    elif torch.jit.is_scripting():
        permutations = ops.best_permutation(-ratios.detach())
    else:
        permutations = torch.ops.exportable_losses.best_permutation(-ratios.detach())
    return ratios.gather(2, permutations.unsqueeze(-1)).squeeze(-1), permutations


class SDR(nn.Module):
    """The signal-to-distortion ratio of each source, in decibels; it depends on the estimate's scale.

        sdr = 10 log10(|source|² / |estimate - source|²)
        with rescale: sdr = 10 log10(|a · source|² / |estimate - source|²)
                      a = <estimate, source> / |source|²

    Le Roux et al. 2019, "SDR - half-baked or well done?", https://arxiv.org/abs/1811.02508. With `rescale` it
    is their SD-SDR, which does not rise if the estimate is too loud or too soft.

    Args:
        rescale: scale the source in the numerator to its share of the estimate.
        zero_mean: remove the mean of each signal first.
        pit: assign estimates to sources for the highest sum of ratios; without it estimate i belongs
            to source i.

    The call takes `source` and `estimate_source` `[B, T, S]`; integers are accepted. It returns the
    ratios `[B, S]` and the permutations `[B, S]` (int64): estimate `p[b, i]` belongs to source i.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> t = torch.arange(8.0)
        >>> source = torch.stack([t.sin(), t.cos()], -1).unsqueeze(0)
        >>> SDR()(source, 0.5 * source[..., [1, 0]])
        (tensor([[6.0206, 6.0206]]), tensor([[1, 0]]))
    """

    extra_repr = settings_repr

    def __init__(self, rescale: bool = False, zero_mean: bool = False, pit: bool = True) -> None:
        super().__init__()
        self.rescale = rescale
        self.zero_mean = zero_mean
        self.pit = pit

    def forward(self, source: Tensor, estimate_source: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            check_inputs(SDR_PIT, {"source": source, "estimate_source": estimate_source})
        elif source.shape[1] == 0:  # a sum over no frames is a number
            raise ValueError("source: got no frames, expected at least one")
        if self.zero_mean:
            target, estimate = _centred(source, 1), _centred(estimate_source, 1)
        else:
            target = as_floating(source).movedim(1, -1)
            estimate = as_floating(estimate_source).movedim(1, -1)
        energy = _energy(target).unsqueeze(2)
        noise = _energy(target.unsqueeze(2) - estimate.unsqueeze(1))
        if self.rescale:
            scale = _products(target, estimate) / (energy + 1e-8)
            energy = scale * scale * energy
        return _chosen(_decibels(energy, noise), self.pit)


class SISNRImprovement(nn.Module):
    """How much higher the SI-SNR of an estimate is than that of the mixture, in decibels.

        improvement = SI-SNR(source, estimate) - SI-SNR(source, mixture)

    Luo and Mesgarani 2019, "Conv-TasNet", https://arxiv.org/abs/1809.07454. `cal_si_snr` has the ratio, with
    the opposite sign.

    Args:
        pit: assign estimates to sources for the highest sum of ratios; without it estimate i belongs
            to source i.

    The call takes `source` and `estimate_source` `[B, T, S]` and `mixture` `[B, T]`; integers are accepted.
    It returns the improvement for each source `[B, S]` and the permutations `[B, S]` (int64): estimate `p[b,
    i]` belongs to source i.

    Raises:
        ValueError: the shapes do not match.

    Examples:
        >>> import torch
        >>> t = torch.arange(8.0)
        >>> source = torch.stack([t.sin(), t.cos()], -1).unsqueeze(0)
        >>> mixture = source.sum(-1)
        >>> improvement, permutations = SISNRImprovement()(source, source[..., [1, 0]] + 0.1, mixture)
        >>> permutations
        tensor([[1, 0]])
    """

    extra_repr = settings_repr

    def __init__(self, pit: bool = True) -> None:
        super().__init__()
        self.pit = pit

    def forward(self, source: Tensor, estimate_source: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            given = {"source": source, "estimate_source": estimate_source, "mixture": mixture}
            check_inputs(IMPROVEMENT, given)
        target, estimate = _centred(source, 1), _centred(estimate_source, 1)
        mixed = _centred(mixture, 1).unsqueeze(1)
        dot = _products(target, estimate)
        ratio, permutations = _chosen(_si_snr(target.unsqueeze(2), estimate.unsqueeze(1), dot), self.pit)
        return ratio - _si_snr(target, mixed, (target * mixed).sum(-1)), permutations
