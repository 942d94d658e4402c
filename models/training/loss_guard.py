"""Which steps are not taken: a loss that is no number, or far from all before it, must not reach the weights."""

import math
from typing import NamedTuple

__all__ = ["Diverged", "Guard", "Verdict"]

_DECAY = 0.98  # of the running mean and variance of the loss
_DEVIATIONS = 8  # that a loss may lie above the mean
_CHARACTER = 2.0  # standard deviation of one character's loss, nats, roughly, of a trained model
_MOST_IN_A_ROW = 10
_UNJUDGED = 100  # losses at first, which may well rise before they fall


class Diverged(RuntimeError):
    """Steps were skipped one after another; the weights are still those of before them."""


class Verdict(NamedTuple):
    """Counted so far: what a checkpoint keeps of a guard."""

    losses: int = 0
    mean: float = 0.0
    variance: float = 0.0
    skipped: int = 0
    in_a_row: int = 0


class Guard:
    """Watches the losses of steps.

    A spike is a loss above the running mean by 8 running standard deviations, and by no less than a nat and ten
    standard errors of the mean over a step's characters. A spike counts in mean and variance as if it had just
    reached that bound: so if losses stay high, as where a text changes its language, the bound is above them soon.

    Args:
        chars: characters of a step.
    """

    def __init__(self, chars: int) -> None:
        self.least = 1 + 10 * _CHARACTER / math.sqrt(chars)
        self.verdict = Verdict()

    @property
    def bound(self) -> float:
        """Losses above it are spikes; there is none at first."""
        if self.verdict.losses < _UNJUDGED:
            return math.inf
        return self.verdict.mean + max(self.least, _DEVIATIONS * math.sqrt(self.verdict.variance))

    def would_accept(self, loss: float, norm: float) -> bool:
        """What `accepts` would say, without counting."""
        return math.isfinite(loss) and math.isfinite(norm) and loss <= self.bound

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether a step is to be taken.

        Args:
            step: its number, for the message.
            loss: its mean loss, nats.
            norm: its gradient's norm.

        Raises:
            Diverged: the tenth step in a row that is not.
        """
        taken = self.would_accept(loss, norm)
        if math.isfinite(loss) and math.isfinite(norm):
            self._count(min(loss, self.bound))
        if taken:
            self.verdict = self.verdict._replace(in_a_row=0)
            return True
        skipped, in_a_row = self.verdict.skipped + 1, self.verdict.in_a_row + 1
        self.verdict = self.verdict._replace(skipped=skipped, in_a_row=in_a_row)
        if in_a_row == _MOST_IN_A_ROW:
            raise Diverged(
                f"step {step}: ten steps in a row were of no use, the last with loss {loss:g}, gradient's norm {norm:g}"
            )
        return False

    def _count(self, loss: float) -> None:
        """Exponentially weighted, and the plain mean and variance at first."""
        losses = self.verdict.losses + 1
        share = max(1 - _DECAY, 1 / losses)
        away = loss - self.verdict.mean
        mean = self.verdict.mean + share * away
        variance = (1 - share) * (self.verdict.variance + share * away * away)
        self.verdict = self.verdict._replace(losses=losses, mean=mean, variance=variance)
