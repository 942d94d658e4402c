"""Sampling of a character from one step's logits, in torch: B rows, V characters."""

import torch
from torch import Tensor, nn

from models.network.generate import LARGEST_UNIFORM

__all__ = ["Sampler", "prepare_draws", "prepare_limits"]

# The divisor for temperature 0: a power of two keeps the order of the logits, and equal ones stay equal.
COLDEST = 2.0**-100
# Up to this vocabulary size, a matmul with a triangle of ones is faster than CumSum.
TRIANGLE_CHARS = 512


def prepare_draws(temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Turn temperature [B] and uniform [K, B] of the contract into divisors [B, 1] and numbers [K, B] for `Sampler`.

    Greedy rows need no branch: divided by the coldest temperature, all weight lies on the most probable characters, and
    the number 0 takes the first of them.
    """
    numbers = torch.where(temperature > 0, uniform.clamp(max=LARGEST_UNIFORM), 0.0)
    return temperature.clamp(min=COLDEST).unsqueeze(1), numbers


class Sampler(nn.Module):
    """Weights of the characters, and the inverse of their cumulative sums.

    Args:
        for_device: take the fewest operators, and no matmul: with --tf32 it would round what it adds up.
    """

    triangle: Tensor | None

    def __init__(self, vocab: int, *, for_device: bool = False) -> None:
        super().__init__()
        self.for_device, self.triangle = for_device, None
        if vocab <= TRIANGLE_CHARS and not for_device:
            self.triangle = nn.Parameter(torch.ones(vocab, vocab).triu(), requires_grad=False)

    def weights(self, logits: Tensor, divisor: Tensor) -> Tensor:
        """Return probabilities up to a factor, [B, V], none above 1: so nothing overflows."""
        if self.for_device:
            return torch.softmax(logits / divisor, 1)
        return torch.exp((logits - logits.amax(1, keepdim=True)) / divisor)

    def cumulative_sums(self, weights: Tensor) -> Tensor:
        return weights.cumsum(1) if self.triangle is None else weights @ self.triangle

    def draw(self, weights: Tensor, uniform: Tensor) -> Tensor:
        """Return the first character [B] whose cumulative weight exceeds uniform [B] x the total."""
        cdf = self.cumulative_sums(weights)
        return (cdf <= uniform.unsqueeze(1) * cdf[:, -1:]).sum(1)

    def apply_limits(self, weights: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        """Set the weights [B, V] of characters outside the limits, each [B, 1], to 0; all ties at an edge stay."""
        ordered = weights.topk(weights.shape[1], dim=1).values
        kth = ordered.gather(1, top_k - 1)
        cdf = self.cumulative_sums(torch.where(ordered >= kth, ordered, 0.0))
        # The character whose weight reaches top_p is the last one needed.
        needed = (cdf < top_p * cdf[:, -1:]).sum(1, keepdim=True).clamp(max=weights.shape[1] - 1)
        edge = torch.maximum(torch.maximum(kth, ordered.gather(1, needed)), min_p * ordered[:, :1])
        return torch.where(weights >= edge, weights, 0.0)


def prepare_limits(top_k: Tensor, top_p: Tensor, min_p: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Turn limits [B] of the contract into [B, 1] for `Sampler.apply_limits`."""
    share = torch.where(top_p < 1, top_p, torch.inf)  # with 1, rounding of the sums could lose rare characters
    return top_k.clamp(1, vocab).unsqueeze(1), share.unsqueeze(1), min_p.unsqueeze(1)
