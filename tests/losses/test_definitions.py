"""Rows against their definition, written out plainly, where the recordings do not reach."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import exportable_losses as el
from exportable_losses import functional as F
from exportable_losses import speechbrain as losses

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize(("frames", "labels"), [(6, 4), (4, 6)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_longer_of_two_is_cut(frames: int, labels: int, smoothing: float) -> None:
    scores, classes = random(2, frames, 3).log_softmax(-1), torch.randint(3, (2, labels))
    length = torch.tensor([1.0, 0.5])
    short, same = (scores[:, :4], classes[:, :4]), {"label_smoothing": smoothing, "allowed_len_diff": 2}
    for reduction in ("mean", "batch", "none"):
        for loss in (F.nll_loss, F.kldiv_loss):
            got = loss(scores, classes, length, reduction=reduction, **same)
            torch.testing.assert_close(got, loss(*short, length, reduction=reduction, **same))
        got = F.bce_loss(scores[..., 0], classes.bool(), length, reduction=reduction, **same)
        expected = F.bce_loss(short[0][..., 0], short[1].bool(), length, reduction=reduction, **same)
        torch.testing.assert_close(got, expected)
        got = F.classification_error(scores, classes, length, reduction=reduction, allowed_len_diff=2)
        assert torch.equal(got, F.classification_error(*short, length, reduction=reduction))


def test_label_smoothing_of_nll() -> None:
    scores, classes = random(2, 5, 3).log_softmax(-1), torch.randint(3, (2, 5))
    got = F.nll_loss(scores, classes, label_smoothing=0.2, reduction="none")
    for b in range(2):
        for t in range(5):
            expected = -0.8 * scores[b, t, classes[b, t]] - 0.2 * scores[b, t].mean()
            torch.testing.assert_close(got[b, t], expected)


def test_class_weights_weigh_frames_and_not_the_mean() -> None:
    scores, classes = random(1, 2, 2).log_softmax(-1), torch.tensor([[0, 1]])
    got = F.nll_loss(scores, classes, weight=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(got, -(scores[0, 0, 0] + 3 * scores[0, 1, 1]) / 2)


def test_item_weights_of_bce() -> None:
    inputs, targets, weight = random(2, 3), torch.ones(2, 3), torch.tensor([1.0, 4.0])
    plain = F.bce_loss(inputs, targets, reduction="none")
    torch.testing.assert_close(
        F.bce_loss(inputs, targets, weight=weight, reduction="none"), plain * weight[:, None]
    )


def test_label_smoothing_of_single_logits_follows_speechbrain() -> None:
    inputs, targets = random(3), torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    plain = F.bce_loss(inputs, targets)
    torch.testing.assert_close(
        F.bce_loss(inputs, targets, label_smoothing=0.2), 0.8 * plain - 0.2 * inputs.sum()
    )


@pytest.mark.parametrize("reduction", ["mean", "batch", "sum", "none", "batchmean"])
@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_a_smoothed_logit_is_its_item_s_own(shape: tuple[int, ...], reduction: str) -> None:
    """But for the mean of `[B]`, which is SpeechBrain's."""
    inputs, targets = random(5), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=F64)
    loss = nn.functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    own = 0.7 * loss - 0.3 * inputs
    got = F.bce_loss(inputs.reshape(shape), targets, label_smoothing=0.3, reduction=reduction)
    expected = own.mean() if "mean" in reduction else own
    if shape == (5,) and reduction == "mean":
        expected = 0.7 * loss.mean() - 0.3 * inputs.sum()
    torch.testing.assert_close(got.flatten(), expected.flatten())


def test_distance_diff_loss_saturates() -> None:
    loss = F.distance_diff_loss(
        torch.ones(1, 60), torch.tensor([10.0]), beta=0.5, max_weight=20.0, reduction="none"
    )
    expected = [min(math.exp(0.5 * abs(i - 10)) - 1, 20.0) for i in range(60)]
    torch.testing.assert_close(loss[0, :, 0], torch.tensor(expected))


def test_a_mask_can_be_written_to() -> None:
    mask = F.compute_length_mask(torch.zeros(2, 3, 4), torch.ones(2))
    mask[0, 0, 0] = 0
    assert mask.sum() == 23


