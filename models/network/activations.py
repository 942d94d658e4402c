"""The nonlinearities of an Elman RNN, with their largest slopes. Those with bounded values: `bundle.shape.BOUNDED`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Maxout", "Phi", "RadialBasis"]


class Maxout(nn.Module):
    """The larger of two pieces (Goodfellow et al., 2013): [..., 2 N] -> [..., N], the pieces are its halves."""

    def forward(self, a: Tensor) -> Tensor:
        first, second = a.chunk(2, -1)
        return torch.maximum(first, second)


class RadialBasis(nn.Module):
    """exp(-a^2): a bump around 0."""

    def forward(self, a: Tensor) -> Tensor:
        return torch.exp(-a.square())


@dataclass(frozen=True)
class Phi:
    """One nonlinearity.

    Attributes:
        make: a module that applies it, with parameters of its own if it has any.
        slope: the largest |phi'|, the gamma_phi of the bound on gradients through time (Pascanu et al., 2013); of
            prelu while its learned slope is at most 1.
    """

    make: Callable[[], nn.Module]
    slope: float


ACTIVATIONS: dict[str, Phi] = {
    "tanh": Phi(nn.Tanh, 1.0),
    "sigmoid": Phi(nn.Sigmoid, 1 / 4),
    "relu": Phi(nn.ReLU, 1.0),
    "leaky_relu": Phi(nn.LeakyReLU, 1.0),
    "prelu": Phi(nn.PReLU, 1.0),
    "elu": Phi(nn.ELU, 1.0),
    "softplus": Phi(nn.Softplus, 1.0),
    "hardtanh": Phi(nn.Hardtanh, 1.0),
    "maxout": Phi(Maxout, 1.0),
    "rbf": Phi(RadialBasis, math.sqrt(2 / math.e)),
}
