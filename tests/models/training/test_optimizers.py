"""Each update rule is the one that textbooks give, and all of them decay and average the same way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.training.loss import penalty
from models.training.optimizers import WeightAverage, make_optimizer, update
from models.training.settings import TrainSettings

RATES = (0.1, 0.05, 0.2)


def _walked(optimizer: str, **settings: Any) -> tuple[Tensor, list[Tensor]]:
    """The weights after a step at each of `RATES`, each with a gradient of its own; and the gradients."""
    torch.manual_seed(0)
    weights = nn.Parameter(torch.ones(2, 3))
    given = TrainSettings(out=Path("run"), optimizer=optimizer, **settings)
    made, gradients = make_optimizer(given, [weights]), [torch.randn(2, 3) for _ in RATES]
    for rate, gradient in zip(RATES, gradients, strict=True):
        weights.grad = gradient.clone()
        update(made, rate, given.matrix_decay)
    return weights.detach(), gradients


def test_sgd() -> None:
    weights, gradients = _walked("sgd")
    expected = 1 - sum(rate * gradient for rate, gradient in zip(RATES, gradients, strict=True))
    torch.testing.assert_close(weights, expected)


def test_momentum_is_the_heavy_ball() -> None:
    weights, gradients = _walked("momentum", momentum=0.8)
    expected, velocity = torch.ones(2, 3), torch.zeros(2, 3)
    for rate, gradient in zip(RATES, gradients, strict=True):
        velocity = 0.8 * velocity - rate * gradient
        expected = expected + velocity
    torch.testing.assert_close(weights, expected)


def test_adagrad_has_its_epsilon_inside_the_root() -> None:
    weights, gradients = _walked("adagrad")
    expected, memory = torch.ones(2, 3), torch.zeros(2, 3)
    for rate, gradient in zip(RATES, gradients, strict=True):
        memory = memory + gradient**2
        expected = expected - rate * gradient / torch.sqrt(memory + 1e-8)
    torch.testing.assert_close(weights, expected)


def test_rmsprop() -> None:
    weights, gradients = _walked("rmsprop", rmsprop_decay=0.9)
    expected, mean = torch.ones(2, 3), torch.zeros(2, 3)
    for rate, gradient in zip(RATES, gradients, strict=True):
        mean = 0.9 * mean + 0.1 * gradient**2
        expected = expected - rate * gradient / (mean.sqrt() + 1e-8)
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 0.0), ("adamw", 0.01)])
def test_adam(optimizer: str, decay: float) -> None:
    weights, gradients = _walked(optimizer, beta1=0.8, beta2=0.9)
    expected, mean, square = torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)
    for step, (rate, gradient) in enumerate(zip(RATES, gradients, strict=True), 1):
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        direction = mean / (1 - 0.8**step) / ((square / (1 - 0.9**step)).sqrt() + 1e-8)
        expected = expected * (1 - rate * decay) - rate * direction
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw"])
def test_decay_shrinks_matrices_only_and_past_the_rule(optimizer: str) -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    settings = TrainSettings(out=Path("run"), optimizer=optimizer, weight_decay=0.5)
    made = make_optimizer(settings, [matrix, bias])
    matrix.grad, bias.grad = torch.zeros(2, 3), torch.zeros(3)
    update(made, 0.1, settings.matrix_decay)
    torch.testing.assert_close(matrix.detach(), torch.full((2, 3), 0.95))
    assert (bias == 1).all()


def test_penalties_are_of_the_matrices() -> None:
    layer = nn.Linear(2, 3)
    nn.init.constant_(layer.weight, -2.0)
    assert penalty(layer, l1=0.1, l2=0.01).item() == pytest.approx(0.1 * 12 + 0.01 / 2 * 24)


def test_the_average_follows_the_weights_and_steps_aside() -> None:
    layer = nn.Linear(2, 3)
    average = WeightAverage(layer, decay=0.9)
    for value in range(300):
        nn.init.constant_(layer.weight, float(value))
        average.update()
    with average.apply():
        mean = layer.weight.detach().clone()
    # An exponential mean of a straight line lags by d / (1 - d) steps.
    torch.testing.assert_close(mean, torch.full((3, 2), 299.0 - 9))
    assert (layer.weight == 299).all()
