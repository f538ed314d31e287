"""libtorch's door to the kernels, in a process that knows torch and the library alone.

What the Python operators say is the truth here: the same schemas, numbers, gradients and refusals.
"""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exportable_losses import CTCDistillationLoss, CTCLoss, TransducerLoss, ops
from exportable_losses.export import to_torchscript
from exportable_losses.library import library_path
from exportable_losses.ops.scores import computed

OURS = torch.ops.exportable_losses
Job = tuple[str, list[Any], Tensor | None, int]
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
    torch.bfloat16: {"rtol": 2**-7, "atol": 2e-5},  # of gradients, which may be rounded to either side
    torch.float16: {"rtol": 2**-10, "atol": 2e-5},
}
LOSSES = ("ctc_loss", "transducer_loss")


def alone(library: str, jobs: dict[str, Job], folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The schemas of that process's operators, and the results of its jobs."""
    folder.mkdir(exist_ok=True)
    torch.save(jobs, folder / "jobs")
    script = str(Path(__file__).with_name("torch_jobs.py"))
    command = [sys.executable, script, library, str(folder / "jobs"), str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "results")


def lattice(loss: str, dtype: torch.dtype, sizes: tuple[int, ...], blank: int, seed: int) -> list[Any]:
    """Scores, targets, absolute lengths and the blank, of sizes (B, T, labels, classes)."""
    items, frames, labels, classes = sizes
    g = torch.Generator().manual_seed(seed)
    shape = (items, frames, classes) if loss == "ctc_loss" else (items, frames, labels + 1, classes)
    scores = 3 * torch.randn(shape, generator=g, dtype=torch.float64)
    targets = torch.randint(0, max(classes - 1, 1), (items, labels), generator=g)
    return [
        (scores.log_softmax(-1) if loss == "ctc_loss" else scores).to(dtype),
        targets + (targets >= blank),
        torch.randint(1, frames + 1, (items,), generator=g),
        torch.randint(0, labels + 1, (items,), generator=g),
        blank,
    ]


def _lattices() -> dict[str, list[Any]]:
    cases = {}
    for loss, dtype in itertools.product(LOSSES, TOLERANCE):
        sizes = [(1, 1, 0, 2), (4, 9, 3, 6), (2, 30, 7, 40), (5, 3, 9, 4), (0, 4, 2, 5)]
        for blank, size in itertools.product((0, -1), sizes):
            blank %= size[3]
            cases[f"{loss} {dtype} {size} {blank}"] = lattice(loss, dtype, size, blank, seed=len(cases))
        whole = [loss, dtype, (3, 8, 4, 5), 0]
        never = lattice(*whole, seed=1)  # a label that never is: infinite costs where an item has it
        never[0][..., 1], never[1][0, 0], never[3][0] = -torch.inf, 1, 1
        cases[f"{loss} {dtype} never"] = never
        garbage = lattice(*whole, seed=2)  # behind an item's labels and frames nothing is read
        for b in range(3):
            garbage[0][b, garbage[2][b] :] = torch.nan
            garbage[1][b, garbage[3][b] :] = 2**60
        cases[f"{loss} {dtype} garbage behind"] = garbage
        strided = lattice(*whole, seed=3)
        strided[0] = strided[0].transpose(0, 1).contiguous().transpose(0, 1)  # items and frames swapped
        cases[f"{loss} {dtype} strided"] = strided
        backwards = lattice(*whole, seed=4)
        backwards[0] = backwards[0].transpose(-1, 1).contiguous().transpose(-1, 1)  # classes apart
        cases[f"{loss} {dtype} classes apart"] = backwards
        apart = lattice(*whole, seed=7)
        apart[0] = torch.nn.functional.pad(apart[0], (0, 3))[..., :5]  # room behind every row
        cases[f"{loss} {dtype} rows apart"] = apart
        narrow = lattice(*whole, seed=5)
        narrow[1:4] = narrow[1].int(), narrow[2].int(), narrow[3].to(torch.int16)
        cases[f"{loss} {dtype} narrow integers"] = narrow
        columns = lattice(*whole, seed=6)
        columns[1] = columns[1].T.contiguous().T  # targets in columns
        cases[f"{loss} {dtype} targets in columns"] = columns
    return cases


def _costs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    cases = {f"{s} sources": torch.randn(5, s, s, generator=g) for s in (1, 2, 3, 4, 7, 10)}
    cases["equals"] = torch.randint(0, 3, (200, 4, 4), generator=g).double()
    cases["all equal"] = torch.zeros(2, 5, 5)
    cases["halves"] = torch.randn(50, 4, 4, generator=g).half()
    cases["brain halves"] = torch.randn(50, 4, 4, generator=g).bfloat16()
    cases["strided"] = torch.randn(3, 4, 4, generator=g).transpose(1, 2)
    cases["no items"] = torch.zeros(0, 3, 3)
    for value in (torch.inf, -torch.inf, torch.nan):
        some = torch.randn(100, 3, 3, generator=g)
        some[torch.rand(some.shape, generator=g) < 0.3] = value
        cases[f"some {value}"] = some
        cases[f"all {value}"] = torch.full((1, 3, 3), value)
    return cases


def _sequences() -> dict[str, list[Tensor]]:
    g = torch.Generator().manual_seed(0)

    def draw(items: int, longest: int, size: int) -> list[Tensor]:
        tokens = [torch.randint(-9, 9, (items, n), generator=g) for n in (longest, size)]
        lengths = [torch.randint(0, n + 1, (items,), generator=g) for n in (longest, size)]
        return [*tokens, *lengths]

    sizes = [(9, 7, 5), (4, 0, 6), (4, 6, 0), (3, 0, 0), (0, 3, 4), (3, 300, 200)]
    cases = {f"sequences of {size}": draw(*size) for size in sizes}
    p, t, n, m = draw(5, 8, 9)
    cases["columns"] = [p.T.contiguous().T, t.T.contiguous().T, n, m]
    cases["narrow tokens"] = [p.int(), t.to(torch.int8), n.short(), m]
    return cases


LATTICES, COSTS, SEQUENCES = _lattices(), _costs(), _sequences()


def weights_of(arguments: list[Any]) -> Tensor:
    scores = arguments[0]
    return torch.linspace(-1, 2, len(scores), dtype=computed(scores.dtype))


def _refused() -> dict[str, tuple[Job, str]]:
    """Calls that must fail, and what the error must say."""
    cases: dict[str, tuple[Job, str]] = {}
    for loss, scores in zip(LOSSES, ("log_probs", "logits"), strict=True):
        good = lattice(loss, torch.float32, (3, 7, 4, 5), 0, 0)
        long, wrong_label = torch.full((3,), 8), good[1].clone()
        wrong_label[1, 0] = 5
        good[3][1] = 1
        for place, bad, said in [
            (0, good[0][0], f"ValueError: {scores}: got shape ["),
            (0, torch.tensor(1.0), f"ValueError: {scores}: got shape []"),
            (0, good[0].long(), f"ValueError: {scores}: got Long, expected floating point of 16, 32 or 64 "),
            (1, good[1][:2], "ValueError: targets: got shape [2, 4], expected [3, 4]"),
            (1, good[1].float(), "ValueError: targets: got Float, expected integers"),
            (1, wrong_label, "ValueError: targets: got 5 for item 1, expected a number in [0, 4]"),
            (2, long, "ValueError: input_lengths: got 8 for item 0, expected a number in [0, 7]"),
            (2, -long, "ValueError: input_lengths: got -8 for item 0"),
            (2, good[2][:2], "ValueError: input_lengths: got shape [2], expected [3]"),
            (3, long, "ValueError: target_lengths: got 8 for item 0, expected a number in [0, 4]"),
            (3, long[0], "ValueError: target_lengths: got shape [], expected [3]"),
            (3, long.bool(), "ValueError: target_lengths: got Bool, expected integers"),
            (4, 5, "ValueError: blank_index: got 5, expected a number in [0, 4]"),
            (4, -1, "ValueError: blank_index: got -1"),
        ]:
            arguments = [bad if i == place else value for i, value in enumerate(good)]
            cases[f"{loss}, {len(cases)}: {said[:40]}"] = ((loss, arguments, None, 1), said)
        with_grad = (f"{loss}_grad", [*good, torch.ones(2)], None, 1)
        cases[f"{loss} grad_costs"] = (with_grad, "ValueError: grad_costs: got shape [2], expected [3]")
        second = (f"{loss}_grad", [*good, torch.ones(3)], torch.ones(3), 1)
        said = f"NotImplementedError: derivative for exportable_losses::{loss}_grad is not implemented"
        cases[f"{loss} twice"] = (second, said)
    for costs, said in [
        (torch.zeros(3, 3), "ValueError: costs: got shape [3, 3], expected [B, S, S]"),
        (torch.zeros(1, 3, 4), "ValueError: costs: got shape [1, 3, 4], expected [B, S, S]"),
        (torch.zeros(1, 31, 31), "ValueError: costs: got 31 sources, expected at most 30"),
        (torch.zeros(1, 2, 2).long(), "ValueError: costs: got Long, expected floating point"),
    ]:
        cases[said] = (("best_permutation", [costs], None, 1), said)
    legal = [torch.zeros(2, 3).long(), torch.zeros(2, 4).long(), torch.tensor([3, 1]), torch.tensor([4, 2])]
    for place, bad, said in [
        (0, legal[0][0], "ValueError: predictions: got shape [3], expected [B, K]"),
        (0, legal[0].float(), "ValueError: predictions: got Float, expected integers"),
        (1, legal[1][:1], "ValueError: targets: got shape [1, 4], expected [2, S]"),
        (2, legal[2][:1], "ValueError: prediction_lengths: got shape [1], expected [2]"),
        (2, legal[2] + 1, "ValueError: prediction_lengths: got 4 for item 0, expected a number in [0, 3]"),
        (3, -legal[3], "ValueError: target_lengths: got -4 for item 0, expected a number in [0, 4]"),
        (3, legal[3].bool(), "ValueError: target_lengths: got Bool, expected integers"),
    ]:
        arguments = [bad if i == place else value for i, value in enumerate(legal)]
        cases[said] = (("edit_counts", arguments, None, 1), said)
    return cases


REFUSED = _refused()


@pytest.fixture(scope="session")
def results(libraries: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that the tests below ask of the library, in one process."""
    jobs: dict[str, Job] = {}
    for name, arguments in LATTICES.items():
        loss, weights = name.split()[0], weights_of(arguments)
        jobs[name] = (loss, arguments, None, 1)
        jobs[f"backward of {name}"] = (loss, arguments, weights, 3)
        jobs[f"grad of {name}"] = (f"{loss}_grad", [*arguments, weights], None, 2)
    jobs |= {name: ("best_permutation", [costs], None, 1) for name, costs in COSTS.items()}
    jobs |= {f"threads, {name}": ("best_permutation", [costs], None, 3) for name, costs in COSTS.items()}
    jobs |= {name: ("edit_counts", sequences, None, 1) for name, sequences in SEQUENCES.items()}
    jobs |= {f"threads, {name}": ("edit_counts", given, None, 3) for name, given in SEQUENCES.items()}
    jobs |= {name: job for name, (job, _) in REFUSED.items()}
    schemas, results = alone(libraries[1], jobs, tmp_path_factory.mktemp("jobs"))
    return {"schemas": schemas, **results}


def test_schemas_are_the_packages(results: dict[str, Any]) -> None:
    assert ops.best_permutation  # the package has defined its own
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("exportable_losses::")]
    # these have no kernel: scripted modules hold plain torch in their place
    scripted = ["ctc_posterior", "ctc_align", "ctc_forward", "arcs_align"]
    scripted += ["emissions_loss", "emissions_loss_grad", "joint_arcs", "joint_arcs_grad"]
    scripted += ["picked", "picked_grad", "arcs_walk", "arcs_walk_grad"]
    scripted += ["fused_joint", "fused_joint_grad", "fused_best", "transducer_forward"]
    plain = {f"exportable_losses::{name}" for name in scripted}
    assert plain < set(names)
    operators = [getattr(OURS, name.partition("::")[2]).default for name in set(names) - plain]
    assert len(operators) == 8
    assert results["schemas"] == sorted(str(operator._schema) for operator in operators)


@pytest.mark.parametrize("name", LATTICES)
def test_costs_and_gradients(results: dict[str, Any], name: str) -> None:
    loss, arguments = name.split()[0], LATTICES[name]
    weights, tolerance = weights_of(arguments), TOLERANCE[arguments[0].dtype]
    of_costs = TOLERANCE[computed(arguments[0].dtype)]
    if "garbage" in name:  # plain torch reads it, and the padding it may not see is zeros
        arguments = [*arguments]
        arguments[0] = arguments[0].nan_to_num(nan=0.0)
        arguments[1] = torch.where(arguments[1] == 2**60, 1, arguments[1])
    with ops.using("torch"):
        arguments = [x.long() if i in (1, 2, 3) else x for i, x in enumerate(arguments)]
        costs, grad = getattr(OURS, f"{loss}_grad")(*arguments, weights)
    assert not isinstance(results[name], str), results[name]
    torch.testing.assert_close(results[name], costs, **of_costs)
    for way in ("backward", "grad"):
        got = results[f"{way} of {name}"]
        assert not isinstance(got, str), got
        torch.testing.assert_close(got[0], costs, **of_costs)
        torch.testing.assert_close(got[1], grad, **tolerance)
        assert got[1].shape == arguments[0].shape
    if "never" in name:
        assert results[name].isposinf().any()


@pytest.mark.parametrize("name", COSTS)
def test_assignments(results: dict[str, Any], name: str) -> None:
    """The first of equals too, and whatever comes of an infinity or a NaN."""
    expected = OURS.best_permutation(COSTS[name])
    assert torch.equal(results[name], expected)
    assert torch.equal(results[f"threads, {name}"], expected)


@pytest.mark.parametrize("name", SEQUENCES)
def test_edits(results: dict[str, Any], name: str) -> None:
    with ops.using("torch"):
        expected = OURS.edit_counts(*SEQUENCES[name])
    assert torch.equal(results[name], expected)
    assert torch.equal(results[f"threads, {name}"], expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(results: dict[str, Any], name: str) -> None:
    assert isinstance(results[name], str)
    assert results[name].startswith(REFUSED[name][1])


def test_torchscript_files_with_our_operators(libraries: tuple[str, str], tmp_path: Path) -> None:
    """Values and gradients of files that are of no use without the library."""
    rows = {
        "ctc_loss": (CTCLoss(0), torch.float64),
        "ctc_loss, none": (CTCLoss(0, "none"), torch.float32),
        "transducer_loss": (TransducerLoss(0, "sum"), torch.float64),
        "ctc_loss_kd": (CTCDistillationLoss(0), torch.float64),
    }
    jobs: dict[str, Job] = {}
    expected = {}
    for name, (module, dtype) in rows.items():
        scores, targets, *_ = lattice(name.split(",")[0].removesuffix("_kd"), dtype, (4, 9, 3, 6), 0, 7)
        lens = torch.tensor([1.0, 0.67, 0.8, 0.5], dtype=dtype)
        arguments = [scores, targets, lens, lens.flip(0)]
        if name == "ctc_loss_kd":
            arguments = [scores, torch.rand(scores.shape, dtype=dtype), lens]
        file = str(tmp_path / f"{name}.pt")
        to_torchscript(module, file, custom_ops=True)
        weights = torch.tensor(2.0, dtype=dtype)
        jobs[name] = (file, arguments, weights, 1)
        variable = scores.clone().requires_grad_()
        value = module(variable, *arguments[1:])
        (value * weights).sum().backward()
        expected[name] = (value.detach(), variable.grad)
    _, got = alone(libraries[1], jobs, tmp_path / "with")
    for name, (value, grad) in expected.items():
        assert not isinstance(got[name], str), got[name]
        torch.testing.assert_close(got[name][0], value, **TOLERANCE[value.dtype])
        torch.testing.assert_close(got[name][1], grad, **TOLERANCE[value.dtype])
    schemas, got = alone("", jobs, tmp_path / "without")
    assert schemas == []
    assert all("exportable_losses::" in message for message in got.values())


def test_where_the_package_is_its_operators_stay(libraries: tuple[str, str]) -> None:
    """Loaded after the package the library changes nothing; the package says that it comes too late."""
    code = """
import sys, torch
library, *order = sys.argv[1:]
for one in order:
    if one == "package":
        import exportable_losses.ops
    else:
        torch.ops.load_library(library)
op = torch.ops.exportable_losses.ctc_loss
from exportable_losses.ops import using
with using("torch"):
    print(op(torch.zeros(1, 2, 3), torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1]), 0))
"""
    for order, said in [
        (("package", "library"), "tensor([-1.0986])"),
        (("library", "package"), "multiple times"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", code, libraries[1], *order], capture_output=True, text=True
        )
        assert said in done.stdout + done.stderr, done.stderr


def test_pip_does_not_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPORTABLE_LOSSES_LIBRARY", raising=False)
    path = library_path()
    if path is None:
        pytest.skip("the package was installed without its library")
    assert list(Path(path).parent.glob("*exportable_losses_torch*")) == []
