"""Steps on a GPU, which is handed the next ones while it works: their losses are read all at once, now and then."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.training.loss_guard import Verdict
from models.training.trainer import StepOutcome, Trainer

__all__ = ["Ahead"]


class _Step(NamedTuple):
    """One that was taken before anybody knew whether it should be."""

    learning_rate: float
    measure: bool
    measured: Tensor


class _Before(NamedTuple):
    """What goes back to where such steps began."""

    step: int
    verdict: Verdict
    tensors: dict[str, Tensor]


class Ahead:
    """Takes a trainer's steps, and ends where `train_step` would have.

    On the processor a step is judged before the next one begins. On a GPU steps are taken unjudged until `settle`, for
    which reading the losses is the only wait. Then the guard judges them in order. If it lets all of them be, nothing
    else happens. If not, the trainer goes back to where they began, as a run that is resumed goes back to a checkpoint,
    and takes them again one by one.

    Args:
        seen: is told of each step, in order, once it is judged.
        unjudged: whether steps may be taken so; by default on a GPU.
    """

    def __init__(
        self, trainer: Trainer, seen: Callable[[StepOutcome], object], *, unjudged: bool | None = None
    ) -> None:
        self._trainer, self._seen = trainer, seen
        self._unjudged = trainer.device.type == "cuda" if unjudged is None else unjudged
        self._steps: list[_Step] = []
        self._before: _Before | None = None

    def step(self, learning_rate: float, *, measure: bool) -> None:
        """Takes one step, as `Trainer.train_step`; raises what that does."""
        if not self._unjudged:
            self._seen(self._trainer.train_step(learning_rate, measure=measure))
            return
        if self._before is None:
            self._before = _before(self._trainer)
        measured = self._trainer.train_step_unguarded(learning_rate, measure=measure)
        self._steps.append(_Step(learning_rate, measure, measured))

    def settle(self) -> None:
        """Waits for the steps that were taken, and judges them. Raises Diverged: as `Trainer.train_step`."""
        steps, before, self._steps, self._before = self._steps, self._before, [], None
        if before is None:
            return
        numbers = iter(torch.cat([step.measured for step in steps]).tolist())
        outcomes = [
            StepOutcome(next(numbers), next(numbers), True, next(numbers) if step.measure else None) for step in steps
        ]
        if self._all_accepted(before, outcomes):
            for outcome in outcomes:
                self._seen(outcome)
            return
        self._trainer.restore(before.step, before.tensors)
        self._trainer.guard.verdict = before.verdict
        for step in steps:
            self._seen(self._trainer.train_step(step.learning_rate, measure=step.measure))

    def _all_accepted(self, before: _Before, outcomes: list[StepOutcome]) -> bool:
        """Judges until one is not."""
        guard = self._trainer.guard
        return all(
            guard.would_accept(loss, norm) and guard.accepts(before.step + number, loss, norm)
            for number, (loss, norm, *_) in enumerate(outcomes, 1)
        )


def _before(trainer: Trainer) -> _Before:
    copies = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    return _Before(trainer.step, trainer.guard.verdict, copies)
