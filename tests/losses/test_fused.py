"""Losses whose scores are never in memory, beside those of scores that are."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import exportable_losses as el
from exportable_losses.ops import fused, using

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "identity": lambda x: x,
}
# settings of the fused loss, and the loss of logits that it is
TRANSDUCERS = {
    "regular": ({}, el.TransducerLoss),
    "modified": ({"topology": "modified"}, el.TransducerLoss),
    "constrained": ({"topology": "constrained", "fastemit_lambda": 0.1}, el.TransducerLoss),
    "weighted": ({"fastemit_lambda": 0.3, "delay_penalty": 0.2}, el.TransducerLoss),
    "durations": ({"durations": (2, 0, 1), "sigma": 0.1, "fastemit_lambda": 0.2}, el.TDTLoss),
    "hybrid": ({"hybrid": True}, el.HATLoss),
}
# frames and labels: padded in both, one frame, no label
LENGTHS = torch.tensor([7, 1, 4, 5]), torch.tensor([3, 1, 0, 5])


def transducer(blank: int, more: int = 0, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """The four inputs of which there is a gradient, and targets."""
    generator = torch.Generator().manual_seed(blank)
    sizes = ((4, 7, 3), (4, 6, 3), (6 + more, 3), (6 + more,))
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    targets = (torch.randint(5, (4, 5), generator=generator) + blank + 1) % 6
    return [x.requires_grad_() for x in inputs], targets


def ctc(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The three inputs of which there is a gradient, targets with runs of a label, and lengths."""
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        for size in ((4, 9, 3), (5, 3), (5,))
    ]
    targets = torch.tensor([[1, 1, 4, 1], [4, 0, 0, 0], [1, 4, 4, 4], [7, 7, 7, 7]])
    return (
        [x.requires_grad_() for x in inputs],
        targets,
        torch.tensor([9, 1, 7, 4]),
        torch.tensor([4, 1, 4, 0]),
    )


def gradients(costs: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.arange(1.0, costs.numel() + 1, dtype=costs.dtype)
    return list(torch.autograd.grad(torch.where(costs.isfinite(), costs, 0.0), inputs, weights))


def assert_equal(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-9) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=rtol, atol=rtol)


@pytest.fixture(params=[1, 4, 1000], ids=lambda rows: f"tiles of {rows}")
def rows(request, monkeypatch):
    monkeypatch.setattr(fused, "tile_rows", lambda weight: request.param)


