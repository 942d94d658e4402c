"""Recurrent layers laid out for the runtime's matmul.

One matrix per gate, so that nothing is split. Layer 0's input is a character: its input projection is a table with one
row per character, a lookup. In a further layer the input and the hidden state lie side by side, one matmul for both;
only a GRU's candidate keeps them apart, because the reset gate scales one and not the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Dense", "FirstLayer", "FurtherLayer", "LayerWeights", "constant", "update"]

# Gates in torch's order within its stacked weights. Those of the second list keep input and hidden state apart.
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
APART = {"rnn": 0, "lstm": 0, "gru": 1}
ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}

Pair = tuple[Tensor, Tensor]
# The gates' sums before their nonlinearity [B, H]: of those that take input and hidden state together, and of those
# that keep them apart.
Sums = tuple[list[Tensor], list[Pair]]


@dataclass(frozen=True)
class LayerWeights:
    """torch's weights of one layer: [gates x H, inputs], [gates x H, H], [gates x H] twice."""

    cell: str
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def gates(self, of: Tensor) -> Sequence[Tensor]:
        return of.chunk(GATES[self.cell])

    @property
    def together(self) -> int:
        """How many gates add input and hidden state."""
        return GATES[self.cell] - APART[self.cell]


class Dense(nn.Module):
    """y = x W + b in float32: x [B, K], W [K, N]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = constant(weight)
        self.bias = None if bias is None else constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class FirstLayer(nn.Module):
    """Its input is a character, whose part of each gate's sum is a row of a table [V, H]."""

    def __init__(self, weights: LayerWeights, embedding: Tensor) -> None:
        super().__init__()
        self.together = weights.together
        tables, hidden = [], []
        parts = map(weights.gates, (weights.weight_ih, weights.weight_hh, weights.bias_ih, weights.bias_hh))
        for number, (w_ih, w_hh, b_ih, b_hh) in enumerate(zip(*parts, strict=True)):
            joined = number < self.together
            tables.append(constant(embedding @ w_ih.T + (b_ih + b_hh if joined else b_ih)))
            hidden.append(Dense(w_hh.T, None if joined else b_hh))
        self.tables, self.hidden = nn.ParameterList(tables), nn.ModuleList(hidden)

    def forward(self, token: Tensor, h: Tensor) -> Sums:
        pairs = [
            (nn.functional.embedding(token, table), matmul(h))
            for table, matmul in zip(self.tables, self.hidden, strict=True)
        ]
        return [row + product for row, product in pairs[: self.together]], pairs[self.together :]


class FurtherLayer(nn.Module):
    """Its input is the hidden state of the layer below."""

    def __init__(self, weights: LayerWeights) -> None:
        super().__init__()
        both, of_x, of_h = [], [], []
        parts = map(weights.gates, (weights.weight_ih, weights.weight_hh, weights.bias_ih, weights.bias_hh))
        for number, (w_ih, w_hh, b_ih, b_hh) in enumerate(zip(*parts, strict=True)):
            if number < weights.together:
                both.append(Dense(torch.cat([w_ih, w_hh], 1).T, b_ih + b_hh))
            else:
                of_x.append(Dense(w_ih.T, b_ih))
                of_h.append(Dense(w_hh.T, b_hh))
        self.both, self.of_x, self.of_h = nn.ModuleList(both), nn.ModuleList(of_x), nn.ModuleList(of_h)

    def forward(self, x: Tensor, h: Tensor) -> Sums:
        xh = torch.cat([x, h], 1)
        apart = [(a(x), b(h)) for a, b in zip(self.of_x, self.of_h, strict=True)]
        return [matmul(xh) for matmul in self.both], apart


def update(cell: str, activation: str, sums: Sums, state: Sequence[Tensor]) -> list[Tensor]:
    """The layer's state after the step, as torch.nn.LSTM, GRU and RNN define it: state [h] or [h, c], each [B, H]."""
    together, apart = sums
    if cell == "lstm":
        return _lstm(together, state[1])
    if cell == "gru":
        return _gru(together, apart[0], state[0])
    return [ACTIVATIONS[activation](together[0])]


def _lstm(sums: list[Tensor], c: Tensor) -> list[Tensor]:
    i, f, g, o = sums
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _gru(sums: list[Tensor], candidate: Pair, h: Tensor) -> list[Tensor]:
    r, z = sums
    of_x, of_h = candidate
    n = torch.tanh(of_x + torch.sigmoid(r) * of_h)
    return [n + torch.sigmoid(z) * (h - n)]


def constant(tensor: Tensor) -> nn.Parameter:
    """A copy of its own: the scan operator refuses inputs that share memory."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
