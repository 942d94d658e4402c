"""Every recurrent layer as one plain loop over time, step by step as its equations say.

The fused kernels of torch compute the same from the same parameters; here each step's parts can be looked at.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from bundle.shape import NORM_EPSILON

__all__ = ["Layer", "Step", "unroll"]

# One tensor [B, H] per kind: (h,), of an LSTM (h, c).
LayerState = tuple[Tensor, ...]


class Layer(Protocol):
    """The parts of a layer that the loop reads; shapes in models/network/layers.py."""

    cell: str
    form: str
    gates: int
    phi: nn.Module
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
    gain: Tensor | None


class Step(NamedTuple):
    """One step of one layer.

    Attributes:
        sums: before the nonlinearities, [B, gates x H], the gates in the order of the weights.
        output: handed to the layer above, or to the head, [B, O].
        state: after the step.
    """

    sums: Tensor
    output: Tensor
    state: LayerState


def unroll(layer: Layer, x: Tensor, state: LayerState) -> list[Step]:
    """Run T steps: x [T, B, I]. Outputs and states belong to one graph, so that gradients reach each of them."""
    step = {"lstm": _lstm, "gru": _gru, "rnn": _pre if layer.form == "pre" else _post}[layer.cell]
    steps: list[Step] = []
    for projected in nn.functional.linear(x, layer.weight_ih, layer.bias_ih).unbind():
        steps.append(step(layer, projected, steps[-1].state if steps else state))
    return steps


def _sums(layer: Layer, projected: Tensor, h: Tensor) -> Tensor:
    """Return the gates' sums [B, gates x H]; the bias is in the projected input [B, gates x H]."""
    if layer.gain is None:
        return torch.addmm(projected, h, layer.weight_hh.T)
    return projected + _recurrent_product(layer, h)


def _recurrent_product(layer: Layer, h: Tensor) -> Tensor:
    """Return W h [B, gates x H], with a gain normalised for each gate by itself (Ba, Kiros and Hinton, 2016)."""
    product = nn.functional.linear(h, layer.weight_hh)
    if layer.gain is None:
        return product
    gates = product.unflatten(1, (-1, product.shape[1] // layer.gates))
    return nn.functional.layer_norm(gates, gates.shape[2:], eps=NORM_EPSILON).flatten(1) * layer.gain


def _post(layer: Layer, projected: Tensor, state: LayerState) -> Step:
    """h = phi(W h' + U x + b) (Elman, 1990)."""
    sums = _sums(layer, projected, state[0])
    h = layer.phi(sums)
    return Step(sums, h, (h,))


def _pre(layer: Layer, projected: Tensor, state: LayerState) -> Step:
    """h = W phi(h') + U x + b, phi(h) is handed up (Pascanu et al., 2013)."""
    h = _sums(layer, projected, layer.phi(state[0]))
    return Step(h, layer.phi(h), (h,))


def _lstm(layer: Layer, projected: Tensor, state: LayerState) -> Step:
    """Gates in the order i f g o (Hochreiter and Schmidhuber, 1997; Gers et al., 2000)."""
    sums = _sums(layer, projected, state[0])
    i, f, g, o = sums.chunk(4, 1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return Step(sums, h, (h, c))


def _gru(layer: Layer, projected: Tensor, state: LayerState) -> Step:
    """Gates in the order r z n; r scales W h' + b of the candidate, as in torch and cuDNN (Cho et al., 2014, v3)."""
    h = state[0]
    of_x = projected.chunk(3, 1)
    of_h = (_recurrent_product(layer, h) + layer.bias_hh).chunk(3, 1)
    r, z = of_x[0] + of_h[0], of_x[1] + of_h[1]
    n = of_x[2] + torch.sigmoid(r) * of_h[2]
    candidate = torch.tanh(n)
    h = candidate + torch.sigmoid(z) * (h - candidate)
    return Step(torch.cat([r, z, n], 1), h, (h,))
