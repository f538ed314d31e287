"""docs/coming-from.md: each call in its table gives what the other library's gives."""

import re
from pathlib import Path
from typing import Any

import jiwer
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text()
B, T, S, C = 3, 12, 4, 6
V, U = C, S


def namespace() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    frames, labels = torch.tensor([12, 9, 10]), torch.tensor([4, 2, 3])
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


def expected(given: dict[str, Any]) -> list[Any]:
    """By torch's own CTC and by each transducer's recursion, in the order of the table."""
    frames, labels, logits = given["frames"], given["labels"], given["logits"]
    time_first = given["log_probs"].transpose(0, 1)

    def ctc(targets: str, reduction: str, blank: int = 0) -> Tensor:
        return F.ctc_loss(time_first, given[targets], frames, labels, blank, reduction)

    def transducer(targets: Tensor, blank: int) -> Tensor:
        costs = []
        for scores, target, t_end, u_end in zip(logits.log_softmax(-1), targets, frames, labels, strict=True):
            alpha = {(0, 0): torch.zeros((), dtype=torch.float64)}
            for t in range(int(t_end)):
                for u in range(int(u_end) + 1):
                    ways = [alpha[t - 1, u] + scores[t - 1, u, blank]] if t else []
                    ways += [alpha[t, u - 1] + scores[t, u - 1, target[u - 1]]] if u else []
                    if ways:
                        alpha[t, u] = torch.stack(ways).logsumexp(0)
            costs.append(-alpha[int(t_end) - 1, int(u_end)] - scores[t_end - 1, u_end, blank])
        return torch.stack(costs)

    of_best = [
        path_score(scores, target.tolist())
        for scores, target in zip(given["log_probs"], given["targets"], strict=True)
    ]
    last = C - 1
    return [
        ctc("targets", "mean"),
        ctc("targets", "mean"),
        transducer(given["targets"], 0).mean(),
        torch.stack(of_best),
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


def path_score(scores: Tensor, target: list[int]) -> Tensor:
    """Viterbi over the states of CTC, one frame after the other."""
    states = [0, *(label for each in target for label in (each, 0))]
    best = [scores[0, 0], scores[0, states[1]], *[torch.tensor(-torch.inf)] * (len(states) - 2)]
    for frame in scores[1:]:
        before = best
        best = []
        for s, label in enumerate(states):
            ways = [before[s], *([before[s - 1]] if s else [])]
            if s > 1 and label not in (0, states[s - 2]):
                ways.append(before[s - 2])
            best.append(max(ways) + frame[label])
    return max(best[-2:])


ROWS = [
    line.split(" | ")[2].removesuffix(" |").strip("`") for line in PAGE.splitlines() if line.startswith("| ")
][1:]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_each_call_gives_what_it_gives_there(number: int) -> None:
    names = namespace()
    (imports,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(imports, names)
    got = torch.as_tensor(eval(ROWS[number], names), dtype=torch.float64)
    wanted = expected(names)
    assert len(wanted) == len(ROWS)
    torch.testing.assert_close(got, torch.as_tensor(wanted[number], dtype=torch.float64), rtol=1e-6, atol=0)