@pytest.mark.parametrize("mask_shape", ["targets", "predictions", "loss"])
def test_the_mask_of_a_masked_loss_takes_the_shape_asked_for(mask_shape: str) -> None:
    length = torch.tensor([1.0, 0.5])
    predictions, targets = random(2, 4, 3), random(2, 4, 3, seed=1)
    error = (predictions - targets).abs()
    expected = (error[0].sum() + error[1, :2].sum()) / 18
    got = F.compute_masked_loss(lambda p, t: (p - t).abs(), predictions, targets, length, 0.0, mask_shape)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(el.MaskedLoss(mask_shape=mask_shape)(predictions, targets, length), expected)


def test_masked_losses_of_classes_are_smoothed() -> None:
    scores, classes, length = (
        random(2, 3, 4).log_softmax(1),
        torch.randint(3, (2, 4)),
        torch.tensor([1.0, 0.5]),
    )
    nll = nn.NLLLoss(reduction="none")
    for reduction in ("mean", "batch", "batchmean", "none"):
        got = F.compute_masked_loss(nll, scores, classes, length, 0.1, reduction=reduction)
        expected = F.nll_loss(scores.transpose(1, 2), classes, length, 0.1, reduction=reduction)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
def test_additive_angular_margin(easy_margin: bool, scripted: bool) -> None:
    margin, scale = 0.5, 30.0
    cosines = torch.linspace(-0.999, 0.999, 101, dtype=F64).unsqueeze(1).repeat(1, 2)
    targets = torch.tensor([[1.0, 0.0]], dtype=F64).expand(101, 2)
    module = el.AdditiveAngularMargin(margin, scale, easy_margin)
    got = (torch.jit.script(module) if scripted else module)(cosines, targets)
    for cosine, (target, other) in zip(cosines[:, 0].tolist(), got.tolist(), strict=True):
        angle = math.acos(cosine)
        shifted = math.cos(angle + margin)
        if easy_margin and cosine <= 0:
            shifted = cosine
        if not easy_margin and angle + margin >= math.pi:
            shifted = cosine - margin * math.sin(margin)
        assert target == pytest.approx(scale * shifted, abs=1e-5)
        assert other == pytest.approx(scale * cosine)


