"""GPU steps queued without a sync, judged in batches."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.training.loss_guard import LossStatistics, StepOutcome
from models.training.trainer import Trainer

__all__ = ["AsyncSteps"]


class _Step(NamedTuple):
    """A step that was taken before it was judged."""

    learning_rate: float
    measure: bool
    measured: Tensor


class _Snapshot(NamedTuple):
    """The trainer before the first of these steps."""

    step: int
    statistics: LossStatistics
    tensors: dict[str, Tensor]


class AsyncSteps:
    """Takes a trainer's steps, and ends where `Trainer.train_step` would have.

    On the processor a step is judged before the next one begins. On a GPU steps are taken unjudged until `settle`, for
    which reading the losses is the only wait. Then the guard judges them in order. If it lets all of them be, nothing
    else happens. If not, the trainer goes back to where they began, as a run that is resumed goes back to a checkpoint,
    and takes them again one by one.

    Args:
        on_step: is given the outcome of each step, in order, once it is judged.
        unjudged: whether steps may be taken before they are judged; by default on a GPU.
    """

    def __init__(
        self, trainer: Trainer, on_step: Callable[[StepOutcome], object], *, unjudged: bool | None = None
    ) -> None:
        self._trainer, self._on_step = trainer, on_step
        self._unjudged = trainer.device.type == "cuda" if unjudged is None else unjudged
        self._steps: list[_Step] = []
        self._before: _Snapshot | None = None

    def step(self, learning_rate: float, *, measure: bool) -> None:
        """Take one step, as `Trainer.train_step`; raises what that does."""
        if not self._unjudged:
            self._on_step(self._trainer.train_step(learning_rate, measure=measure))
            return
        if self._before is None:
            self._before = _snapshot(self._trainer)
        measured = self._trainer.train_step_unguarded(learning_rate, measure=measure)
        self._steps.append(_Step(learning_rate, measure, measured))

    def settle(self) -> None:
        """Wait for the steps that were taken, and judge them. Raises Diverged: as `Trainer.train_step`."""
        steps, before, self._steps, self._before = self._steps, self._before, [], None
        if before is None:
            return
        numbers = iter(torch.cat([step.measured for step in steps]).tolist())
        outcomes = [
            StepOutcome(next(numbers), next(numbers), True, next(numbers) if step.measure else None) for step in steps
        ]
        if self._all_accepted(before, outcomes):
            for outcome in outcomes:
                self._on_step(outcome)
            return
        self._trainer.restore(before.step, before.tensors)
        self._trainer.guard.statistics = before.statistics
        for step in steps:
            self._on_step(self._trainer.train_step(step.learning_rate, measure=step.measure))

    def _all_accepted(self, before: _Snapshot, outcomes: list[StepOutcome]) -> bool:
        """Judge the steps in order, until one is not accepted."""
        guard = self._trainer.guard
        return all(
            guard.would_accept(loss, norm) and guard.judge(before.step + number, loss, norm)
            for number, (loss, norm, *_) in enumerate(outcomes, 1)
        )


def _snapshot(trainer: Trainer) -> _Snapshot:
    copies = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    return _Snapshot(trainer.step, trainer.guard.statistics, copies)
