"""What training makes small."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from models.training.settings import TrainSettings

__all__ = ["matrices", "mean_nats", "objective", "penalty"]


def mean_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss per character, natural log: logits [T, B, V], targets [T, B]; in float32 at least."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(exact.flatten(0, 1), targets.flatten())


def objective(nats: Tensor, steps: int, model: nn.Module, settings: TrainSettings) -> Tensor:
    """What is differentiated: the loss in its chosen scale, and the penalty.

    Args:
        nats: mean loss per character of a window.
        steps: T of that window.
    """
    scaled = nats * steps if settings.loss == "sum" else nats
    return scaled + penalty(model, settings.l1, settings.l2) if settings.l1 or settings.l2 else scaled


def penalty(model: nn.Module, l1: float, l2: float) -> Tensor:
    """l1 sum |w| + l2/2 sum w^2 over the matrices, a scalar."""
    return torch.stack(
        [l1 * weights.abs().sum() + l2 / 2 * weights.square().sum() for weights in matrices(model.parameters())]
    ).sum()


def matrices(parameters: Iterable[nn.Parameter]) -> Iterator[nn.Parameter]:
    """Those that are regularised: not biases, nor the scales of a normalisation."""
    return (parameter for parameter in parameters if parameter.ndim > 1 and parameter.requires_grad)
