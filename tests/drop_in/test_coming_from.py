"""docs/coming-from.md: each call in its table gives what the other library's gives."""

import functools
import re
from pathlib import Path
from typing import Any

import jiwer
import pytest
import torch
import torch.nn.functional as F
from enumeration import ctc_lattice_by_enumeration, transducer_by_enumeration
from torch import Tensor

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text()
B, T, S, C = 3, 8, 4, 6
V, U = C, S


@functools.cache
def namespace() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    frames, labels = torch.tensor([8, 7, 6]), torch.tensor([4, 2, 3])
    targets = torch.randint(1, C, (B, S), generator=draw)
    return {
        **{"T": T, "S": S, "C": C, "V": V, "frames": frames, "labels": labels, "targets": targets},
        "log_probs": torch.randn(B, T, C, generator=draw, dtype=torch.float64).log_softmax(-1),
        "logits": torch.randn(B, T, U + 1, V, generator=draw, dtype=torch.float64),
        "below": (targets - 1) % (C - 1),
        "flat": torch.cat([row[:n] for row, n in zip(targets, labels.tolist(), strict=True)]),
        "padded": targets.masked_fill(torch.arange(S) >= labels.unsqueeze(1), -100),
        "references": ["the cat sat", "on the mat today"],
        "hypotheses": ["the bat sat down", "on mat today"],
    }


@functools.cache
def expected() -> list[Any]:
    """By torch's own CTC and by every path of the lattices, in the order of the table."""
    given = namespace()
    frames, labels, logits = given["frames"], given["labels"], given["logits"]
    time_first = given["log_probs"].transpose(0, 1)

    def ctc(targets: str, reduction: str, blank: int = 0) -> Tensor:
        return F.ctc_loss(time_first, given[targets], frames, labels, blank, reduction)

    def transducer(targets: Tensor, blank: int) -> Tensor:
        items = zip(logits, targets.tolist(), frames, labels, strict=True)
        costs = [
            transducer_by_enumeration(item[:t, : u + 1], tuple(target[:u]), blank)
            for item, target, t, u in items
        ]
        return torch.stack(costs)

    of_best = [
        ctc_lattice_by_enumeration(scores, tuple(target), 0)[2]
        for scores, target in zip(given["log_probs"], given["targets"].tolist(), strict=True)
    ]
    last = C - 1
    return [
        ctc("targets", "mean"),
        ctc("targets", "mean"),
        transducer(given["targets"], 0).mean(),
        torch.tensor(of_best, dtype=torch.float64),
        ctc("targets", "mean"),
        ctc("below", "none", last).mean(),
        ctc("below", "sum", last) / labels.sum(),
        transducer(given["below"], last).mean(),
        transducer(given["below"], last).sum() / labels.sum(),
        ctc("targets", "sum") / B,
        ctc("flat", "sum"),
        ctc("flat", "sum"),
        ctc("flat", "mean"),
        jiwer.wer(given["references"], given["hypotheses"]),
    ]


ROWS = [
    line.split(" | ")[2].removesuffix(" |").strip("`") for line in PAGE.splitlines() if line.startswith("| ")
][1:]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_each_call_gives_what_it_gives_there(number: int) -> None:
    names = dict(namespace())
    (imports,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(imports, names)
    got = torch.as_tensor(eval(ROWS[number], names), dtype=torch.float64)
    wanted = expected()
    assert len(wanted) == len(ROWS)
    torch.testing.assert_close(got, torch.as_tensor(wanted[number], dtype=torch.float64), rtol=1e-6, atol=0)
