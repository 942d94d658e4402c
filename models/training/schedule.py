"""The number of steps of a run, its validations, and the learning rate of each step."""

import math
from typing import NamedTuple

from models.training.settings import Schedule, TrainSettings

__all__ = [
    "CALIBRATION_SHARE",
    "Plan",
    "RateSchedule",
    "TooShort",
    "plan_for_minutes",
    "plan_for_steps",
    "require_time",
]

CHECKS = 20  # at most, of the validation loss, in a run
CHECK_SHARE = 0.06  # of the time, at most
CALIBRATION_SHARE = 0.06  # of the time: the steps that are measured
SLACK = 0.97  # share of the time that is planned for
_FEWEST_STEPS = 16  # those that measure the arithmetic, and a few to train
_WARMUP_SHARE = 5  # the warm-up takes no more than one step in five


class Plan(NamedTuple):
    """Fixed once in a run: `budget` steps, validation after every `check_every`."""

    budget: int
    check_every: int


class TooShort(ValueError):
    """The time that was given does not suffice for the text and the model; the message is one line."""


class RateSchedule(NamedTuple):
    """The learning rate over a run: a linear warm-up to the peak, then what the schedule says.

    `cosine` falls by half a cosine to zero, `exponential` steadily to `decay` times the peak, `step` there in
    `decay_steps` equal falls, `constant` stays.
    """

    schedule: Schedule
    peak: float
    warmup: int = 0
    decay: float = 0.1
    decay_steps: int = 5

    @classmethod
    def of(cls, settings: TrainSettings) -> "RateSchedule":
        return cls(settings.schedule, settings.learning_rate, settings.warmup, settings.decay, settings.decay_steps)

    def rate(self, step: int, budget: int | None) -> float:
        """Return the learning rate of a step, from 0; while the budget is not known, as if the run had no end."""
        warmup = self.warmup if budget is None else min(self.warmup, budget // _WARMUP_SHARE)
        rise = min(1.0, (step + 1) / max(1, warmup))
        return self.peak * rise * (1.0 if budget is None else self._share_left(min(1.0, step / budget)))

    def _share_left(self, done: float) -> float:
        """Return the share of the peak that is left after a share of the run."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "exponential":
            return self.decay**done
        if self.schedule == "step":
            falls = min(self.decay_steps, int(done * (self.decay_steps + 1)))
            return self.decay ** (falls / self.decay_steps)
        return 1.0


def require_time(minutes: float, *, spent: float, step_seconds: float, validation_steps: float) -> None:
    """Refuse at once what cannot be trained in the time.

    Args:
        spent: seconds since the run began, and what cannot be foreseen.
        step_seconds: one optimiser step, as measured.
        validation_steps: all validation, in steps that take as long.

    Raises:
        TooShort: the time does not suffice to measure the arithmetic, to train a few steps and to validate.
    """
    needed = spent + (_FEWEST_STEPS + validation_steps) * step_seconds
    if needed > minutes * 60 * SLACK:
        enough = math.ceil(needed / 60 * 2 * 10) / 10
        raise TooShort(
            f"--minutes {minutes:g} is too short for this model and text: a step takes {step_seconds:.1f} s here, and "
            f"beginning, a few steps and validating would take {needed:.0f} s; --minutes {enough:g} would do, or a "
            "smaller model, such as --preset tiny"
        )


def plan_for_steps(steps: int) -> Plan:
    """Return the plan of a run with a given number of steps."""
    return Plan(steps, max(1, math.ceil(steps / CHECKS)))


def plan_for_minutes(
    minutes: float,
    *,
    spent: float,
    steps_done: int,
    step_seconds: float,
    check_seconds: float,
    final_seconds: float,
    most_steps: int | None = None,
) -> Plan:
    """Turn time into steps.

    Args:
        minutes: the whole run's.
        spent: seconds since it began.
        step_seconds: one optimiser step, as measured.
        check_seconds: one validation on a sample.
        final_seconds: what comes after the last step.
        most_steps: what else bounds the run.

    Raises:
        TooShort: the time does not suffice for what comes after the last step.
    """
    left = minutes * 60 * SLACK - spent - final_seconds
    if left <= 0:
        enough = math.ceil((spent + final_seconds) / 60 * 2 * 10) / 10
        raise TooShort(
            f"--minutes {minutes:g} is too short: beginning took {spent:.0f} s and validating this model on all of the "
            f"held-out text may take {final_seconds:.0f} s; --minutes {enough:g} would do"
        )
    checks = max(1, min(CHECKS, int(left * CHECK_SHARE / check_seconds))) if check_seconds else CHECKS
    steps = steps_done + max(1, int((left - checks * check_seconds) / step_seconds))
    steps = max(steps_done, min(steps, most_steps or steps))
    return Plan(steps, max(1, math.ceil(steps / checks)))
