"""Update rules and the running mean of the weights, with their tensors in a checkpoint.

The rules are torch's own where it has them in the form that lectures give, ours where it has not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from models.training.loss import matrices
from models.training.settings import TrainSettings

__all__ = [
    "MODEL",
    "Adagrad",
    "HeavyBall",
    "WeightAverage",
    "make_optimizer",
    "optimizer_tensors",
    "restore_optimizer",
    "tensors_under",
    "update",
]

MODEL = "model."  # begins the names of a model's tensors in a checkpoint
_ADAGRAD_EPSILON = 1e-8
_STEPS = "steps"  # of a WeightAverage, among its tensors


class Adagrad(Optimizer):
    """w -= lr g / sqrt(m + 1e-8), m the sum of all g^2 so far (Duchi et al., 2011).

    torch's has sqrt(m) + epsilon, which takes other steps while m is small.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for weights, gradient, own, rate in _with_gradients(self):
            sum_ = _own_tensor(own, "sum", weights).addcmul_(gradient, gradient)
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
        for weights, gradient, own, rate in _with_gradients(self):
            weights.add_(_own_tensor(own, "velocity", weights).mul_(momentum).sub_(gradient, alpha=rate))


def make_optimizer(settings: TrainSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Make the optimiser of the settings; `update` takes its steps. torch's run as one operator where that is built."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    rate = settings.learning_rate
    rules: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(learned, rate, betas=(settings.beta1, settings.beta2), fused=True),
        "rmsprop": lambda: RMSprop(learned, rate, alpha=settings.rmsprop_decay, foreach=True),
        "adagrad": lambda: Adagrad(learned, rate),
        "momentum": lambda: HeavyBall(learned, rate, settings.momentum),
        "sgd": lambda: SGD(learned, rate, fused=True),
    }
    # AdamW is Adam with a decay that does not pass through its means; `update` gives that to every rule.
    return rules["adam" if settings.optimizer == "adamw" else settings.optimizer]()


@torch.no_grad()
def update(optimizer: Optimizer, learning_rate: float, weight_decay: float) -> None:
    """Take one step; before it the matrices shrink by learning rate x decay (Loshchilov and Hutter, 2019)."""
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


def _own_tensor(own: dict[str, Any], name: str, weights: Tensor) -> Tensor:
    """Return a tensor of the optimiser's own, zeros at first."""
    if name not in own:
        own[name] = torch.zeros_like(weights)
    tensor: Tensor = own[name]
    return tensor


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the optimiser's tensors, each named by its weights and its kind."""
    for name, weights in model.named_parameters():
        for kind, tensor in optimizer.state.get(weights, {}).items():
            yield f"{name}.{kind}", tensor


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser back what `optimizer_tensors` yielded. Raises KeyError: other weights."""
    learned = [name for name, weights in model.named_parameters() if weights.requires_grad]
    numbers = {name: number for number, name in enumerate(learned)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, kind = key.rsplit(".", 1)
        state.setdefault(numbers[name], {})[kind] = tensor
    # It brings them to the device of their weights.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def tensors_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class WeightAverage:
    """The running mean of a model's weights: a = d a + (1 - d) w, d = min(decay, (1 + n) / (10 + n)) after n updates.

    So the mean begins as one of the last few weights, and the first ones, which were random, are soon forgotten.
    torch's own AveragedModel waits for the GPU in every update, which `AsyncSteps` is there to avoid.

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
    def apply(self) -> Iterator[None]:
        """Give the model the mean weights for as long as the context lasts; its other tensors stay."""
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
        """Return the tensors from which `restore` goes on."""
        return {**self._mean, _STEPS: torch.tensor(self.steps)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.steps = int(tensors[_STEPS])
        for name, mean in self._mean.items():
            mean.copy_(tensors[name])
