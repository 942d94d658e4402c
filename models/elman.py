"""The Elman RNN with an activation that torch's own does not have."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["ElmanRNN"]


class ElmanRNN(nn.Module):
    """h = phi(W_ih x + b_ih + W_hh h' + b_hh) in every layer (Elman, 1990), with any phi; otherwise `nn.RNN`.

    Names, shapes, order and initialisation of its parameters are those of `nn.RNN`, so is the place of dropout:
    with phi = tanh it gives the same results.

    Args:
        phi: an elementwise function.
        dropout: on what each layer hands to the next one.
    """

    def __init__(
        self, inputs: int, hidden: int, layers: int, *, phi: Callable[[Tensor], Tensor], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.phi, self.dropout = phi, nn.Dropout(dropout)
        bound = 1 / math.sqrt(hidden)
        for layer in range(layers):
            shapes = {
                "weight_ih": (hidden, hidden if layer else inputs),
                "weight_hh": (hidden, hidden),
                "bias_ih": (hidden,),
                "bias_hh": (hidden,),
            }
            for name, shape in shapes.items():
                weights = torch.empty(shape).uniform_(-bound, bound)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(weights))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Runs T steps: x [T, B, E] and the state [L, B, H] -> the last layer's h [T, B, H] and the state after."""
        after = []
        for layer, h in enumerate(state.unbind()):
            x = self._layer(layer, self.dropout(x) if layer else x, h)
            after.append(x[-1])
        return x, torch.stack(after)

    def _layer(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = (
            self.get_parameter(f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        steps = []
        for projected in nn.functional.linear(x, w_ih, b_ih).unbind():
            h = self.phi(nn.functional.linear(h, w_hh, b_hh) + projected)
            steps.append(h)
        return torch.stack(steps)
