"""Recurrent layers laid out for the runtime's matmul.

Each gate has its own matrix, so that no result is split. Layer 0 reads a character: its input projection is a lookup in
a table with one row per character. A further layer reads its input and its hidden state side by side, in one matmul;
only a GRU's candidate keeps them apart, because the reset gate scales just one of the two, and gates whose recurrent
product is normalised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bundle.shape import NORM_EPSILON
from export.graph.activations import Activation
from export.graph.folding import Affine, constant

__all__ = ["Dense", "FirstLayer", "FurtherLayer", "LayerWeights", "update"]

# How many gates keep input and hidden state apart: the last one of a GRU.
APART = {"rnn": 0, "lstm": 0, "gru": 1}

Pair = tuple[Tensor, Tensor]
# The gates' sums before their nonlinearity, [B, H]: those of gates that add input and hidden state, and the two sums of
# each gate that keeps them apart.
Sums = tuple[list[Tensor], list[Pair]]


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer: for its input, [count x H, I], and for its own output, [count x H, O].

    Attributes:
        count: number of gates, which are stacked in torch's order.
        gain: of the normalised product of the layer's own output, [count x H]; None: it is not normalised.
    """

    cell: str
    count: int
    of_x: Affine
    of_h: Affine
    gain: Tensor | None = None

    @property
    def gates(self) -> list[tuple[Affine, Affine]]:
        """Each gate's weights for the input and for the layer's own output."""
        parts = ((a.weight, a.bias) for a in (self.of_x, self.of_h))
        chunks = [tensor.chunk(self.count) for pair in parts for tensor in pair]
        return [(Affine(w_x, b_x), Affine(w_h, b_h)) for w_x, b_x, w_h, b_h in zip(*chunks, strict=True)]

    def norms(self) -> nn.ModuleList:
        """Return what follows each gate's recurrent product; it also adds the bias of a gate that keeps it apart."""
        if self.gain is None:
            return nn.ModuleList(nn.Identity() for _ in range(self.count))
        biases = [None] * self.together + [of_h.bias for _, of_h in self.gates[self.together :]]
        return nn.ModuleList(map(RecurrentNorm, self.gain.chunk(self.count), biases))

    @property
    def together(self) -> int:
        """The number of gates that add input and hidden state."""
        return self.count - APART[self.cell]


class Dense(nn.Module):
    """y = x W + b in float32: x [B, K], W [K, N]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = constant(weight)
        self.bias = None if bias is None else constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class RecurrentNorm(nn.Module):
    """Layer normalisation of a gate's recurrent product [B, H], times its gain [H], plus a bias [H] if there is one."""

    def __init__(self, gain: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = constant(gain)
        self.bias = None if bias is None else constant(bias)

    def forward(self, product: Tensor) -> Tensor:
        return nn.functional.layer_norm(product, product.shape[1:], self.weight, self.bias, NORM_EPSILON)


class FirstLayer(nn.Module):
    """The layer that reads a character: its part of each gate's sum is a row of a table [V, H]."""

    def __init__(self, weights: LayerWeights) -> None:
        super().__init__()
        self.together = weights.together
        tables, hidden = [], []
        for number, (of_x, of_h) in enumerate(weights.gates):
            joined = number < self.together
            tables.append(constant(of_x.weight.T + (of_x.bias + of_h.bias if joined else of_x.bias)))
            hidden.append(Dense(of_h.weight.T, None if joined or weights.gain is not None else of_h.bias))
        self.tables, self.hidden, self.norms = nn.ParameterList(tables), nn.ModuleList(hidden), weights.norms()

    def forward(self, token: Tensor, h: Tensor) -> Sums:
        pairs = [
            (nn.functional.embedding(token, table), norm(matmul(h)))
            for table, matmul, norm in zip(self.tables, self.hidden, self.norms, strict=True)
        ]
        return [row + product for row, product in pairs[: self.together]], pairs[self.together :]


class FurtherLayer(nn.Module):
    """A layer that reads the output of the layers below.

    Attributes:
        both: the matmuls of gates that read both side by side.
        of_x, of_h, norms: those of the other gates, the first `added` of which add their parts.
    """

    def __init__(self, weights: LayerWeights) -> None:
        super().__init__()
        both, alone_x, alone_h = [], [], []
        side_by_side = weights.together if weights.gain is None else 0
        for number, (of_x, of_h) in enumerate(weights.gates):
            if number < side_by_side:
                both.append(Dense(torch.cat([of_x.weight, of_h.weight], 1).T, of_x.bias + of_h.bias))
            else:
                joined = number < weights.together
                alone_x.append(Dense(of_x.weight.T, of_x.bias + of_h.bias if joined else of_x.bias))
                alone_h.append(Dense(of_h.weight.T, of_h.bias if weights.gain is None else None))
        self.both, self.of_x, self.of_h = nn.ModuleList(both), nn.ModuleList(alone_x), nn.ModuleList(alone_h)
        self.norms, self.added = weights.norms()[side_by_side:], weights.together - side_by_side

    def forward(self, x: Tensor, h: Tensor) -> Sums:
        pairs = [(a(x), norm(b(h))) for a, b, norm in zip(self.of_x, self.of_h, self.norms, strict=True)]
        if not self.both:
            return [of_x + of_h for of_x, of_h in pairs[: self.added]], pairs[self.added :]
        xh = torch.cat([x, h], 1)
        return [matmul(xh) for matmul in self.both], pairs


def update(cell: str, form: str, phi: Activation, sums: Sums, state: Sequence[Tensor]) -> list[Tensor]:
    """Return the state after a step, [h] or [h, c], each [B, H], as models/network/unrolled.py defines it."""
    together, apart = sums
    if cell == "lstm":
        return _lstm(together, state[1])
    if cell == "gru":
        return _gru(together, apart[0], state[0])
    if form == "pre":
        return together
    if len(together) > 1:  # the pieces of maxout
        return [torch.maximum(*together)]
    return [phi(together[0])]


def _lstm(sums: list[Tensor], c: Tensor) -> list[Tensor]:
    i, f, g, o = sums
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _gru(sums: list[Tensor], candidate: Pair, h: Tensor) -> list[Tensor]:
    r, z = sums
    of_x, of_h = candidate
    n = torch.tanh(of_x + torch.sigmoid(r) * of_h)
    return [n + torch.sigmoid(z) * (h - n)]
