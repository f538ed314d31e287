"""Random calls of every row, held to plain torch in float64.

What is drawn: the row and its settings, sizes (0 and 1 among them), the type of each input, its layout in
memory, lengths as shares and as whole numbers, and garbage behind them. Each call goes through every door:
eager modules on each computer and under autocast, scripts, graphs with the library and without. The truth is
the eager module on contiguous float64 with nothing behind the lengths, computed by plain torch; of small
lattices, every alignment.

``python tests/fuzz/calls.py --number 1000000`` makes as many calls.
"""

import argparse
import functools
import itertools
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import Tensor

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in (".", "export", "fuzz")]

from drawing import Call, calls
from enumeration import ctc_by_enumeration, transducer_by_enumeration
from export_cases import BY_NAME, CASES, PRODUCTS, Case, Inputs
from onnx_runs import ROUNDINGS, ROUNDINGS_OF

from exportable_losses import catalog, ops
from exportable_losses.lattice.ctc import reduce_ctc
from exportable_losses.ops.scores import HALVES
from exportable_losses.runtime import LossSession

Outputs = dict[str, np.ndarray]
ROUNDING = torch.finfo(torch.float32).eps
MOVES, TIMES = 8, 10  # roundings of the inputs that are tried; what those of a computation may come to
TRANSDUCERS = ("TDT", "MultiBlankTransducer", "HAT", "SimpleTransducer", "PrunedTransducer")
COMPUTERS = {
    **dict.fromkeys(("ctc_loss", "transducer_loss", "ctc_loss_kd"), ("native", "numba", "torch")),
    **dict.fromkeys(
        (
            *(f"{kind}Loss" for kind in TRANSDUCERS),
            *(f"{kind}Posterior" for kind in TRANSDUCERS),
            *("PruneRanges", "TransducerPosterior"),
        ),
        ("native", "numba", "torch"),
    ),
}


# Doors


@functools.lru_cache(64)
def script(case: str) -> torch.jit.ScriptModule:
    return torch.jit.load(BY_NAME[case].script())


@functools.lru_cache(128)
def session(case: str, native: bool) -> LossSession:
    return LossSession(BY_NAME[case].graph(), native=native)


def eager(call: Call, computer: str = "") -> tuple[Outputs, Outputs]:
    """The outputs and the gradients of an eager call, on a computer of one's choice."""
    given, wanted = with_gradients(call.case, call.given)
    with ops.using(computer) if computer else torch.enable_grad():
        if call.autocast is None:
            returned = call.case.module()(**given)
        else:
            with torch.autocast("cpu", dtype=call.autocast):
                returned = call.case.module()(**given)
        return results(call.case, returned, wanted)


def scripted(call: Call) -> tuple[Outputs, Outputs]:
    given, wanted = with_gradients(call.case, call.given)
    return results(call.case, script(str(call.case))(**given), wanted)


def graph(call: Call, native: bool) -> tuple[Outputs, Outputs]:
    """What a session gives of the types that the file has, in the layout that was drawn, or backwards."""
    found = session(str(call.case), native)
    feed = {}
    for name, value in call.given.items():
        if name in call.frames and not value.is_floating_point() and found.dtype(name).kind == "f":
            value = call.plain[name]
        array = value.to(call.case.dtype).numpy() if value.is_floating_point() else value.numpy()
        backwards = array.ndim > 0 and sum(array.shape) % 2
        feed[name] = array[::-1].copy()[::-1] if backwards else array
    return found(**feed), {}


def doors(call: Call) -> Iterator[tuple[str, Callable[[], tuple[Outputs, Outputs]]]]:
    """Every way of computing the call, by name."""
    for computer in COMPUTERS.get(call.case.row, ("",)):
        yield f"eager {computer}".strip(), functools.partial(eager, call, computer)
    yield "script", functools.partial(scripted, call)
    yield "graph", functools.partial(graph, call, False)
    yield "graph native", functools.partial(graph, call, True)


def with_gradients(case: Case, given: Inputs) -> tuple[Inputs, Inputs]:
    """The inputs, and those among them that a gradient is asked of."""
    wanted = {
        name: value.detach().requires_grad_()
        for name, value in given.items()
        if name in case.entry.differentiable and value.is_floating_point()
    }
    return {**given, **wanted}, wanted


def results(case: Case, returned: Any, wanted: Inputs) -> tuple[Outputs, Outputs]:
    """Outputs by name, and the gradients of their sum by the input's name."""
    outputs = case.outputs(returned)
    flowing = [value for value in outputs.values() if value.requires_grad]
    gradients = {}
    if flowing and wanted:
        total = torch.stack([value.double().sum() for value in flowing]).sum()
        found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        gradients = {name: each for name, each in zip(wanted, found, strict=True) if each is not None}
    for name, gradient in gradients.items():
        assert gradient.dtype == wanted[name].dtype, f"{name}: the gradient is {gradient.dtype}"
    return (
        {name: as_array(value) for name, value in outputs.items()},
        {name: gradient.double().numpy() for name, gradient in gradients.items()},
    )


