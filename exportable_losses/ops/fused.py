"""The output layer of a joint network, of whose scores a few classes are wanted at each node.

The scores of all nodes are never in memory at once. They are computed in tiles that stay in the processor's
cache; of each row what is wanted is kept, normalised. The gradient computes the tiles again.
"""

import functools
import os

import torch
from torch import Tensor

from .computers import only_native_of
from .picked import picked
from .scores import computed, widened

ACTIVATIONS = ("tanh", "relu", "silu", "identity")


def fused_joint(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    classes: Tensor,
    input_lengths: Tensor,
    node_lengths: Tensor,
    others: int,
    activation: str,
) -> Tensor:
    """The log-probabilities of a few classes at each node, and the scores behind those of the classes.

        scores(t, u) = activation(encoder(t) + predictor(u)) · weightᵀ + bias

    Of V + D scores the first V are of classes, and go through a log-softmax; D are given as they are.

    Args:
        encoder: `[B, T, H]`.
        predictor: `[B, N, H]`.
        weight: `[V + D, H]`.
        bias: `[V + D]`.
        classes: of each node `[B, N, K]`, int64; -1 for none.
        input_lengths: frames per item `[B]`, int64.
        node_lengths: nodes of each frame, per item `[B]`, int64.
        others: D.
        activation: one of `ACTIVATIONS`.

    Returns:
        `[B, T, N, K + D]`, zero behind the lengths.
    """
    check_layer(encoder, weight, bias)
    sizes = [encoder.shape[0], classes.shape[1], encoder.shape[2]]
    if list(predictor.shape) != sizes:
        raise ValueError("predictor: got shape " + str(list(predictor.shape)) + ", expected " + str(sizes))
    kinds, tokens = classes.shape[2], weight.shape[0] - others
    shape = [encoder.shape[0], encoder.shape[1], predictor.shape[1], kinds + others]
    found = widened(encoder).new_zeros(shape)
    rows = tile_rows(weight)
    room = torch.empty([0])
    if not torch.jit.is_scripting():
        room = weight.new_empty([rows, weight.shape[0]])
    for item, t, frames, u, nodes in tiles(input_lengths, node_lengths, rows):
        hidden = sums(encoder[item, t:frames], predictor[item, u:nodes])
        if torch.jit.is_scripting():
            hidden = activated(hidden, activation)
        else:
            hidden = activated_in_place(hidden, activation)
        scores = layer(hidden, weight, bias, room)
        wanted = classes[item, u:nodes].repeat(frames - t, 1)
        if torch.jit.is_scripting():
            log_probs = picked(scores[:, :tokens], wanted)
        else:
            log_probs = only_native_of(scores, "picked").picked(scores[:, :tokens], wanted)
        both = torch.cat([log_probs, scores[:, tokens:].to(log_probs.dtype)], 1)
        found[item, t:frames, u:nodes] = both.view(frames - t, nodes - u, shape[3])
    return found


