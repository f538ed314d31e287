"""Every transducer gives what its peers gave: costs and gradients, as a module and as a script."""

import pytest
import torch
from lattice_cases import Case, cases
from torch import Tensor, nn

import exportable_losses as el

CASES = cases()


def made(case: Case, *, scripted: bool) -> nn.Module:
    unreduced = {} if case.loss == "PruneRanges" else {"reduction": "none"}
    module = getattr(el, case.loss)(**case.settings, **unreduced)
    return torch.jit.script(module) if scripted else module


def run(case: Case, module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The loss; that of pruned logits behind the sum that recipes make of them."""
    if case.loss != "PrunedTransducerLoss":
        return module(**inputs)
    rest = {name: x for name, x in inputs.items() if name not in ("am", "lm")}
    item = torch.arange(len(inputs["am"]))[:, None, None]
    logits = inputs["am"].unsqueeze(2) + inputs["lm"][item, inputs["ranges"]]
    return module(logits=logits, **rest)


def test_there_are_cases_of_each() -> None:
    counts = {loss: sum(case.loss == loss for case in CASES) for loss in {case.loss for case in CASES}}
    assert counts == {
        "TransducerLoss": 52,
        "SimpleTransducerLoss": 64,
        "PrunedTransducerLoss": 58,
        "PruneRanges": 6,
        "HATLoss": 6,
        "TDTLoss": 76,
        "MultiBlankTransducerLoss": 35,
    }


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_costs_and_gradients(case: Case, scripted: bool) -> None:
    inputs = {
        name: x.clone().requires_grad_() if name in case.gradients else x for name, x in case.inputs.items()
    }
    got = run(case, made(case, scripted=scripted), inputs)
    wanted = case.output.to(got.dtype)
    if case.loss == "PruneRanges":  # a tie may fall to either neighbour
        assert (got - wanted).abs().max() <= 2
        assert (got != wanted).double().mean() <= 0.01
        return
    wanted = torch.where(wanted > 900, torch.inf, wanted)  # NeMo's floor for what cannot be aligned
    close = {"rtol": case.tolerance, "atol": case.tolerance}
    torch.testing.assert_close(got.detach(), wanted, **close)
    finite = got.isfinite()
    if case.gradients and finite.any():
        weights = torch.ones_like(got) if case.upstream is None else case.upstream
        leaves = [inputs[name] for name in case.gradients]
        found = torch.autograd.grad((got * weights)[finite].sum(), leaves)
        for (name, grad), mine in zip(case.gradients.items(), found, strict=True):
            torch.testing.assert_close(mine, grad.double(), **close, msg=lambda m, n=name: f"{n}: {m}")
