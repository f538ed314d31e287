"""Recurrent layers of any length: their loop as torch's ``scan``, where torch writes out every frame.

A layer is what torch makes of it, but for its recursion, which has a gradient of its own: that of a step is
torch's, and what flows to the weights is summed after the loop, in one product.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan_op
from torch.nn import functional as F

State = tuple[Tensor, ...]
# of the input's share of the gates `[B, G]`, the state's, and the state `[B, H]`, whose first is the output
Cell = Callable[[Tensor, Tensor, State], State]


def composites() -> dict[Any, Callable[..., Any]]:
    """Each layer of torch in other operators."""
    aten = torch.ops.aten
    return {
        aten.lstm.input: lambda x, state, *settings: _layers(_lstm, x, state, *settings),
        aten.gru.input: lambda x, state, *settings: _layers(_gru, x, [state], *settings),
        aten.rnn_tanh.input: lambda x, state, *settings: _layers(_tanh, x, [state], *settings),
        aten.rnn_relu.input: lambda x, state, *settings: _layers(_relu, x, [state], *settings),
    }


def _lstm(x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru(x: Tensor, h: Tensor, state: State) -> State:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
    new = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return (new + (x_z + h_z).sigmoid() * (state[0] - new),)


def _tanh(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).tanh(),)


def _relu(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).relu(),)


def _layers(
    cell: Cell,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """The output of the last layer, and the last state of each layer and direction, stacked."""
    if train and dropout:
        raise ValueError(f"recurrent layer: got dropout {dropout} in training, expected evaluation")
    directions, each = 1 + bidirectional, 4 if has_biases else 2
    if len(parameters) != num_layers * directions * each:
        raise ValueError("LSTM: got a projection (proj_size), expected none")
    last = []
    x = x.transpose(0, 1) if batch_first else x
    for layer in range(num_layers):
        outputs = []
        for backwards in range(directions):
            place = layer * directions + backwards
            weight, recurrent, *biases = parameters[place * each : (place + 1) * each]
            gates = F.linear(x.flip(0) if backwards else x, weight, biases[0] if biases else None)
            bias = biases[1] if biases else torch.zeros_like(recurrent[:, 0])
            reached = _Recurrence.apply(cell, gates, recurrent, bias, *(part[place] for part in state))
            outputs.append(reached[0].flip(0) if backwards else reached[0])
            last.append([part[-1] for part in reached])
        x = torch.cat(outputs, -1)
    x = x.transpose(0, 1) if batch_first else x
    return (x, *(torch.stack(parts) for parts in zip(*last, strict=True)))


class _Recurrence(torch.autograd.Function):
    """The states `[T, B, H]` that a cell goes through.

    Of gates `[T, B, G]`, the weight `[G, H]` and the bias `[G]` of the state's share, and the first state.
    """

    @staticmethod
    def forward(ctx: Any, cell: Cell, gates: Tensor, weight: Tensor, bias: Tensor, *state: Tensor) -> State:
        n = len(state)
        weight, bias = weight.clone(), bias.clone()  # a scan takes no parameter that the trace holds itself

        def step(*of_step: Tensor) -> list[Tensor]:
            before, (gates, weight, bias) = of_step[:n], of_step[n : n + 3]
            reached = cell(gates, F.linear(before[0], weight, bias), before)
            return [*reached, *(part.clone() for part in reached)]  # a scan must not return one twice

        reached = scan_op(step, list(state), [gates], (weight, bias))[n:]
        ctx.cell = cell
        ctx.save_for_backward(gates, weight, bias, *state, *reached)
        return tuple(reached)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n = len(grads)
        gates, weight, bias, *states = ctx.saved_tensors
        before = [torch.cat([s.unsqueeze(0), r])[:-1] for s, r in zip(states[:n], states[n:], strict=True)]

        def step(*of_step: Tensor) -> list[Tensor]:
            later, grads, before = of_step[:n], of_step[n : 2 * n], of_step[2 * n : 3 * n]
            gates, weight, bias = of_step[3 * n : 3 * n + 3]
            share = F.linear(before[0], weight, bias)
            pulled = torch.func.vjp(lambda x, h, *s: ctx.cell(x, h, s), gates, share, *before)[1]
            of_gates, of_share, first, *others = pulled(
                tuple(a + b for a, b in zip(later, grads, strict=True))
            )
            return [part.clone() for part in (first + of_share @ weight, *others, of_gates, of_share)]

        sequences = [sequence.flip(0) for sequence in (*grads, *before, gates)]
        done = scan_op(step, [torch.zeros_like(part) for part in states[:n]], sequences, (weight, bias))
        of_gates, of_share = (part.flip(0) for part in done[n:])
        of_weight = torch.einsum("tbg,tbh->gh", of_share, before[0])
        return None, of_gates, of_weight, of_share.sum((0, 1)), *done[:n]
