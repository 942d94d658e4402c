"""The running mean of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]

_STEPS = "steps"


class Average:
    """a = d a + (1 - d) w after each step, d = min(decay, (1 + n) / (10 + n)) after n of them.

    So the mean begins as one of the last few weights, and the first ones, which were random, are soon forgotten.

    Args:
        decay: of the mean in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self.steps = model, decay, 0
        self._mean = {name: weights.detach().clone() for name, weights in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, weights in self._model.named_parameters():
            self._mean[name].lerp_(weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the mean weights within; its other tensors stay."""
        own = {name: weights.detach().clone() for name, weights in self._model.named_parameters()}
        self._fill(self._mean)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        # Copied, not exchanged: cuDNN wants the weights of a layer where they were.
        for name, parameter in self._model.named_parameters():
            parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """For `restore`."""
        return {**self._mean, _STEPS: torch.tensor(self.steps)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.steps = int(tensors[_STEPS])
        for name, mean in self._mean.items():
            mean.copy_(tensors[name])