def fused_joint_grad(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    classes: Tensor,
    input_lengths: Tensor,
    node_lengths: Tensor,
    others: int,
    activation: str,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients in the first four, of that of what `fused_joint` gives."""
    kinds, tokens = classes.shape[2], weight.shape[0] - others
    wide = computed(encoder.dtype)  # of sums over many tiles
    of_encoder, of_predictor, of_weight, of_bias = (
        torch.zeros(x.shape, dtype=wide, device=x.device) for x in (encoder, predictor, weight, bias)
    )
    rows = tile_rows(weight)
    room = weight.new_empty([rows, weight.shape[0]])
    for item, t, frames, u, nodes in tiles(input_lengths, node_lengths, rows):
        before = sums(encoder[item, t:frames], predictor[item, u:nodes])
        hidden = activated_in_place(before, activation)
        scores = layer(hidden, weight, bias, room)
        wanted = classes[item, u:nodes].repeat(frames - t, 1)
        slopes = grad[item, t:frames, u:nodes].flatten(0, 1)
        of_tokens = scores[:, :tokens]
        only_native_of(scores, "picked").picked(of_tokens, wanted, slopes[:, :kinds], of_tokens)
        scores[:, tokens:] = slopes[:, kinds:]
        of_bias += scores.sum(0, dtype=wide)
        if scores.dtype == wide:
            of_weight.addmm_(scores.t(), hidden)
        else:
            of_weight += torch.mm(scores.t(), hidden)
        through = activated_grad(torch.mm(scores, weight), before, hidden, activation)
        through = through.view(frames - t, nodes - u, -1)
        of_encoder[item, t:frames] += through.sum(1, dtype=wide)
        of_predictor[item, u:nodes] += through.sum(0, dtype=wide)
    return (
        of_encoder.to(encoder.dtype),
        of_predictor.to(predictor.dtype),
        of_weight.to(weight.dtype),
        of_bias.to(bias.dtype),
    )


def fused_best(hidden: Tensor, weight: Tensor, bias: Tensor, input_lengths: Tensor) -> Tensor:
    """The class of the best score hidden(t) · weightᵀ + bias, the first of equals: `[B, T]`, zero behind the
    lengths.
    """
    check_layer(hidden, weight, bias)
    best = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    for item, t, frames, _, _ in tiles(input_lengths, torch.ones_like(input_lengths), tile_rows(weight)):
        best[item, t:frames] = torch.addmm(bias, hidden[item, t:frames], weight.t()).argmax(1)
    return best


def check_layer(hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Refuse weights and biases that would be broadcast: a script checks nothing else."""
    expected = [bias.shape[0], hidden.shape[2]]
    if list(weight.shape) != expected:
        raise ValueError("weight: got shape " + str(list(weight.shape)) + ", expected " + str(expected))


def sums(encoder: Tensor, predictor: Tensor) -> Tensor:
    """What the activation is given, of frames `[T, H]` and nodes `[N, H]`: `[T · N, H]`."""
    return (encoder.unsqueeze(1) + predictor).flatten(0, 1)


def layer(hidden: Tensor, weight: Tensor, bias: Tensor, room: Tensor) -> Tensor:
    """The scores of some rows, in `room` where a script does not keep them for a gradient."""
    if torch.jit.is_scripting():
        return torch.addmm(bias, hidden, weight.t())
    return torch.addmm(bias, hidden, weight.t(), out=room[: hidden.shape[0]])


def activated(x: Tensor, activation: str) -> Tensor:
    """One of `ACTIVATIONS`."""
    if activation == "tanh":
        return x.tanh()
    if activation == "relu":
        return x.relu()
    if activation == "silu":
        return torch.nn.functional.silu(x)
    if activation != "identity":
        raise ValueError("activation: got " + activation + ", expected tanh, relu, silu or identity")
    return x


def activated_in_place(x: Tensor, activation: str) -> Tensor:
    """The same, which may take the place of `x` where its gradient is made of what is returned."""
    if activation == "tanh" and x.dtype == torch.float32:
        # 1e-7 from `x.tanh()`, which takes thirteen times as long
        return x.mul_(2).sigmoid_().mul_(2).sub_(1)
    if activation == "tanh":
        return x.tanh_()
    return x.relu_() if activation == "relu" else activated(x, activation)


def activated_grad(grad: Tensor, x: Tensor, y: Tensor, activation: str) -> Tensor:
    """The gradient in `x`, of that in y = `activated`(x), in the place of the latter or not."""
    if activation == "tanh":
        return torch.ops.aten.tanh_backward.grad_input(grad, y, grad_input=grad)
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, y, 0)
    return torch.ops.aten.silu_backward(grad, x) if activation == "silu" else grad


def tiles(input_lengths: Tensor, node_lengths: Tensor, rows: int) -> list[tuple[int, int, int, int, int]]:
    """All nodes within the lengths, some `rows` of them at a time.

    A tile is an item, its frames from and to, and its nodes from and to.
    """
    found: list[tuple[int, int, int, int, int]] = []
    all_frames: list[int] = input_lengths.tolist()  # at once: a device is waited for
    all_nodes: list[int] = node_lengths.tolist()
    for item, frames in enumerate(all_frames):
        nodes = all_nodes[item]
        high, wide = max(rows // max(nodes, 1), 1), min(nodes, rows)
        high = max(-(frames // -max(-(frames // -high), 1)), 1)  # as many tiles, all about as large
        for t in range(0, frames, high):
            for u in range(0, nodes, wide):
                found.append((item, t, min(t + high, frames), u, min(u + wide, nodes)))
    return found


def tile_rows(weight: Tensor) -> int:
    """How many rows of scores stay near: twice as much as the second-level caches hold, of a GPU half.

    No fewer than 256, since a product of few rows waits for the weights, and their gradient is gone through
    for each tile.
    """
    near = 1 << 22  # bytes, a common size
    if not torch.jit.is_scripting():
        near = _near(weight.device)
    return max(near // max(weight.shape[0] * weight.element_size(), 1), 256)


def _near(device: torch.device) -> int:
    """The bytes of scores in a tile. On a GPU, what they are made of has to find room in the same cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size // 2
    return 2 * _second_level() * torch.get_num_threads()


@functools.cache
def _second_level() -> int:
    """The bytes of a second-level cache; a megabyte where the system does not say."""
    known = "SC_LEVEL2_CACHE_SIZE" in getattr(os, "sysconf_names", {})
    return (os.sysconf("SC_LEVEL2_CACHE_SIZE") if known else 0) or 1 << 20