def as_array(value: Tensor) -> np.ndarray:
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


# Judgement


@dataclass
class Tally:
    """What has been done."""

    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass
class Truth:
    """What plain torch in float64 makes of a call: outputs and gradients, or why it refuses."""

    call: Call
    outputs: Outputs = field(default_factory=dict)
    gradients: Outputs = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        try:
            self.outputs, self.gradients = self._of(self.call.plain)
        except ValueError as error:
            self.why = str(error)

    def _of(self, inputs: Inputs) -> tuple[Outputs, Outputs]:
        given, wanted = with_gradients(self.call.case, inputs)
        with ops.using("torch"):
            return results(self.call.case, self.call.case.module(torch.float64)(**given), wanted)

    def permuted_as_well(self, outputs: Outputs) -> bool:
        """Whether other permutations came out of `PitWrapper` that cost as much: sums of |a - b| may be equal
        for good, whatever the numbers are rounded to."""
        if self.call.case.row != "PitWrapper" or np.array_equal(
            outputs["permutations"], self.outputs["permutations"]
        ):
            return False
        pit, preds, targets = self.call.case.module(torch.float64), *self.call.plain.values()
        costs = []
        for found in (outputs["permutations"], self.outputs["permutations"]):
            order = torch.from_numpy(found).reshape(len(preds), *[1] * (preds.dim() - 2), -1)
            chosen = preds.gather(-1, order.expand_as(preds))
            pairs = zip(chosen.split(1, -1), targets.split(1, -1), strict=True)
            costs.append(torch.stack([pit(one, other)[0] for one, other in pairs]).sum(0))
        return bool(torch.allclose(*costs, rtol=0, atol=10 * ROUNDING))

    @functools.cached_property
    def product(self) -> torch.dtype:
        """The type that scores are made in, where they are made inside: 16 bits if there are any."""
        types = {self.call.autocast, *(x.dtype for x in self.call.given.values())} & set(HALVES)
        coarse = max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
        return coarse if self.call.case.row in PRODUCTS else torch.float32

    @functools.cached_property
    def moved(self) -> list[tuple[Outputs, Outputs]]:
        """The same of inputs that are up to a rounding smaller, of float32 or of 16 bits where scores are
        made in these: of ties and of differences of
        almost equal numbers that is as much as can be known."""
        legal = {entry.name: entry.legal for entry in self.call.case.entry.inputs}
        rounding = max(torch.finfo(self.product).eps, ROUNDING)
        found, draw = [], torch.Generator().manual_seed(0)
        for _ in range(MOVES):
            inputs = {
                name: value * (1 - rounding * torch.rand(value.shape, generator=draw, dtype=value.dtype))
                if value.is_floating_point() and not legal[name].startswith("relative_length")
                else value
                for name, value in self.call.plain.items()
            }
            found.append(self._of(inputs))
        return found


def judge(call: Call, tally: Tally) -> None:
    """Compute the call in every way, and hold each to the truth.

    Raises:
        AssertionError: one is off, or refuses what the truth does not, or does not refuse what it does.
    """
    case, truth = call.case, Truth(call)
    if not truth.why:
        check_alignments(call, truth.outputs)
    for name, door in doors(call):
        tally.calls[name] += 1
        try:
            outputs, found = door()
        except (ValueError, TypeError, RuntimeError, torch.jit.Error) as error:
            if not truth.why:
                raise AssertionError(f"{name} refuses: {type(error).__name__}: {error}") from error
            tally.refused[truth.why] += 1
            continue
        if truth.why:  # a script looks at no values: it may say that there is no number
            nothing = name == "script" and not np.isfinite(outputs[case.entry.outputs[0]]).any()
            assert nothing, f"{name} takes what eager refuses: {truth.why}"
            continue
        if truth.permuted_as_well(outputs):
            continue
        for output, expected in truth.outputs.items():
            if not close(case, outputs[output], expected, truth.product):
                settle(f"{name}: {output}", outputs[output], expected, [m[0][output] for m in truth.moved])
        of_floats = {of for of in truth.gradients if call.given[of].is_floating_point()}
        assert set(found) in (of_floats, set())
        for of, gradient in found.items():
            expected = truth.gradients[of]
            dtype = max(truth.product, call.given[of].dtype, key=lambda dtype: torch.finfo(dtype).eps)
            if not close(case, gradient, expected, dtype, 10):
                settle(f"{name}: gradient of {of}", gradient, expected, [m[1][of] for m in truth.moved])


