"""The nonlinearities of an Elman RNN, made of operators with which onnxruntime gives a row the same bits in any batch.

Its own Elu and Softplus are not among them: they treat the last few numbers of an array differently from the rest
(tests/server/runtime/test_batch_invariance.py).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from export.graph.folding import constant

__all__ = ["Activation"]

# ln(1 + u) = 2 artanh(u / (2 + u)), and artanh z = z + z^3/3 + z^5/5 + ...: for u from 0 to 1, z is at most 1/3, and
# the rest of the series is below float32's roundings.
_SERIES = [2 / odd for odd in range(17, 0, -2)]


def _elu(a: Tensor) -> Tensor:
    return a.clamp(min=0) + (torch.exp(a.clamp(max=0)) - 1)


def _softplus(a: Tensor) -> Tensor:
    """Return max(a, 0) + ln(1 + exp(-|a|)), without a logarithm: the bits of its operators depend on the batch."""
    above = a.clamp(min=0)
    u = torch.exp(a - 2 * above)
    z = u / (2 + u)
    square = z * z
    series = square * _SERIES[0] + _SERIES[1]
    for coefficient in _SERIES[2:]:
        series = series * square + coefficient
    return above + z * series


def _maxout(pieces: Tensor) -> Tensor:
    """Return the elementwise maximum of the halves of [B, 2 N]."""
    size = pieces.shape[1] // 2
    return torch.maximum(pieces[:, :size], pieces[:, size:])


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "hardtanh": lambda a: a.clamp(-1, 1),
    "maxout": _maxout,
    "rbf": lambda a: torch.exp(-(a * a)),
}


class Activation(nn.Module):
    """The activation `name`, as in models/network/activations.py.

    Args:
        phi: the trained module, from which prelu takes its slope.
    """

    def __init__(self, name: str, phi: nn.Module) -> None:
        super().__init__()
        self.name = name
        if isinstance(phi, nn.PReLU):
            self.slope = constant(phi.weight)

    def forward(self, a: Tensor) -> Tensor:
        return torch.where(a > 0, a, self.slope * a) if self.name == "prelu" else _FUNCTIONS[self.name](a)
