"""How far back gradients reach: the norm of dL/dh_t against the lag, beside the bound of the lecture.

L is the loss of one character, after the last step T of a window; h_t the top layer's state, which acts on that loss by
its own recurrence alone. Of an rnn dh_(t+1)/dh_t is W_hh and phi' in one order or the other, so

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
        h: ||dL/dh_t|| for the lags 0, 1, ..., the mean over streams.
        c: the same of an LSTM's cell state; empty for others.
        bound: gamma_W gamma_phi of an rnn; None of cells with gates, to which it does not apply.
    """

    h: list[float]
    c: list[float]
    bound: float | None

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.h))

    @property
    def shares(self) -> list[float]:
        """Of ||dL/dh_T||, by lag."""
        return [norm / (self.h[0] or 1.0) for norm in self.h]

    @property
    def shares_of_c(self) -> list[float]:
        """||dL/dc_t|| as shares of ||dL/dc_T||, by lag."""
        return [norm / (self.c[0] or 1.0) for norm in self.c]

    @property
    def bounds(self) -> list[float]:
        """What the shares cannot exceed; empty where there is no bound."""
        if self.bound is None:
            return []
        with np.errstate(over="ignore"):
            bounds: list[float] = np.power(self.bound, np.arange(len(self.h), dtype=np.float64)).tolist()
        return bounds

    @property
    def within_bound(self) -> bool:
        return all(share <= bound * (1 + _ROUNDING) for share, bound in zip(self.shares, self.bounds, strict=False))

    @property
    def factor(self) -> float:
        """By what a step back multiplies the gradient, the geometric mean over the first half of the lags."""
        last = max(1, len(self.h) // 2)
        return self._carried[last] ** (1 / last)

    def reach(self, share: float) -> int:
        """The last lag at which this share of the gradient arrives."""
        return max((lag for lag, there in enumerate(self._carried) if there >= share), default=0)

    @property
    def _carried(self) -> list[float]:
        """Shares of what is made to carry it: an LSTM's c, others' h."""
        return self.shares_of_c or self.shares


def flow(model: CharLM, ids: Tensor) -> Flow:
    """Reads ids [T + 1, B] from the initial state, in float64 and without dropout: lags 0 to T - 1."""
    model = copy.deepcopy(model).double()
    trace = model.unroll(ids[:-1], model.initial_state(ids.shape[1]))
    loss = nn.functional.cross_entropy(trace.logits[-1], ids[-1], reduction="sum")
    by_kind = zip(*trace.layers[-1].state, strict=True)
    norms = [_norms(loss, steps) for steps in by_kind]
    return Flow(norms[0], norms[1] if len(norms) > 1 else [], bound(model))


def bound(model: CharLM) -> float | None:
    """gamma_W gamma_phi of the top layer; None unless it is an rnn."""
    if model.config.cell != "rnn":
        return None
    layer = model.layers[-1]
    slope = ACTIVATIONS[model.config.activation].slope
    learned = [abs(weight) for parameter in layer.phi.parameters() for weight in parameter.tolist()]  # of prelu
    with torch.no_grad():
        return float(torch.linalg.matrix_norm(layer.weight_hh, 2)) * max(slope, *learned, 0.0)


def _norms(loss: Tensor, steps: tuple[Tensor, ...]) -> list[float]:
    """Of the loss's gradient at each step's tensor [B, H], the last step first; streams do not act on each other."""
    gradients = torch.autograd.grad(loss, steps, retain_graph=True)
    return [gradient.norm(dim=1).mean().item() for gradient in reversed(gradients)]
