"""The guard that refuses a step whose loss is no number, or far above all before it."""

import math
from typing import NamedTuple

__all__ = ["Diverged", "LossGuard", "LossStatistics", "StepOutcome"]

_DECAY = 0.98  # of the running mean and variance of the loss
_DEVIATIONS = 8  # that a loss may lie above the mean
_CHARACTER = 2.0  # standard deviation of one character's loss, nats, roughly, of a trained model
_MOST_IN_A_ROW = 10
_UNJUDGED = 100  # losses at first, which may well rise before they fall


class Diverged(RuntimeError):
    """Steps were skipped one after another; the weights are still those of before them."""


class LossStatistics(NamedTuple):
    """A guard's counts and running statistics, which a checkpoint keeps."""

    losses: int = 0
    mean: float = 0.0
    variance: float = 0.0
    skipped: int = 0
    in_a_row: int = 0


class StepOutcome(NamedTuple):
    """The figures of a training step.

    Attributes:
        loss: mean loss per character, nats, without penalties.
        gradient_norm: before any clipping.
        taken: whether the guard let it reach the weights.
        update_ratio: |change of the weights| / |weights|, if it was measured.
    """

    loss: float
    gradient_norm: float
    taken: bool
    update_ratio: float | None = None


class LossGuard:
    """Watches the losses of steps.

    A spike is a loss above the running mean by 8 running standard deviations, and by no less than a nat and ten
    standard errors of the mean over a step's characters. A spike counts in mean and variance as if it had just
    reached that bound: so if losses stay high, as where a text changes its language, the bound is above them soon.

    Args:
        chars: characters of a step.
    """

    def __init__(self, chars: int) -> None:
        self.least = 1 + 10 * _CHARACTER / math.sqrt(chars)
        self.statistics = LossStatistics()

    @property
    def spike_bound(self) -> float:
        """The loss above which losses are spikes; infinite at first."""
        if self.statistics.losses < _UNJUDGED:
            return math.inf
        return self.statistics.mean + max(self.least, _DEVIATIONS * math.sqrt(self.statistics.variance))

    def would_accept(self, loss: float, norm: float) -> bool:
        """Tell what `judge` would return, without counting."""
        return math.isfinite(loss) and math.isfinite(norm) and loss <= self.spike_bound

    def judge(self, step: int, loss: float, norm: float) -> bool:
        """Count a step's loss, and tell whether the step is to be taken.

        Args:
            step: its number, for the message.
            loss: its mean loss, nats.
            norm: its gradient's norm.

        Raises:
            Diverged: the tenth step in a row that is not.
        """
        taken = self.would_accept(loss, norm)
        if math.isfinite(loss) and math.isfinite(norm):
            self._count(min(loss, self.spike_bound))
        if taken:
            self.statistics = self.statistics._replace(in_a_row=0)
            return True
        skipped, in_a_row = self.statistics.skipped + 1, self.statistics.in_a_row + 1
        self.statistics = self.statistics._replace(skipped=skipped, in_a_row=in_a_row)
        if in_a_row == _MOST_IN_A_ROW:
            raise Diverged(
                f"step {step}: ten steps in a row were of no use, the last with loss {loss:g}, gradient's norm {norm:g}"
            )
        return False

    def _count(self, loss: float) -> None:
        """Update the mean and the variance: exponentially weighted, plain at first."""
        losses = self.statistics.losses + 1
        share = max(1 - _DECAY, 1 / losses)
        away = loss - self.statistics.mean
        mean = self.statistics.mean + share * away
        variance = (1 - share) * (self.statistics.variance + share * away * away)
        self.statistics = self.statistics._replace(losses=losses, mean=mean, variance=variance)
