"""The loss that training minimises, with its penalties."""

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["distillation_nats", "matrices", "mean_nats", "penalty", "training_loss"]


def mean_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss per character, natural log: logits [T, B, V], targets [T, B]; in float32 at least."""
    exact = _in_float32(logits)
    return nn.functional.cross_entropy(exact.flatten(0, 1), targets.flatten())


def distillation_nats(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the mean cross-entropy against the teachers' probabilities [T, B, V], in nats; logits [T, B, V].

    Hinton, Vinyals and Dean, 2015, at temperature 1: but for the teachers' own entropy it is the divergence from them.
    """
    exact = _in_float32(logits)
    return nn.functional.cross_entropy(exact.flatten(0, 1), probabilities.to(exact.dtype).flatten(0, 1))


def _in_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def training_loss(
    nats: Tensor, steps: int, model: nn.Module, kind: Literal["mean", "sum"], l1: float = 0.0, l2: float = 0.0
) -> Tensor:
    """Return the scalar to differentiate: the loss of a window in its chosen scale, and the penalty.

    Args:
        nats: mean loss per character of the window.
        steps: T of the window.
        kind: mean over the characters, or sum over time.
    """
    scaled = nats * steps if kind == "sum" else nats
    return scaled + penalty(model, l1, l2) if l1 or l2 else scaled


def penalty(model: nn.Module, l1: float, l2: float) -> Tensor:
    """Return l1 sum |w| + l2/2 sum w^2 over the matrices, a scalar."""
    return torch.stack(
        [l1 * weights.abs().sum() + l2 / 2 * weights.square().sum() for weights in matrices(model.parameters())]
    ).sum()


def matrices(parameters: Iterable[nn.Parameter]) -> Iterator[nn.Parameter]:
    """Yield the parameters to regularise: no biases, nor the scales of a normalisation."""
    return (parameter for parameter in parameters if parameter.ndim > 1 and parameter.requires_grad)
