"""Every example of SpeechBrain's documentation of `speechbrain.nnet.losses` holds for the drop-in."""

import inspect
from typing import NamedTuple

import pytest
import torch
from recorded import Prediction
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses import speechbrain as losses

DETAILS = {"AutoencoderLossDetails", "VariationalAutoencoderLossDetails"}

# The arguments that the page documents; ours may take more behind them.
SIGNATURES = {
    "transducer_loss": "logits targets input_lens target_lens blank_index reduction='mean' "
    "use_torchaudio=True",
    "PitWrapper": "base_loss",
    "ctc_loss": "log_probs targets input_lens target_lens blank_index reduction='mean'",
    "l1_loss": "predictions targets length=None allowed_len_diff=3 reduction='mean'",
    "mse_loss": "predictions targets length=None allowed_len_diff=3 reduction='mean'",
    "classification_error": "probabilities targets length=None allowed_len_diff=3 reduction='mean'",
    "nll_loss": "log_probabilities targets length=None label_smoothing=0.0 allowed_len_diff=3 weight=None "
    "reduction='mean'",
    "bce_loss": "inputs targets length=None weight=None pos_weight=None reduction='mean' allowed_len_diff=3 "
    "label_smoothing=0.0",
    "kldiv_loss": "log_probabilities targets length=None label_smoothing=0.0 allowed_len_diff=3 pad_idx=0 "
    "reduction='mean'",
    "distance_diff_loss": "predictions targets length=None beta=0.25 max_weight=100.0 reduction='mean'",
    "truncate": "predictions targets allowed_len_diff=3",
    "compute_masked_loss": "loss_fn predictions targets length=None label_smoothing=0.0 mask_shape='targets' "
    "reduction='mean'",
    "compute_length_mask": "data length=None len_dim=1",
    "reduce_loss": "loss mask reduction='mean' label_smoothing=0.0 predictions=None targets=None",
    "get_si_snr_with_pitwrapper": "source estimate_source",
    "get_snr_with_pitwrapper": "source estimate_source",
    "cal_si_snr": "source estimate_source",
    "cal_snr": "source estimate_source",
    "get_mask": "source source_lengths",
    "AngularMargin": "margin=0.0 scale=1.0",
    "AdditiveAngularMargin": "margin=0.0 scale=1.0 easy_margin=False",
    "LogSoftmaxWrapper": "loss_fn",
    "ctc_loss_kd": "log_probs targets input_lens blank_index device",
    "ce_kd": "inp target",
    "nll_loss_kd": "probabilities targets rel_lab_lengths",
    "ContrastiveLoss": "logit_temp",
    "VariationalAutoencoderLoss": "rec_loss=None len_dim=1 dist_loss_weight=0.001",
    "AutoencoderLoss": "rec_loss=None len_dim=1",
    "Laplacian": "kernel_size dtype=torch.float32",
    "LaplacianVarianceLoss": "kernel_size=3 len_dim=1",
}


class Autoencoded(NamedTuple):
    """The output of SpeechBrain's plain autoencoder."""

    rec: Tensor
    latent: Tensor | None = None
    latent_length: Tensor | None = None


def near(value: Tensor, expected: object) -> None:
    """Equal to the four decimals that the page prints."""
    torch.testing.assert_close(value, torch.tensor(expected), rtol=0, atol=6e-5)


def test_every_name_is_there() -> None:
    assert set(SIGNATURES) == set(losses.__all__) & set(catalog.names())
    assert set(losses.__all__) == {*SIGNATURES, *DETAILS}
    assert all(hasattr(losses, name) for name in losses.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_have_the_documented_names_places_and_defaults(name: str) -> None:
    ours = list(inspect.signature(getattr(losses, name)).parameters.values())
    for parameter, documented in zip(ours, SIGNATURES[name].split(), strict=False):
        argument, _, default = documented.partition("=")
        assert parameter.name == argument
        if default:
            assert repr(parameter.default) == default
    assert len(ours) >= len(SIGNATURES[name].split())


def test_l1_loss() -> None:
    near(losses.l1_loss(torch.tensor([[0.9, 0.1, 0.1, 0.9]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])), 0.1)


def test_mse_loss() -> None:
    near(losses.mse_loss(torch.tensor([[0.9, 0.1, 0.1, 0.9]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])), 0.01)


def test_classification_error_takes_the_targets_of_one_item_without_a_batch() -> None:
    probabilities = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    near(losses.classification_error(probabilities, torch.tensor([1, 1])), 0.5)


def test_nll_loss() -> None:
    near(losses.nll_loss(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log(), torch.tensor([1, 1])), 1.2040)


def test_bce_loss_takes_integer_targets() -> None:
    near(losses.bce_loss(torch.tensor([10.0, -6.0]), torch.tensor([1, 0])), 0.0013)


def test_kldiv_loss() -> None:
    near(losses.kldiv_loss(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log(), torch.tensor([1, 1])), 1.2040)


def test_distance_diff_loss() -> None:
    predictions = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.05, 0.05, 0.9, 0.0], [8.0, 0.10, 0.05, 0.05]])
    length = torch.tensor([0.75, 0.75, 1.0])
    near(losses.distance_diff_loss(predictions, torch.tensor([2.0, 3.0, 1.0]), length), 0.2967)