@pytest.mark.parametrize("computer", ["native", "torch"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_a_transducer_is_that_of_its_logits(kind, activation, computer, rows):
    settings, plain = TRANSDUCERS[kind]
    blank = 2
    inputs, targets = transducer(blank, len(settings.get("durations", ())))
    encoder, predictor, weight, bias = inputs
    logits = ACTIVATIONS[activation](encoder.unsqueeze(2) + predictor.unsqueeze(1)) @ weight.t() + bias
    own = {name: value for name, value in settings.items() if name != "hybrid"}
    expected = plain(blank, reduction="none", **own)(logits, targets, *LENGTHS)
    with using(computer):
        loss = el.FusedTransducerLoss(blank, "none", activation, **settings)
        costs = loss(*inputs, targets, *LENGTHS)
        assert_equal([costs], [expected])
        assert_equal(gradients(costs, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("computer", ["native", "torch"])
def test_ctc_is_that_of_its_scores(computer, rows):
    inputs, targets, frames, labels = ctc()
    hidden, weight, bias = inputs
    for blank in (2, 3):
        log_probs = (hidden @ weight.t() + bias).log_softmax(2)
        expected = el.CTCLoss(blank, "none", zero_infinity=False)(log_probs, targets, frames, labels)
        with using(computer):
            costs = el.LinearCTCLoss(blank, "none", zero_infinity=False)(*inputs, targets, frames, labels)
            assert_equal([costs], [expected])
            # its gradient stands before the log-softmax
            through = torch.where(expected.isfinite(), expected, 0.0)
            weights = torch.arange(1.0, 5.0, dtype=torch.float64)
            slopes = torch.autograd.grad(through, log_probs, weights)[0]
            scores = hidden @ weight.t() + bias
            assert_equal(gradients(costs, inputs), list(torch.autograd.grad(scores, inputs, slopes)))


def test_ctc_aligns_and_decodes_as_by_its_scores(rows):
    inputs, targets, frames, labels = ctc()
    log_probs = (inputs[0] @ inputs[1].t() + inputs[2]).log_softmax(2)
    expected = el.CTCAlign(2)(log_probs, targets, frames, labels)
    found = el.LinearCTCAlign(2)(*inputs, targets, frames, labels)
    assert_equal(list(found), list(expected))
    expected = el.CTCGreedyDecode(2, padding=-1)(log_probs, frames)
    assert_equal(list(el.LinearCTCGreedyDecode(2, padding=-1)(*inputs, frames)), list(expected))


@pytest.mark.parametrize("kind", ["weighted", "durations", "hybrid"])
def test_gradients_are_those_of_differences(kind):
    settings = {**TRANSDUCERS[kind][0], "fastemit_lambda": 0.0}
    inputs, targets = transducer(0, len(settings.get("durations", ())))
    loss = el.FusedTransducerLoss(0, "sum", **settings)
    lengths = torch.tensor([7, 3, 4, 6]), LENGTHS[1]
    assert torch.autograd.gradcheck(lambda *inputs: loss(*inputs, targets, *lengths), inputs)


def test_gradients_of_ctc_are_those_of_differences():
    inputs, targets, frames, labels = ctc()
    assert torch.autograd.gradcheck(
        lambda *inputs: el.LinearCTCLoss(2, "sum")(*inputs, targets, frames, labels), inputs
    )


def test_padding_changes_no_bit():
    inputs, targets = transducer(0, dtype=torch.float32)
    loss = el.FusedTransducerLoss(0, "none")
    plain = loss(*inputs, targets, *LENGTHS)
    slopes = gradients(plain, inputs)
    behind = [
        torch.arange(n) >= lengths.unsqueeze(1) for n, lengths in ((7, LENGTHS[0]), (6, LENGTHS[1] + 1))
    ]
    spoiled = [x.detach().clone().requires_grad_() for x in inputs]
    for x, padding in zip(spoiled, behind, strict=False):
        x.data[padding] = float("nan")
    found = loss(*spoiled, targets, *LENGTHS)
    assert torch.equal(plain, found)
    for one, other in zip(gradients(found, spoiled), slopes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_16_bits_sums_have_32(dtype):
    """Of a thousand rows of ones a sum in 16 bits stops at 256."""
    encoder = torch.ones(1, 3000, 2, dtype=dtype, requires_grad=True)
    predictor = torch.zeros(1, 1, 2, dtype=dtype, requires_grad=True)
    weight, bias = (torch.zeros(size, dtype=dtype, requires_grad=True) for size in ((4, 2), (4,)))
    inputs = [encoder, predictor, weight, bias]
    cost = el.FusedTransducerLoss(0, "sum", "relu")(
        *inputs, torch.zeros(1, 0, dtype=torch.int64), torch.tensor([3000]), torch.tensor([0])
    )
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, torch.tensor(3000 * 4.0).div(4).mul(torch.tensor(4.0).log()))
    *_, of_weight, of_bias = torch.autograd.grad(cost, inputs)
    assert of_weight.dtype == of_bias.dtype == dtype
    expected = torch.tensor([-2250.0, 750.0, 750.0, 750.0])
    torch.testing.assert_close(of_bias.float(), expected, rtol=0.01, atol=0)
    torch.testing.assert_close(of_weight.float(), expected.unsqueeze(1).expand(4, 2), rtol=0.01, atol=0)


def test_autocast_takes_products_in_16_bits_and_the_rest_in_32():
    inputs, targets = transducer(0, dtype=torch.float32)
    loss = el.FusedTransducerLoss(0, "none")
    halves = [x.detach().bfloat16().requires_grad_() for x in inputs]
    expected = loss(*halves, targets, *LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        costs = loss(*inputs, targets, *LENGTHS)
    assert costs.dtype == torch.float32
    assert torch.equal(costs, expected)
    for one, other in zip(gradients(costs, inputs), gradients(expected, halves), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other.float())


def test_refused_is_what_does_not_fit():
    with pytest.raises(ValueError, match="topology: got another than the default with durations"):
        el.FusedTransducerLoss(topology="modified", durations=(1, 2))
    inputs, targets = transducer(0)
    loss = el.FusedTransducerLoss(0)
    with pytest.raises(ValueError, match="bias: got size 5 along dimension 0"):
        loss(*inputs[:3], inputs[3][:5], targets, *LENGTHS)
    with pytest.raises(ValueError, match="targets: got 6 at"):
        loss(*inputs, torch.full_like(targets, 6), *LENGTHS)
    with pytest.raises(ValueError, match="blank_index: got 6, expected an index in \\[0, 5\\]"):
        el.FusedTransducerLoss(6)(*inputs, targets, *LENGTHS)


def test_a_tile_on_a_gpu_is_of_its_cache(monkeypatch):
    cache = SimpleNamespace(L2_cache_size=50 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: cache)
    weight = SimpleNamespace(device=torch.device("cuda", 0), shape=(1024, 512), element_size=lambda: 4)
    assert fused.tile_rows(weight) == 25 * 256
    weight.shape = 1 << 20, 512
    assert fused.tile_rows(weight) == 256


MORE_THAN_INT32 = """
import resource, torch, exportable_losses as el
frames, labels, classes = 700, 700, 4400  # 2.16e9 logits
assert frames * (labels + 1) * classes > 2**31
inputs = [torch.zeros(size) for size in ((1, frames, 2), (1, labels + 1, 2), (classes, 2), (classes,))]
targets = torch.ones(1, labels, dtype=torch.int64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cost = el.FusedTransducerLoss(0, "sum")(*inputs, targets, torch.tensor([frames]), torch.tensor([labels]))
# paths from (0, 0) to (T, U), the last arc a blank: each of T + U arcs has probability 1 / V
every, blanks, emits = torch.lgamma(torch.tensor([frames + labels, frames, labels + 1.0]).double())
expected = (frames + labels) * torch.tensor(classes).double().log() - (every - blanks - emits)
torch.testing.assert_close(cost.double(), expected, rtol=1e-6, atol=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units there")
def test_more_logits_than_32_bits_count():
    done = subprocess.run([sys.executable, "-c", MORE_THAN_INT32], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000  # kilobytes; the logits have 8.6 million


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_16_bits_it_is_that_of_logits_of_16_bits(dtype):
    inputs, targets = transducer(1, dtype=dtype)
    encoder, predictor, weight, bias = inputs
    hidden = torch.tanh(encoder.unsqueeze(2) + predictor.unsqueeze(1))
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = el.TransducerLoss(1, "none")(logits, targets, *LENGTHS)
    costs = el.FusedTransducerLoss(1, "none")(*inputs, targets, *LENGTHS)
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
    for one, other in zip(gradients(costs, inputs), gradients(expected, inputs), strict=True):
        assert one.dtype == dtype
        assert (one - other).float().norm() <= 4 * torch.finfo(dtype).eps * other.float().norm()


def test_batches_of_batches():
    """The weights may be of all batches, or each have their own."""
    inputs, targets = transducer(0)
    encoder, predictor, weight, bias = (x.detach() for x in inputs)
    encoders, weights = torch.stack([encoder, -encoder]), torch.stack([weight, 2 * weight])
    loss = el.FusedTransducerLoss(0, "sum")

    def slopes(encoder: Tensor, weight: Tensor) -> Tensor:
        return torch.func.grad(lambda w: loss(encoder, predictor, w, bias, targets, *LENGTHS))(weight)

    expected = torch.stack([slopes(encoder, weight), slopes(-encoder, weight)])
    torch.testing.assert_close(torch.func.vmap(slopes, (0, None))(encoders, weight), expected)
    expected = torch.stack([slopes(encoder, weight), slopes(-encoder, 2 * weight)])
    torch.testing.assert_close(torch.func.vmap(slopes)(encoders, weights), expected)


@pytest.mark.parametrize("computer", ["native", "torch"])
def test_a_label_all_but_impossible_spoils_no_other(computer):
    """A difference of sums has no digits behind it."""
    encoder = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    encoder[0, 1, 1] = -1e30
    layer = torch.zeros(1, 3, 4), torch.eye(4), torch.zeros(4)
    more = torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2])
    expected = el.FusedTransducerLoss(0, "none", "identity")(encoder, *layer, *more)
    chunk = el.TransducerForwardChunk(0, "identity")
    state = chunk.initial_state(more[0])
    with using(computer):
        torch.testing.assert_close(chunk(encoder, *layer, *more, *state)[0], expected)
    torch.testing.assert_close(torch.jit.script(chunk)(encoder, *layer, *more, *state)[0], expected)


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_script_takes_no_illegal_label_for_none(hybrid):
    inputs, targets = transducer(2, dtype=torch.float32)
    loss = torch.jit.script(el.FusedTransducerLoss(2, "none", hybrid=hybrid))
    for illegal in (-1, -7, 6, *([2] if hybrid else [])):
        spoiled = targets.clone()
        spoiled[0, 1] = illegal
        with pytest.raises((RuntimeError, torch.jit.Error), match=r"out of bounds|index"):
            loss(*inputs, spoiled, *LENGTHS)
    of_ctc, targets, frames, labels = ctc(torch.float32)
    for module in (el.LinearCTCLoss(2, "none"), el.LinearCTCAlign(2)):
        spoiled = targets.clone()
        spoiled[0, 1] = -1
        with pytest.raises((RuntimeError, torch.jit.Error), match=r"out of bounds|index"):
            torch.jit.script(module)(*of_ctc, spoiled, frames, labels)


def test_a_script_broadcasts_no_layer():
    inputs, targets = transducer(0, dtype=torch.float32)
    encoder, predictor, weight, bias = inputs
    loss = torch.jit.script(el.FusedTransducerLoss(0, "none"))
    for given, message in (
        ((encoder, predictor, weight, bias[:1]), "weight: got shape"),
        ((encoder, predictor[..., :1], weight, bias), "predictor: got shape"),
        ((encoder, torch.cat([predictor, predictor]), weight, bias), "predictor: got shape"),
    ):
        with pytest.raises(torch.jit.Error, match=message):
            loss(*given, targets, *LENGTHS)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"sigma: got 0\.5, expected 0 without durations"):
        el.FusedTransducerLoss(sigma=0.5)
    for module in (el.LinearCTCLoss, el.LinearCTCAlign, el.LinearCTCGreedyDecode):
        with pytest.raises(ValueError, match="blank_index: got -1"):
            module(-1)


@pytest.mark.parametrize(
    ("place", "value"), [(5, [8, 1, 1, 1]), (5, [-1, 1, 1, 1]), (6, [7, 1, 1, 1]), (7, 7)]
)
def test_operators_refuse_lengths_of_more_than_there_is(place, value):
    inputs, _ = transducer(0)
    classes = torch.zeros(4, 6, 1, dtype=torch.int64)
    given = [*(x.detach() for x in inputs), classes, torch.ones(4).long(), torch.ones(4).long(), 0, "tanh"]
    given[place] = torch.tensor(value) if isinstance(value, list) else value
    with pytest.raises(ValueError, match="expected a number in"):
        torch.ops.exportable_losses.fused_joint(*given)
