"""The nonlinearities of an Elman RNN, and what is known of them without a measurement."""

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
        bounded: whether its values lie between -1 and 1 whatever it is given.
        slope: the largest |phi'|, the gamma_phi of the bound on gradients through time (Pascanu et al., 2013); of
            prelu while its learned slope is at most 1.
    """

    make: Callable[[], nn.Module]
    bounded: bool
    slope: float


ACTIVATIONS: dict[str, Phi] = {
    "tanh": Phi(nn.Tanh, True, 1.0),
    "sigmoid": Phi(nn.Sigmoid, True, 1 / 4),
    "relu": Phi(nn.ReLU, False, 1.0),
    "leaky_relu": Phi(nn.LeakyReLU, False, 1.0),
    "prelu": Phi(nn.PReLU, False, 1.0),
    "elu": Phi(nn.ELU, False, 1.0),
    "softplus": Phi(nn.Softplus, False, 1.0),
    "hardtanh": Phi(nn.Hardtanh, True, 1.0),
    "maxout": Phi(Maxout, False, 1.0),
    "rbf": Phi(RadialBasis, True, math.sqrt(2 / math.e)),
}
