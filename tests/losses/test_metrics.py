"""Metrics against what is not ours: scikit-learn, torchmetrics, or a loop over the definition."""

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional as peers
from enumeration import collapse
from sklearn.metrics import roc_curve, top_k_accuracy_score
from torch import Tensor, nn

import exportable_losses as el

F64 = torch.float64
LENGTH = torch.tensor([1.0, 0.5, 0.75], dtype=F64)
FRAMES = (12, 6, 9)  # of LENGTH, in 12


def ways(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    return module, torch.jit.script(module)


def classes(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Probabilities and targets; every other target is the best class."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(*shape, 5, generator=generator, dtype=F64)).softmax(-1)
    targets = torch.randint(5, shape, generator=generator)
    return probabilities, torch.where(
        torch.rand(shape, generator=generator) < 0.5, targets, probabilities.argmax(-1)
    )


def within(x: Tensor) -> Tensor:
    """The frames that LENGTH leaves, one after the other."""
    return torch.cat([item[:n] for item, n in zip(x, FRAMES, strict=True)])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("top_k", [1, 2, 4, 5, 9])
def test_accuracy_is_scikit_learns(top_k: int) -> None:
    probabilities, targets = classes(top_k, 3, 12)
    for module in ways(el.Accuracy(top_k)):
        expected = top_k_accuracy_score(within(targets), within(probabilities), k=top_k, labels=range(5))
        assert module(probabilities, targets, LENGTH).item() == pytest.approx(expected)
        items = top_k_accuracy_score(targets[0], probabilities[0], k=top_k, labels=range(5))
        assert module(probabilities[0], targets[0]).item() == pytest.approx(items)
        batch = el.Accuracy(top_k, reduction="batch")(probabilities, targets, LENGTH)
        for got, p, t, n in zip(batch, probabilities, targets, FRAMES, strict=True):
            assert got.item() == pytest.approx(top_k_accuracy_score(t[:n], p[:n], k=top_k, labels=range(5)))


def test_accuracy_and_the_classification_error_are_one() -> None:
    # whole numbers: many classes are equally probable
    scores = torch.randint(3, (4, 20, 6), generator=torch.Generator().manual_seed(0)).to(F64)
    targets = torch.randint(6, (4, 20), generator=torch.Generator().manual_seed(1))
    error = el.ClassificationError(reduction="none")(scores, targets)
    assert torch.equal(el.Accuracy(reduction="none")(scores, targets), 1 - error)


def test_equal_scores_rank_by_their_index() -> None:
    scores = torch.zeros(4, 4)
    for k in (1, 2, 3, 4):
        hits = el.Accuracy(k, reduction="none")(scores, torch.arange(4))
        assert hits.tolist() == [1.0] * k + [0.0] * (4 - k)


def test_a_nan_is_no_hit() -> None:
    scores = torch.tensor([[math.nan, 1.0, 0.0]] * 3)
    assert el.Accuracy(reduction="none")(scores, torch.arange(3)).tolist() == [0.0, 0.0, 0.0]
    assert el.Accuracy(2, reduction="none")(scores, torch.arange(3)).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("n_bins", [1, 2, 10, 15])
def test_calibration_is_torchmetrics(n_bins: int) -> None:
    probabilities, targets = classes(n_bins, 3, 12)
    for module in ways(el.ExpectedCalibrationError(n_bins)):
        for got, (p, t) in (
            (module(probabilities, targets, LENGTH)[0], (within(probabilities), within(targets))),
            (module(probabilities[1], targets[1])[0], (probabilities[1], targets[1])),
        ):
            expected = peers.calibration_error(p, t, "multiclass", n_bins=n_bins, num_classes=5)
            torch.testing.assert_close(got, expected.to(F64), rtol=1e-6, atol=1e-7)


def test_bins_hold_their_upper_edge() -> None:
    # confidences on every edge of four bins; bin m is above (m - 1) / 4 and at most m / 4
    confidence = torch.tensor([0.5, 0.75, 0.75, 1.0, 0.76], dtype=F64)
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    targets = torch.tensor([0, 1, 0, 0, 0])
    gaps: dict[int, float] = {}
    for c, hit in zip(confidence.tolist(), (targets == 0).tolist(), strict=True):
        m = math.ceil(4 * c)
        gaps[m] = gaps.get(m, 0.0) + hit - c
    error, sums, frames = el.ExpectedCalibrationError(4)(probabilities, targets)
    assert error.item() == pytest.approx(sum(map(abs, gaps.values())) / 5)
    assert sums.tolist() == pytest.approx([gaps.get(m, 0.0) for m in range(1, 5)])
    assert frames.item() == 5


def test_perplexity_is_torchmetrics() -> None:
    probabilities, targets = classes(0, 3, 12)
    log_probabilities = probabilities.log()
    ignored = targets.clone()
    for item, n in zip(ignored, FRAMES, strict=True):
        item[n:] = -100
    expected = peers.text.perplexity(log_probabilities, ignored, ignore_index=-100).to(F64)
    for module in ways(el.Perplexity()):
        torch.testing.assert_close(module(log_probabilities, targets, LENGTH), expected)
        items = peers.text.perplexity(log_probabilities[:1], targets[:1])
        torch.testing.assert_close(module(log_probabilities[0], targets[0]), items.to(F64))
    for module in ways(el.Perplexity(reduction="batch")):
        got = module(log_probabilities, targets, LENGTH)
        each = [
            peers.text.perplexity(log_probabilities[i : i + 1, :n], targets[i : i + 1, :n])
            for i, n in enumerate(FRAMES)
        ]
        torch.testing.assert_close(got, torch.stack(each).to(F64))


def trials(seed: int, levels: int) -> tuple[Tensor, Tensor]:
    """Scores of 1 to 40 trials of each kind; of few levels, so that many are equal, or of none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 41, (2,), generator=generator).tolist()
    positive, negative = (torch.randn(n, generator=generator, dtype=F64) for n in sizes)
    positive = positive + torch.rand((), generator=generator, dtype=F64) * 3 - 0.5
    return ((levels * x).round() if levels else x for x in (positive, negative))  # type: ignore[return-value]


def roc(positive: Tensor, negative: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return roc_curve(labels, np.r_[positive.numpy(), negative.numpy()], drop_intermediate=False)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_equal_error_rates_are_those_of_scikit_learns_roc(levels: int) -> None:
    modules = ways(el.EqualErrorRate())
    for seed in range(60):
        positive, negative = trials(seed, levels)
        alarms, hits, thresholds = roc(positive, negative)
        excess = 1 - hits - alarms  # falls along the curve, from 1 to -1
        expected = np.interp(0.0, -excess, alarms)
        threshold = thresholds[np.argmax(excess <= 1e-12)]
        for module in modules:
            eer, at = module(positive, negative)
            assert eer.item() == pytest.approx(expected, abs=1e-12)
            assert at.item() == threshold


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"p_target": 0.5},
        {"c_miss": 10.0, "c_fa": 0.5, "p_target": 0.2},
        {"p_target": 0.9, "normalize": True},
    ],
    ids=str,
)
def test_least_costs_are_those_of_scikit_learns_roc(levels: int, costs: dict[str, float]) -> None:
    modules = ways(el.MinDCF(**costs))
    c_miss, c_fa, p = costs.get("c_miss", 1.0), costs.get("c_fa", 1.0), costs.get("p_target", 0.01)
    for seed in range(60):
        positive, negative = trials(seed, levels)
        alarms, hits, _ = roc(positive, negative)
        expected = (c_miss * p * (1 - hits) + c_fa * (1 - p) * alarms).min()
        if "normalize" in costs:
            expected /= min(c_miss * p, c_fa * (1 - p))
        for module in modules:
            assert module(positive, negative).item() == pytest.approx(expected, abs=1e-12)


def test_scores_that_tell_nothing_or_everything() -> None:
    ones, zeros = torch.ones(4), torch.zeros(3)
    assert [x.item() for x in el.EqualErrorRate()(ones, zeros)] == [0.0, 1.0]
    assert [x.item() for x in el.EqualErrorRate()(zeros, ones)] == [1.0, 1.0]
    assert [x.item() for x in el.EqualErrorRate()(ones, torch.ones(9))] == [0.5, 1.0]
    assert el.MinDCF()(ones, zeros).item() == 0.0
    assert el.MinDCF()(zeros, ones).item() == pytest.approx(0.01)  # nothing is accepted
    assert el.MinDCF(p_target=0.99)(zeros, ones).item() == pytest.approx(0.01)  # all is


def test_infinite_scores_have_their_place() -> None:
    positive = torch.tensor([math.inf, 1.0, -math.inf])
    assert el.EqualErrorRate()(positive, torch.tensor([-math.inf, 0.0, 2.0]))[0].item() == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize("metric", [el.EqualErrorRate(), el.MinDCF()])
def test_a_score_that_is_no_number_makes_none(metric: nn.Module) -> None:
    outputs = metric(torch.tensor([1.0, math.nan]), torch.zeros(3))
    assert all(x.isnan() for x in (outputs if isinstance(outputs, tuple) else (outputs,)))


def test_no_gradient_goes_through_a_threshold() -> None:
    scores = torch.ones(2, requires_grad=True)
    assert not any(x.requires_grad for x in el.EqualErrorRate()(scores, scores))


def mixtures(seed: int, sources: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, estimates of them in another order, and what they add up to."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(3, 40, sources, generator=generator, dtype=F64) + 0.5
    noise = torch.randn(3, 40, sources, generator=generator, dtype=F64)
    order = torch.randperm(sources, generator=generator)
    return source, 0.7 * (source + 0.5 * noise)[..., order], source.sum(-1) + 0.1 * noise[..., 0]


def sd_sdr(preds: Tensor, target: Tensor) -> Tensor:
    """The ratio of Le Roux et al. below their equation 4: the SNR and 20 log10 of the scale."""
    scale = (preds * target).sum(-1) / target.square().sum(-1)
    return peers.audio.signal_noise_ratio(preds, target) + 20 * scale.abs().log10()


RATIOS = {
    "plain": (el.SDR(), peers.audio.signal_noise_ratio),
    "zero_mean": (
        el.SDR(zero_mean=True),
        lambda preds, target: peers.audio.signal_noise_ratio(preds, target, zero_mean=True),
    ),
    "rescale": (el.SDR(rescale=True), sd_sdr),
}


@pytest.mark.parametrize("sources", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", RATIOS)
def test_distortion_ratios_are_torchmetrics(kind: str, sources: int) -> None:
    metric, peer = RATIOS[kind]
    source, estimate, _ = mixtures(sources, sources)
    preds, target = estimate.movedim(-1, 1), source.movedim(-1, 1)
    best, order = peers.audio.permutation_invariant_training(preds, target, peer)
    for module in ways(metric):
        sdr, permutations = module(source, estimate)
        torch.testing.assert_close(sdr.mean(1), best)
        assert torch.equal(permutations, order)
    as_they_stand, permutations = type(metric)(metric.rescale, metric.zero_mean, pit=False)(source, estimate)
    expected = peer(preds, target)
    audible = expected > -30  # so low that the 1e-8 in our logarithm shows, an estimate is no estimate
    torch.testing.assert_close(as_they_stand[audible], expected[audible], rtol=0, atol=1e-4)
    assert permutations.tolist() == [list(range(sources))] * 3


@pytest.mark.parametrize("sources", [1, 2, 3, 4])
def test_improvements_are_torchmetrics(sources: int) -> None:
    source, estimate, mixture = mixtures(sources, sources)
    preds, target = estimate.movedim(-1, 1), source.movedim(-1, 1)
    peer = peers.audio.scale_invariant_signal_noise_ratio
    before = peer(mixture.unsqueeze(1).expand_as(target), target)
    _, order = peers.audio.permutation_invariant_training(preds, target, peer)
    after = peer(peers.audio.pit_permutate(preds, order), target)
    for module in ways(el.SISNRImprovement()):
        improvement, permutations = module(source, estimate, mixture)
        torch.testing.assert_close(improvement, after - before, rtol=1e-6, atol=1e-6)
        assert torch.equal(permutations, order)
    as_they_stand, _ = el.SISNRImprovement(pit=False)(source, estimate, mixture)
    audible = peer(preds, target) > -30
    expected = peer(preds, target) - before
    torch.testing.assert_close(as_they_stand[audible], expected[audible], rtol=0, atol=1e-4)


def test_silence_has_a_finite_ratio() -> None:
    source, estimate, mixture = mixtures(0, 2)
    for s, e, m in (
        (0 * source, estimate, mixture),
        (source, 0 * estimate, 0 * mixture),
        (source, source, mixture),
    ):
        for metric in (el.SDR(), el.SDR(rescale=True)):
            assert metric(s, e)[0].isfinite().all()
        assert el.SISNRImprovement()(s, e, m)[0].isfinite().all()


@pytest.mark.parametrize("padding", [0, -1])
@pytest.mark.parametrize("blank", range(3))
def test_greedy_decoding_of_every_path(blank: int, padding: int) -> None:
    for frames in (1, 2, 5):
        paths = torch.cartesian_prod(*[torch.arange(3)] * frames).reshape(-1, frames)
        log_probs = (3 * torch.eye(3, dtype=F64)[paths]).log_softmax(-1)
        for length in range(1, frames + 1):
            lens = torch.full((len(paths),), length / frames, dtype=F64)
            for module in ways(el.CTCGreedyDecode(blank, padding)):
                tokens, lengths = module(log_probs, lens)
                for path, got, n in zip(paths.tolist(), tokens.tolist(), lengths.tolist(), strict=True):
                    spelt = list(collapse(tuple(path[:length]), blank))
                    assert got == spelt + [padding] * (frames - len(spelt))
                    assert n == len(spelt)


def test_a_script_has_no_distortion_ratio_of_no_frames() -> None:
    nothing = torch.zeros(1, 0, 1)
    with pytest.raises(torch.jit.Error, match="source: got no frames, expected at least one"):
        torch.jit.script(el.SDR())(nothing, nothing)
