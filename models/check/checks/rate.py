"""The learning-rate range test: a short training whose learning rate rises from step to step.

Smith, 2017, Cyclical learning rates for training neural networks, section 3.3. The least useful learning rate is where
the loss begins to fall, the largest where it rises again.
"""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import Subject
from models.check.trial import make_trainer, steps_within
from models.reporting.style import COLOURS, figure, legend
from models.terminal import ProgressBar
from models.training.loss_guard import Diverged
from models.training.trainer import Trainer

__all__ = ["RangeTest", "check", "range_test"]

RANGES = {"adagrad": (1e-4, 10.0), "momentum": (1e-5, 10.0), "sgd": (1e-4, 100.0)}
USUAL_RANGE = (1e-5, 1.0)
SECONDS, MOST_STEPS = 15.0, 500
SMOOTHED_OVER = 20  # parts of the range: a smoothed loss is the mean of about one of them
BLOWN_UP = 1.5  # times the lowest smoothed loss: the test ends there
NEAR = 0.1  # share of the whole fall by which the loss of a usable rate may lie above the lowest
BELOW = 20.0  # the suggestion is the largest usable rate, divided by this
LEAST_FALL = 0.05  # nats
TOLERANCE = 10.0  # factor by which a rate may lie below the suggestion


@dataclass(frozen=True)
class RangeTest:
    """Learning rates and the losses in nats of the steps taken with them, [N] each; `planned` is the most steps."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    planned: int

    @property
    def smooth_losses(self) -> NDArray[np.float64]:
        """The exponentially weighted means of the losses, without the bias of their beginning."""
        mean, result = 0.0, []
        kept = max(0.0, 1 - SMOOTHED_OVER / self.planned)
        for count, loss in enumerate(self.losses.tolist(), 1):
            mean = kept * mean + (1 - kept) * loss
            result.append(mean / (1 - kept**count))
        return np.array(result)

    @property
    def largest(self) -> float:
        """The largest rate whose smoothed loss is near the lowest."""
        smoothed = self.smooth_losses
        return float(self.rates[np.flatnonzero(smoothed <= smoothed.min() + NEAR * self.fall)[-1]])

    @property
    def suggestion(self) -> float:
        """A safe rate, a twentieth of the largest, in two digits."""
        return float(f"{self.largest / BELOW:.1e}")

    @property
    def fall(self) -> float:
        """The fall of the smoothed loss in nats."""
        return float(self.smooth_losses[0] - self.smooth_losses.min())


def check(subject: Subject) -> Outcome:
    trainer = make_trainer(subject.fresh(), subject.corpus, subject.settings)
    low, high = RANGES.get(subject.settings.optimizer, USUAL_RANGE)
    steps = min(MOST_STEPS, steps_within(trainer, SECONDS))
    test = range_test(trainer, np.geomspace(low, high, steps))
    if not len(test.losses):
        return Outcome((failure("the first loss is no number: smaller weights by --init are needed"),), {})
    chosen = subject.settings.learning_rate
    figures = {
        "suggestion": test.suggestion,
        "largest": test.largest,
        "chosen": chosen,
        "rates": test.rates.tolist(),
        "losses": test.losses.tolist(),
    }
    return Outcome((_judge(test, chosen),), figures, lambda: _draw(test, chosen, subject.unit))


def range_test(trainer: Trainer, rates: NDArray[np.float64]) -> RangeTest:
    """Train a step with each rate, until the loss has blown up."""
    losses: list[float] = []
    with ProgressBar("range test", " steps", len(rates)) as bar:
        for rate in rates:
            try:
                loss = trainer.train_step(float(rate)).loss
            except Diverged:
                break
            if not math.isfinite(loss):
                break
            losses.append(loss)
            bar.advance(1, f"learning rate {rate:.1e}, loss {loss:.3f}")
            smoothed = RangeTest(rates, np.array(losses), len(rates)).smooth_losses
            if smoothed[-1] > BLOWN_UP * smoothed.min():
                break
    return RangeTest(rates[: len(losses)], np.array(losses), len(rates))


def _judge(test: RangeTest, chosen: float) -> Finding:
    if test.fall < LEAST_FALL:
        return failure(
            f"the loss falls at no learning rate from {test.rates[0]:.2g} to {test.rates[-1]:.2g}: see the other checks"
        )
    text = (
        f"the loss falls up to a learning rate of {test.largest:.2g}; a twentieth of it, {test.suggestion:g}, is safe"
    )
    if chosen > test.largest:
        return warning(f"{text}; {chosen:g} is beyond: try --learning-rate {test.suggestion:g}")
    if chosen < test.suggestion / TOLERANCE:
        return warning(f"{text}; {chosen:g} is far below: try --learning-rate {test.suggestion:g}")
    return ok(f"{text}, and {chosen:g} is within reach of it")


def _draw(test: RangeTest, chosen: float, unit: str) -> Figure:
    drawn, (axes,) = figure(title="Learning-rate range test", size=(7.5, 3.8))
    axes.plot(test.rates, test.losses, color=COLOURS[0], alpha=0.35, linewidth=1, label="loss of each step")
    axes.plot(test.rates, test.smooth_losses, color=COLOURS[0], label="smoothed")
    for rate, colour, style, name in (
        (test.largest, COLOURS[1], ":", "largest that can be used"),
        (test.suggestion, COLOURS[2], "--", "suggested"),
        (chosen, COLOURS[6], "-", "chosen"),
    ):
        axes.axvline(rate, color=colour, linestyle=style, linewidth=1.2, label=f"{name}: {rate:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0.95 * test.losses.min(), 1.03 * min(test.losses.max(), BLOWN_UP * test.losses[0]))
    axes.set_xlabel("learning rate, rising from step to step")
    axes.set_ylabel(f"training loss, nats per {unit}")
    legend(axes)
    return drawn
