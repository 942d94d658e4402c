"""How one step's logits become a character, in torch: B rows, V characters."""

import torch
from torch import Tensor, nn

from models.network.generate import LARGEST_UNIFORM

__all__ = ["Sampler", "limit", "prepare"]

# What temperature 0 divides by: a power of two keeps the order of the logits, and equals stay equal.
COLDEST = 2.0**-100
# Up to so many characters a matmul with a triangle of ones adds up faster than CumSum does.
TRIANGLE_CHARS = 512


def prepare(temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """temperature [B] and uniform [K, B] of the contract -> divisors [B, 1] and numbers [K, B] for `Sampler`.

    Greedy needs no branch: divided by the coldest temperature all weight lies on the most probable characters, and the
    number 0 takes the first of them.
    """
    numbers = torch.where(temperature > 0, uniform.clamp(max=LARGEST_UNIFORM), 0.0)
    return temperature.clamp(min=COLDEST).unsqueeze(1), numbers


class Sampler(nn.Module):
    """Weights of the characters, and the inverse of their cumulated sums."""

    triangle: Tensor | None

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.triangle = None
        if vocab <= TRIANGLE_CHARS:
            self.triangle = nn.Parameter(torch.ones(vocab, vocab).triu(), requires_grad=False)

    @staticmethod
    def weights(logits: Tensor, divisor: Tensor) -> Tensor:
        """Probabilities up to a factor, [B, V]: the most probable has weight 1, so nothing overflows."""
        return torch.exp((logits - logits.amax(1, keepdim=True)) / divisor)

    def cumulated(self, weights: Tensor) -> Tensor:
        return weights.cumsum(1) if self.triangle is None else weights @ self.triangle

    def draw(self, weights: Tensor, uniform: Tensor) -> Tensor:
        """The first character [B] whose cumulated weight exceeds uniform [B] x the total."""
        cdf = self.cumulated(weights)
        return (cdf <= uniform.unsqueeze(1) * cdf[:, -1:]).sum(1)

    def limited(self, weights: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        """The weights [B, V], 0 for characters outside the limits, each limit [B, 1]; ties at an edge all stay."""
        ordered = weights.topk(weights.shape[1], dim=1).values
        kth = ordered.gather(1, top_k - 1)
        cdf = self.cumulated(torch.where(ordered >= kth, ordered, 0.0))
        # The character that reaches top_p is the last one that is needed.
        needed = (cdf < top_p * cdf[:, -1:]).sum(1, keepdim=True).clamp(max=weights.shape[1] - 1)
        edge = torch.maximum(torch.maximum(kth, ordered.gather(1, needed)), min_p * ordered[:, :1])
        return torch.where(weights >= edge, weights, 0.0)


def limit(top_k: Tensor, top_p: Tensor, min_p: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Limits [B] of the contract -> [B, 1] for `Sampler.limited`: a top_p of 1 must not lose what rounding hides."""
    every = torch.where(top_p < 1, top_p, torch.inf)
    return top_k.clamp(1, vocab).unsqueeze(1), every.unsqueeze(1), min_p.unsqueeze(1)
