"""Rounding of weights to 8 bits: exact on every processor, and with the least error where the inputs lie.

On processors without VNNI the products of two neighbouring inputs are added in 16 bits, so a pair of weights is bounded
(bundle/pair_bound.py). A column's scale is the smallest with which its largest pair keeps the bound. Each weight's
rounding error is then passed on to the weights below it, so that the column's sums stay right for the inputs that
occur: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2023).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bundle.pair_bound import PAIR_BOUND

__all__ = ["LEVELS", "IntegerWeights", "round_weights"]

LEVELS = 127
# This share of the mean square of an input is added to each: what 4,096 samples do not show must not be ruled out.
DAMPING = 0.01
# Errors are passed on row by row within blocks of this size, and then to all rows below in one matmul.
BLOCK = 64


@dataclass(frozen=True)
class IntegerWeights:
    """Weights [K, N] as `integers`, int8 [K, N], times `scale`, float32 [N]."""

    integers: Tensor
    scale: Tensor


@torch.no_grad()
def round_weights(weight: Tensor, moments: Tensor) -> IntegerWeights:
    """Round weights float32 [K, N] for inputs with the second moments float64 [K, K], of any unit."""
    scale = _scale(weight)
    spread = _spread_of_errors(moments)
    rest, levels = (weight / scale).double(), torch.zeros_like(weight, dtype=torch.float64)
    for begin in range(0, len(rest), BLOCK):
        end = min(begin + BLOCK, len(rest))
        errors = torch.zeros_like(rest[begin:end])
        for row in range(begin, end):
            levels[row] = _round(rest[row], levels[row - 1] if row % 2 else None)
            errors[row - begin] = (rest[row] - levels[row]) / spread[row, row]
            rest[row + 1 : end] -= torch.outer(spread[row, row + 1 : end], errors[row - begin])
        rest[end:] -= spread[begin:end, end:].T @ errors
    return IntegerWeights(levels.to(torch.int8), scale)


def _scale(weight: Tensor) -> Tensor:
    """Return the smallest scales [N] with which neither a weight nor a pair is too large."""
    pairs = nn.functional.pad(weight, (0, 0, 0, len(weight) % 2)).unflatten(0, (-1, 2))
    largest = torch.maximum(pairs.clamp(min=0).sum(1), -pairs.clamp(max=0).sum(1)).amax(0)
    scale = torch.maximum(largest / PAIR_BOUND, weight.abs().amax(0) / LEVELS)
    return torch.where(scale > 0, scale, 1.0)  # a column of zeros


def _spread_of_errors(moments: Tensor) -> Tensor:
    """Return the upper triangle U [K, K] by which a row's error is made good in the rows below it."""
    damping = DAMPING * moments.diagonal().mean() + torch.finfo(torch.float32).tiny
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments + damping * torch.eye(len(moments))))
    return torch.linalg.cholesky(inverse, upper=True)


def _round(row: Tensor, partner: Tensor | None) -> Tensor:
    """Round a row [N] to levels that keep the bound beside the levels of the row before it, its partner."""
    levels = torch.round(row).clamp(-LEVELS, LEVELS)
    if partner is None:
        return levels
    return torch.clamp(levels, -PAIR_BOUND - partner.clamp(max=0), PAIR_BOUND - partner.clamp(min=0))