def test_cosines_of_one_have_a_gradient() -> None:
    cosines = torch.tensor([[1.0, -1.0]], requires_grad=True)
    el.AdditiveAngularMargin(0.2)(cosines, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert cosines.grad is not None
    assert cosines.grad.isfinite().all()


def test_log_softmax_wrapper_is_a_cross_entropy() -> None:
    cosines, targets = random(4, 1, 3).tanh(), torch.tensor([[0], [2], [1], [2]])
    for loss_fn, predictions in (
        (None, cosines[:, 0]),
        (el.AngularMargin(0.2, 5.0), 5 * (cosines[:, 0] - 0.2 * torch.eye(3)[targets[:, 0]])),
    ):
        expected = nn.functional.cross_entropy(predictions, targets[:, 0])
        torch.testing.assert_close(el.LogSoftmaxWrapper(loss_fn)(cosines, targets), expected)


@pytest.mark.parametrize("scripted", [False, True])
def test_contrastive_negatives_that_are_the_positive_do_not_count(scripted: bool) -> None:
    x, y, negs = random(2, 3, 4), random(2, 3, 4, seed=1), random(5, 2, 3, 4, seed=2)
    negs[1, 0, 2] = y[0, 2]
    negs[3, 0, 1, 2] = y[0, 1, 2]  # one number alone makes no positive
    negs[:, 1, 1] = y[1, 1]  # none is left here
    module = el.ContrastiveLoss(0.5)
    loss, accuracy = (torch.jit.script(module) if scripted else module)(x, y, negs)
    expected, right = 0.0, 0
    for b in range(2):
        for t in range(3):
            positive = cosine_similarity(x[b, t], y[b, t], dim=0)
            others = [n for n in negs[:, b, t] if not torch.equal(n, y[b, t])]
            negative = [cosine_similarity(x[b, t], n, dim=0) for n in others]
            scores = torch.stack([positive, *negative]) / 0.5
            expected += float(scores.logsumexp(0) - scores[0])
            right += all(positive >= n for n in negative)
    # a script that has once been trained says that it requires gradients ever after
    assert loss.detach() == pytest.approx(expected)
    assert accuracy == pytest.approx(right / 6)


def test_the_positive_wins_a_tie() -> None:
    x = torch.ones(1, 1, 2)
    _, accuracy = el.ContrastiveLoss()(x, x, 2 * x.unsqueeze(0))
    assert accuracy == 1


@pytest.mark.parametrize("reduction", ["mean", "batch"])
@pytest.mark.parametrize(
    ("shape", "len_dim"), [((2, 9, 7), 1), ((2, 9, 7), 2), ((2, 3, 9, 7), 2), ((2, 3, 9, 7), 3)]
)
def test_the_variance_is_of_what_lies_within_the_length(
    shape: tuple[int, ...], len_dim: int, reduction: str
) -> None:
    images, length = random(*shape), torch.tensor([1.0, 0.6])
    edges = el.Laplacian(3)(images).movedim(len_dim, 1)
    kept = math.ceil(0.6 * edges.shape[1])
    each = [edges[0].flatten(), edges[1, :kept].flatten()]
    expected = torch.stack([-x.var() for x in each]) if reduction == "batch" else -torch.cat(each).var()
    got = el.LaplacianVarianceLoss(3, len_dim, reduction)(images, length)
    torch.testing.assert_close(got, expected)
    drop_in = losses.LaplacianVarianceLoss(3, len_dim)
    torch.testing.assert_close(drop_in(images, length, "batch" if reduction == "batch" else None), expected)


def test_the_laplacian_of_each_channel() -> None:
    images = random(2, 3, 5, 6)
    got = el.Laplacian(3)(images)
    for b in range(2):
        for c in range(3):
            for h in range(3):
                for w in range(4):
                    patch = images[b, c, h : h + 3, w : w + 3]
                    torch.testing.assert_close(got[b, c, h, w], 9 * patch[1, 1] - patch.sum())


@pytest.mark.parametrize("len_dim", [1, 2])
def test_autoencoder_details_along_either_dimension(len_dim: int) -> None:
    rec, targets = random(2, 4, 4), random(2, 4, 4, seed=1)
    mean, log_var = random(2, 4, 4, seed=2), random(2, 4, 4, seed=3)
    length = torch.tensor([1.0, 0.5])
    kept = torch.ones(2, 4, 4, dtype=F64)
    kept[1].narrow(len_dim - 1, 2, 2).zero_()
    rec_loss = ((rec - targets).abs() * kept).sum() / kept.sum()
    dist_loss = (0.5 * (mean**2 + log_var.exp() - 1 - log_var) * kept).sum() / kept.sum()
    l1 = nn.L1Loss(reduction="none")
    got = el.VariationalAutoencoderLoss(l1, len_dim, 0.1, "mean")(rec, mean, log_var, targets, length)
    torch.testing.assert_close(tuple(got), (rec_loss + 0.1 * dist_loss, rec_loss, dist_loss, 0.1 * dist_loss))
    plain = el.AutoencoderLoss(l1, len_dim, "mean")(rec, targets, length)
    torch.testing.assert_close(tuple(plain), (rec_loss, rec_loss))


def test_a_length_is_the_whole_number_that_was_meant() -> None:
    # half a millionth of a frame more than two frames: two count, a tenth more: three
    error = torch.tensor([[1.0, 1.0, 4.0, 9.0]], dtype=F64)
    autoencoder = el.AutoencoderLoss(nn.L1Loss(reduction="none"), reduction="mean")
    for length, expected in ((0.5 + 1e-7, 1.0), (0.525, 2.0)):
        lengths = torch.tensor([length], dtype=F64)
        assert autoencoder(error, 0 * error, lengths).loss == pytest.approx(expected)
        assert F.l1_loss(error, 0 * error, lengths) == pytest.approx(expected)


def test_distilled_frames_are_rounded() -> None:
    student, teacher = random(1, 5, 3), random(1, 5, 3, seed=1)
    for length, frames in ((0.5, 2), (0.7, 4), (0.29, 1), (1.0, 5)):
        expected = -(student * teacher)[:, :frames].sum() / frames
        torch.testing.assert_close(F.nll_loss_kd(student, teacher, torch.tensor([length])), expected)
    torch.testing.assert_close(F.ce_kd(student[0], teacher[0]), -(student * teacher)[0].sum(1))
