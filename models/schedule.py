"""How many steps a run has, how often it is checked, and the learning rate of each step."""

import math
from typing import NamedTuple

__all__ = ["CALIBRATION_SHARE", "Plan", "TooShort", "learning_rate", "plan_for_minutes", "plan_for_steps"]

CHECKS = 20  # at most, of the validation loss, in a run
CHECK_SHARE = 0.06  # of the time, at most
CALIBRATION_SHARE = 0.06  # of the time: the steps that are measured
SLACK = 0.97  # share of the time that is planned for


class Plan(NamedTuple):
    """Fixed once in a run: `budget` steps, validation after every `check_every`."""

    budget: int
    check_every: int


class TooShort(ValueError):
    """The time that was given does not suffice for the text and the model; the message is one line."""


def learning_rate(step: int, peak: float, warmup: int, budget: int | None) -> float:
    """Linear warm-up, then half a cosine down to zero at the budget; the peak while the budget is not known.

    Args:
        step: from 0.
        warmup: in steps; no more than a fifth of the budget.
    """
    if budget is None:
        return peak * min(1.0, (step + 1) / max(1, warmup))
    rise = min(1.0, (step + 1) / max(1, min(warmup, budget // 5)))
    return peak * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / budget)))


def plan_for_steps(steps: int) -> Plan:
    return Plan(steps, max(1, math.ceil(steps / CHECKS)))


def plan_for_minutes(
    minutes: float, *, spent: float, steps_done: int, step_seconds: float, check_seconds: float, final_seconds: float
) -> Plan:
    """Turns time into steps.

    Args:
        minutes: the whole run's.
        spent: seconds since it began.
        step_seconds: one optimiser step, as measured.
        check_seconds: one validation on a sample.
        final_seconds: what comes after the last step.

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
    checks = max(1, min(CHECKS, int(left * CHECK_SHARE / check_seconds)))
    steps = steps_done + max(1, int((left - checks * check_seconds) / step_seconds))
    return Plan(steps, max(1, math.ceil(steps / checks)))
