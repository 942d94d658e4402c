"""The mean and the variance of the units' sums before the nonlinearity, by layer and gate.

With weights of variance 1/n_in a sum has the variance of its inputs (LeCun et al., 1998, Efficient BackProp);
Xavier's 2 / (n_in + n_out) keeps the gradient's variance as well (Glorot and Bengio, 2010), and He's 2 / n_in makes up
for the half of the units that a relu cuts off (He et al., 2015). With weights that are too small a signal fades from
layer to layer. With too large ones units saturate: the slope of their nonlinearity vanishes, and their gradient too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.network.activations import ACTIVATIONS
from models.network.char_lm import CharLM

__all__ = ["FLAT", "GateSums", "gate_sums", "spread_by_layer"]

# A unit is flat at a character where the slope of its nonlinearity is below this share of its largest: |tanh| > 0.975,
# a sigmoid within 0.013 of 0 or 1, a relu below 0.
FLAT = 0.05
SATURATING = ("tanh", "sigmoid", "hardtanh")
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": " "}
_TANH_GATES = "gn"


@dataclass(frozen=True)
class GateSums:
    """The sums of one gate of one layer, over the characters of a sample.

    Args:
        gate: i, f, g or o of an LSTM, r, z or n of a GRU, empty for an rnn.
        across: standard deviation over the units at the same character: 0 if all units do the same.
        flat: share of units and characters at which the nonlinearity is flat.
        dead: share of the units that are flat at every character.
        saturates: whether the nonlinearity has an upper and a lower limit where it is flat.
        values: the sums of all units and characters, for a histogram.
    """

    layer: int
    gate: str
    mean: float
    std: float
    across: float
    flat: float
    dead: float
    saturates: bool
    values: Tensor

    @property
    def name(self) -> str:
        return f"layer {self.layer + 1} {self.gate}".strip()

    @property
    def variance(self) -> float:
        return self.std**2


@torch.no_grad()
def gate_sums(model: CharLM, ids: Tensor) -> list[GateSums]:
    """Return the sums of all layers and gates for ids [T, B], from the initial state and without dropout."""
    trace = model.unroll(ids, model.initial_state(ids.shape[1]))
    gates = GATES[model.config.cell]
    result = []
    for layer, traced in enumerate(trace.layers):
        for gate, sums in zip(gates, torch.stack(traced.sums).chunk(len(gates), dim=-1), strict=True):
            name = _nonlinearity(model, gate)
            flat = _slopes(name, model.layers[layer].phi, sums) < FLAT
            result.append(
                GateSums(
                    layer,
                    gate.strip(),
                    mean=sums.mean().item(),
                    std=sums.std().item(),
                    across=sums.std(dim=-1).mean().item(),
                    flat=flat.float().mean().item(),
                    dead=flat.flatten(0, 1).all(dim=0).float().mean().item(),
                    saturates=name in SATURATING,
                    values=sums.flatten(),
                )
            )
    return result


@torch.no_grad()
def spread_by_layer(model: CharLM, ids: Tensor) -> list[float]:
    """Return the standard deviation of each layer's outputs at the last step of ids [T, B]."""
    trace = model.unroll(ids, model.initial_state(ids.shape[1]))
    return [layer.outputs[-1].std().item() for layer in trace.layers]


def _nonlinearity(model: CharLM, gate: str) -> str:
    if model.config.cell == "rnn":
        return model.config.activation
    return "tanh" if gate in _TANH_GATES else "sigmoid"


def _slopes(name: str, learned: nn.Module, sums: Tensor) -> Tensor:
    """Return |phi'| at each sum, as a share of its largest value; `learned`: phi of an rnn, which may have weights."""
    phi = ACTIVATIONS[name].make() if name in ("sigmoid", "tanh") else learned
    with torch.enable_grad():
        at = sums.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(phi(at).sum(), at)
    return slopes.abs() / ACTIVATIONS[name].slope
