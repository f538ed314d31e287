"""One walk of a lattice for its costs and their gradient, which autograd walks twice."""

import operator

import torch
from torch.fx import GraphModule, Node

import exportable_losses.ops  # noqa: F401  its operators are registered
from exportable_losses.ops.scores import computed

ours = torch.ops.exportable_losses
aten = torch.ops.aten
_GRADIENTS = {
    ours.ctc_loss.default: ours.ctc_loss_grad.default,
    ours.arcs_loss.default: ours.arcs_loss_grad.default,
    ours.transducer_loss.default: ours.transducer_loss_grad.default,
}


def join(module: GraphModule) -> None:
    """Take the costs of each lattice from the walk that gives its gradient, in place.

    The gradient of the costs may be made of the costs (an infinite one counts for nothing), so the walk is
    given ones, and the weight of each item is multiplied in behind it.
    """
    for costs in list(module.graph.nodes):
        if costs.target not in _GRADIENTS:
            continue
        found = [
            n for n in module.graph.nodes if n.target == _GRADIENTS[costs.target] and n.args[:5] == costs.args
        ]
        if found:
            _join(module, costs, found)
    module.graph.eliminate_dead_code()
    module.recompile()


def _join(module: GraphModule, costs: Node, gradients: list[Node]) -> None:
    scores, lengths = costs.args[0], costs.args[3]
    dtype, rank = scores.meta["val"].dtype, scores.meta["val"].dim()  # type: ignore[union-attr]
    wide = computed(dtype)  # a gradient of 16 bits is rounded once, behind its weight
    call = module.graph.call_function
    with module.graph.inserting_before(costs):
        if wide != dtype:
            scores = call(aten._to_copy.default, (scores,), {"dtype": wide})
        ones = call(aten.ones_like.default, (lengths,), {"dtype": wide})
        both = call(gradients[0].target, (scores, *costs.args[1:], ones))  # type: ignore[arg-type]
        joined, unit = call(operator.getitem, (both, 0)), call(operator.getitem, (both, 1))
    costs.replace_all_uses_with(joined)
    for gradient in gradients:
        with module.graph.inserting_before(gradient):
            weight = gradient.args[5]
            for _ in range(rank - 1):
                weight = call(aten.unsqueeze.default, (weight, -1))
            weighted = call(aten.mul.Tensor, (unit, weight))
            if wide != dtype:
                weighted = call(aten._to_copy.default, (weighted,), {"dtype": dtype})
        for output in list(gradient.users):
            output.replace_all_uses_with(weighted if output.args[1] == 1 else joined)