def test_compute_length_mask_keeps_integers() -> None:
    data = (torch.arange(5)[None, :, None] + torch.arange(1, 4)[:, None, None]) * torch.arange(1, 3)
    frames = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    mask = losses.compute_length_mask(data, torch.tensor([1.0, 0.4, 0.8]))
    assert mask.dtype == torch.int64
    assert torch.equal(mask, frames.unsqueeze(-1).expand(3, 5, 2))
    mask = losses.compute_length_mask(data, torch.tensor([0.5, 1.0, 0.5]), len_dim=2)
    assert torch.equal(mask, torch.tensor([[1, 0], [1, 1], [1, 0]]).unsqueeze(1).expand(3, 5, 2))


def test_get_mask_takes_int32_lengths() -> None:
    mask = losses.get_mask(torch.randn(4, 3, 2), torch.tensor([2.0, 1.0, 4.0]).int())
    expected = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    assert torch.equal(mask, torch.tensor(expected).unsqueeze(-1))


def test_get_si_snr_with_pitwrapper_takes_integers() -> None:
    x = torch.arange(600).reshape(3, 100, 2)
    near(-losses.get_si_snr_with_pitwrapper(x, x[:, :, [1, 0]]), [135.2284] * 3)


def test_cal_si_snr_of_every_pair() -> None:
    x = torch.tensor([[1.0, 0.0], [123.0, 45.0], [34.0, 5.0], [2312.0, 421.0]])
    estimate = x[:, [1, 0]].unsqueeze(1).repeat(1, 2, 1)
    ratio = -losses.cal_si_snr(x.unsqueeze(-1).repeat(1, 1, 2), estimate)
    near(ratio, [[[25.2142, 144.1789], [130.9283, 25.2142]]])


def test_pit_wrapper_finds_the_permutation() -> None:
    targets = torch.rand(2, 32, 4)
    predictions = targets[..., [3, 0, 2, 1]]
    wrapper = losses.PitWrapper(nn.MSELoss(reduction="none"))
    loss, permutations = wrapper(predictions, targets)
    near(loss, [0.0, 0.0])
    assert permutations == [(1, 3, 2, 0)] * 2
    assert torch.equal(wrapper.reorder_tensor(predictions, permutations), targets)


COSINES = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.9, 0.1], [0.1, 0.9]])


@pytest.mark.parametrize("margin", [losses.AngularMargin(), losses.AdditiveAngularMargin()], ids=repr)
def test_margins_keep_the_order(margin: nn.Module) -> None:
    predictions = margin(COSINES, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    assert (predictions[:, 0] > predictions[:, 1]).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "loss_fn",
    [nn.Identity(), losses.AngularMargin(margin=0.2, scale=32), losses.AdditiveAngularMargin(0.3, scale=32)],
    ids=repr,
)
def test_log_softmax_wrapper(loss_fn: nn.Module) -> None:
    loss = losses.LogSoftmaxWrapper(loss_fn)(COSINES.unsqueeze(1), torch.tensor([[0], [1], [0], [1]]))
    assert 0 <= loss < 1


def test_nll_loss_kd() -> None:
    student, teacher = torch.tensor([[[0.8, 0.2], [0.2, 0.8]]]), torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    near(losses.nll_loss_kd(student, teacher, torch.tensor([1.0])), -0.74)


REC = torch.tensor([[0.8, 1.0], [1.2, 0.6], [0.4, 1.4]])
TARGETS = torch.tensor([[0.9, 1.1], [1.4, 0.6], [0.2, 1.4]])


def test_autoencoder_loss() -> None:
    loss = losses.AutoencoderLoss()
    near(loss(Autoencoded(REC), TARGETS), 0.0333)
    details = loss.details(Autoencoded(REC), TARGETS)
    assert isinstance(details, losses.AutoencoderLossDetails)
    assert details._fields == ("loss", "rec_loss")
    near(torch.stack(details), [0.0333, 0.0333])


def test_variational_autoencoder_loss() -> None:
    loss = losses.VariationalAutoencoderLoss(dist_loss_weight=0.5)
    mean = torch.tensor([[0.5, 1.0], [1.5, 1.0], [1.0, 1.4]])
    log_var = torch.tensor([[0.0, -0.2], [2.0, -2.0], [0.2, 0.4]])
    predictions = Prediction(REC, None, mean, log_var)
    near(loss(predictions, TARGETS), 1.1264)
    for given in (predictions, (REC, mean, log_var)):
        details = loss.details(given, TARGETS)
        assert isinstance(details, losses.VariationalAutoencoderLossDetails)
        assert details._fields == ("loss", "rec_loss", "dist_loss", "weighted_dist_loss")
        near(torch.stack(details), [1.1264, 0.0333, 2.1861, 1.0930])


CROSS = torch.eye(6) + torch.eye(6).flip(0)


def test_laplacian() -> None:
    laplacian = losses.Laplacian(3)
    assert laplacian.get_kernel().tolist() == [[[[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]]]
    expected = [
        [6.0, -3.0, -3.0, 6.0],
        [-3.0, 4.0, 4.0, -3.0],
        [-3.0, 4.0, 4.0, -3.0],
        [6.0, -3.0, -3.0, 6.0],
    ]
    assert laplacian(CROSS.unsqueeze(0)).tolist() == [expected]
    assert losses.Laplacian(3, torch.float64).get_kernel().dtype == torch.float64


def test_laplacian_variance_loss() -> None:
    loss = losses.LaplacianVarianceLoss(3)
    near(loss(torch.ones(1, 6, 6)), 0.0)
    near(loss(CROSS.unsqueeze(0)), -17.6)
    near(loss(CROSS.unsqueeze(0), reduction="batch"), [-17.6])
