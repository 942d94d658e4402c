"""Update rules: torch's own where it has them in the form that lectures give, ours where it has not."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from models.training.loss import matrices
from models.training.settings import TrainSettings

__all__ = ["Adagrad", "HeavyBall", "make_optimizer", "update"]

_ADAGRAD_EPSILON = 1e-8


class Adagrad(Optimizer):
    """w -= lr g / sqrt(m + 1e-8), m the sum of all g^2 so far (Duchi et al., 2011).

    torch's has sqrt(m) + epsilon, which takes other steps while m is small.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for weights, gradient, kept, rate in _with_gradients(self):
            sum_ = _kept(kept, "sum", weights).addcmul_(gradient, gradient)
            weights.addcdiv_(gradient, (sum_ + _ADAGRAD_EPSILON).sqrt_(), value=-rate)


class HeavyBall(Optimizer):
    """v = mu v - lr g; w += v (Polyak, 1964).

    torch's keeps v without the learning rate: the same while that is constant, but where it changes, steps that were
    taken already change with it.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        momentum = self.param_groups[0]["momentum"]
        for weights, gradient, kept, rate in _with_gradients(self):
            weights.add_(_kept(kept, "velocity", weights).mul_(momentum).sub_(gradient, alpha=rate))


def make_optimizer(settings: TrainSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The update rule that is meant; `update` takes its steps. torch's run as one operator where that is built."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    rate = settings.learning_rate
    made: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(learned, rate, betas=(settings.beta1, settings.beta2), fused=True),
        "rmsprop": lambda: RMSprop(learned, rate, alpha=settings.rmsprop_decay, foreach=True),
        "adagrad": lambda: Adagrad(learned, rate),
        "momentum": lambda: HeavyBall(learned, rate, settings.momentum),
        "sgd": lambda: SGD(learned, rate, fused=True),
    }
    # AdamW is Adam with a decay that does not pass through its means; `update` gives that to every rule.
    return made["adam" if settings.optimizer == "adamw" else settings.optimizer]()


@torch.no_grad()
def update(optimizer: Optimizer, learning_rate: float, weight_decay: float) -> None:
    """One step; before it the matrices shrink by learning rate x decay (Loshchilov and Hutter, 2019)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        if weight_decay:
            for weights in matrices(group["params"]):
                weights.mul_(1 - learning_rate * weight_decay)
    optimizer.step()


def _with_gradients(optimizer: Optimizer) -> Iterable[tuple[Tensor, Tensor, dict[str, Any], float]]:
    for group in optimizer.param_groups:
        for weights in group["params"]:
            if weights.grad is not None:
                yield weights, weights.grad, optimizer.state[weights], group["lr"]


def _kept(kept: dict[str, Any], name: str, weights: Tensor) -> Tensor:
    """A tensor of the optimiser's own, zeros at first."""
    if name not in kept:
        kept[name] = torch.zeros_like(weights)
    tensor: Tensor = kept[name]
    return tensor
