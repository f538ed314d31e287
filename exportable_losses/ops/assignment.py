"""The cheapest assignment by a dynamic programme over subsets, in plain torch."""

import torch
from torch import Tensor


def best_permutation(costs: Tensor) -> Tensor:
    """For each item the permutation p that minimises the sum over i of `costs[i, p[i]]`.

    Held and Karp's programme over subsets (1962): with the first i rows assigned to a set of i
    columns, what the rest costs depends on the set alone. S·2^S steps, where there are S!
    permutations. Among equals it takes the first in lexicographic order.

    Args:
        costs: `[B, S, S]`.

    Returns:
        int64 `[B, S]`.
    """
    sources = costs.shape[1]
    if sources == 0:
        raise ValueError("costs: got no sources, expected at least one")
    column = torch.arange(sources, device=costs.device)
    bit = torch.ones_like(column) << column
    subsets = torch.arange(1 << sources, device=costs.device).unsqueeze(1)
    taken = (subsets & bit) != 0
    joined = subsets | bit
    rest = torch.zeros(costs.shape[0], 1 << sources, dtype=costs.dtype, device=costs.device)
    for row in range(sources - 1, -1, -1):
        layer = (taken.sum(1) == row).nonzero().squeeze(1)
        cost = costs[:, row].unsqueeze(1) + rest[:, joined[layer]]
        rest[:, layer] = cost.masked_fill(taken[layer], float("inf")).amin(-1)
    chosen = torch.zeros(costs.shape[0], 1, dtype=torch.int64, device=costs.device)
    permutation = torch.jit.annotate(list[Tensor], [])
    for row in range(sources):
        cost = costs[:, row] + rest.gather(1, chosen | bit)
        best = cost.masked_fill((chosen & bit) != 0, float("inf")).argmin(1, keepdim=True)
        permutation.append(best)
        chosen = chosen | bit[best]
    return torch.cat(permutation, 1)