def close(case: Case, got: np.ndarray, expected: np.ndarray, dtype: torch.dtype, times: int = 1) -> bool:
    """Within some roundings of the largest number, or one of `dtype`, which the result was rounded to."""
    epsilon = 1e-10
    if case.dtype == torch.float32 or got.dtype == np.float32:
        computed = torch.finfo(torch.float32).eps * ROUNDINGS_OF.get(case.row, ROUNDINGS) * times
        epsilon = max(torch.finfo(dtype).eps, computed)
    finite = np.abs(expected[np.isfinite(expected)])
    tolerance = epsilon * max(1.0, finite.max(initial=0.0))
    return got.shape == expected.shape and np.allclose(
        np.asarray(got, np.float64), expected, rtol=0, atol=tolerance, equal_nan=True
    )


def settle(where: str, got: np.ndarray, expected: np.ndarray, moved: list[np.ndarray]) -> None:
    """Hold what is not close to what a rounding of the inputs makes of it.

    Raises:
        AssertionError: it is none of the whole numbers that come out, item by item, or off by more than some
            times what the numbers move.
    """
    if expected.dtype.kind in "iu" and got.shape == expected.shape:
        seen = [np.atleast_2d(each) for each in (expected, *moved)]
        if all(
            any(np.array_equal(one, each[i]) for each in seen) for i, one in enumerate(np.atleast_2d(got))
        ):
            return
    tolerance = (
        0.0
        if expected.dtype.kind in "iu"
        else TIMES * max(np.abs(np.where(each == expected, 0.0, each - expected)).max() for each in moved)
    )
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=tolerance, err_msg=where)


def check_alignments(call: Call, truth: Outputs) -> None:
    """Hold the truth itself to the sum over all alignments, where there are few."""
    case, plain = call.case, call.plain
    if case.row not in ("ctc_loss", "transducer_loss") or set(call.frames) != {"input_lens", "target_lens"}:
        return
    scores = plain["log_probs" if case.row == "ctc_loss" else "logits"]
    if not case.settings.keys().isdisjoint(("topology", "fastemit_lambda", "delay_penalty")):
        return  # tests/losses/test_arcs.py
    blank = case.module().blank_index
    frames, labels = call.frames["input_lens"].tolist(), call.frames["target_lens"].tolist()
    costs = []
    for item, target, t, u in zip(scores, plain["targets"].tolist(), frames, labels, strict=True):
        if case.row == "ctc_loss":
            if item.shape[1] ** t > 3000:
                return
            item = item - case.settings.get("log_priors", 0.0)
            costs.append(ctc_by_enumeration(item[:t], tuple(target[:u]), blank)[0])
        elif math.comb(t + u, u) > 1000:
            return
        else:
            costs.append(transducer_by_enumeration(item[:t, : u + 1], tuple(target[:u]), blank))
    if not costs:
        return
    each = torch.stack(costs)
    reduction = case.settings.get("reduction", "mean")
    if case.row == "ctc_loss":
        zero_infinity = case.settings.get("zero_infinity", True)
        expected = reduce_ctc(each, call.frames["target_lens"], reduction, zero_infinity)
    else:
        each = each / call.frames["input_lens"] if case.settings.get("normalize") else each
        expected = (
            each if reduction in ("none", "batch") else each.sum() if reduction == "sum" else each.mean()
        )
    np.testing.assert_allclose(truth["loss"], expected, rtol=1e-9, err_msg="the truth: all alignments")


def fuzz(row: str, examples: int, number: int, tally: Tally, cases: Sequence[Case] = CASES) -> None:
    """Judge so many calls of `row`, of those of its `cases`; equal `number`s give equal calls.

    Raises:
        AssertionError: of the smallest call found that is wrong.
    """

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(calls([case for case in cases if case.row == row]))
    def run(call: Call) -> None:
        judge(call, tally)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()


def main(number: int, first: int) -> int:
    """Make so many calls, as many of each row; print what was done; 1 where something is wrong."""
    torch.set_num_threads(1)
    tally, wrong, start = Tally(), 0, time.monotonic()
    for done, row in enumerate(catalog.names(), 1):  # row by row: its scripts and sessions are made once
        for turn in itertools.count(first):
            try:
                fuzz(row, 100, turn, tally)
            except Exception as error:  # the call is in its notes
                wrong += 1
                print(f"{row}: {type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n  ")
            if tally.calls.total() >= number * done / len(catalog.names()):
                break
        seconds = time.monotonic() - start
        print(f"{row}: {tally.calls.total()} calls in {seconds:.0f} s, {wrong} wrong", flush=True)
    for name, count in tally.calls.most_common():
        print(f"{count:9} {name}")
    for why, count in tally.refused.most_common():
        print(f"{count:9} refused everywhere: {why}")
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=100_000, help="calls to make")
    parser.add_argument("--seed", type=int, default=0, help="of the first turn")
    options = parser.parse_args()
    sys.exit(main(options.number, options.seed))
