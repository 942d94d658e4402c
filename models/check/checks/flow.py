"""The norm of dL/dh_t by lag, which shows how far back gradients reach, and its bound.

L is the loss of one character, after the last step T of a window; h_t is the top layer's state, which acts on that loss
through its own recurrence only. In an rnn dh_(t+1)/dh_t is the product of W_hh and phi', in either order, so

    ||dL/dh_t|| <= ||dL/dh_T|| (gamma_W gamma_phi)^(T - t)

with gamma_W the largest singular value of W_hh and gamma_phi the largest slope of phi (Pascanu, Mikolov and Bengio,
2013, On the difficulty of training recurrent neural networks, section 2.1).
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.network.activations import ACTIVATIONS
from models.network.char_lm import CharLM

__all__ = ["Flow", "flow"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Flow:
    """Gradients of one model by lag.

    Attributes:
        h: ||dL/dh_t|| at the lags 0, 1, ..., the mean over streams.
        c: the same for an LSTM's cell state; empty for other cells.
        factor_bound: gamma_W gamma_phi of an rnn; None for cells with gates and for a normalised recurrence, to which
            the bound does not apply.
    """

    h: list[float]
    c: list[float]
    factor_bound: float | None

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, self.h))

    @property
    def shares(self) -> list[float]:
        """||dL/dh_t|| as shares of ||dL/dh_T||, by lag."""
        return [norm / (self.h[0] or 1.0) for norm in self.h]

    @property
    def shares_of_c(self) -> list[float]:
        """||dL/dc_t|| as shares of ||dL/dc_T||, by lag."""
        return [norm / (self.c[0] or 1.0) for norm in self.c]

    @property
    def bounds(self) -> list[float]:
        """The largest possible shares, by lag; empty if there is no bound."""
        if self.factor_bound is None:
            return []
        with np.errstate(over="ignore"):
            bounds: list[float] = np.power(self.factor_bound, np.arange(len(self.h), dtype=np.float64)).tolist()
        return bounds

    @property
    def is_within_bound(self) -> bool:
        return all(share <= bound * (1 + _ROUNDING) for share, bound in zip(self.shares, self.bounds, strict=False))

    @property
    def factor(self) -> float:
        """The factor by which a step back changes the gradient: the geometric mean over the first half of the lags."""
        last = max(1, len(self.h) // 2)
        return self._memory[last] ** (1 / last)

    def reach(self, share: float) -> int:
        """Return the last lag at which this share of the gradient arrives."""
        return max((lag for lag, there in enumerate(self._memory) if there >= share), default=0)

    @property
    def _memory(self) -> list[float]:
        """Shares of the state that carries gradients furthest: c of an LSTM, h of other cells."""
        return self.shares_of_c or self.shares


def flow(model: CharLM, ids: Tensor) -> Flow:
    """Measure the gradients for ids [T + 1, B] from the initial state, in float64 without dropout: lags 0 to T - 1."""
    model = copy.deepcopy(model).double()
    trace = model.unroll(ids[:-1], model.initial_state(ids.shape[1]))
    loss = nn.functional.cross_entropy(trace.logits[-1], ids[-1], reduction="sum")
    by_kind = zip(*trace.layers[-1].state, strict=True)
    norms = [_norms(loss, steps) for steps in by_kind]
    return Flow(norms[0], norms[1] if len(norms) > 1 else [], _factor_bound(model))


def _factor_bound(model: CharLM) -> float | None:
    """Return gamma_W gamma_phi of the top layer; None unless it is an rnn whose recurrence is not normalised."""
    if model.config.cell != "rnn" or model.config.recurrent_norm != "none":
        return None
    layer = model.layers[-1]
    slope = ACTIVATIONS[model.config.activation].slope
    learned = [abs(weight) for parameter in layer.phi.parameters() for weight in parameter.tolist()]  # of prelu
    with torch.no_grad():
        return float(torch.linalg.matrix_norm(layer.weight_hh, 2)) * max(slope, *learned, 0.0)


def _norms(loss: Tensor, steps: tuple[Tensor, ...]) -> list[float]:
    """Return the mean norm of the loss's gradient by each step's tensor [B, H], the last step first."""
    gradients = torch.autograd.grad(loss, steps, retain_graph=True)
    return [gradient.norm(dim=1).mean().item() for gradient in reversed(gradients)]
