"""The checks by name, in the order in which they are made: the cheap ones first, those that build on others last."""

from collections.abc import Callable
from typing import NamedTuple

from models.check.checks import activations, differences, gap, initial_loss, overfit, rate, reach, updates
from models.check.outcome import Outcome
from models.check.subject import Subject

__all__ = ["CHECKS", "Check"]


class Check(NamedTuple):
    """One of them: what it is, and what makes it."""

    title: str
    make: Callable[[Subject], Outcome]


CHECKS: dict[str, Check] = {
    "loss": Check("Loss before training", initial_loss.check),
    "activations": Check("Sums before the nonlinearities", activations.check),
    "gradients": Check("Gradients against central differences", differences.check),
    "overfit": Check("Twenty lines learnt by heart", overfit.check),
    "rate": Check("Learning-rate range test", rate.check),
    "updates": Check("Updates relative to weights", updates.check),
    "gap": Check("Training and validation loss", gap.check),
    "reach": Check("How far back gradients reach", reach.check),
}
