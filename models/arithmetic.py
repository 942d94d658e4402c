"""How this machine trains a model fastest: a matter of the processor's instructions, and of the model's size."""

import copy
import math
import time
from collections.abc import Callable

import torch

from models.trainer import Arithmetic, Trainer

__all__ = ["NoBfloat16", "fastest"]

_LEAST_STEPS, _LEAST_SECONDS = 2, 0.3  # of a measurement
_WORTH_IT = 0.85  # share of the plainer way's time


class NoBfloat16(ValueError):
    """bfloat16 is asked for where torch cannot train the model in it; one line."""


def fastest(trainer: Trainer, amp: str) -> Arithmetic:
    """Times real steps on a copy; the trainer and the random numbers stay as they were.

    One thread unless all of them are clearly faster: it stays as fast when the other cores get other work.

    Args:
        amp: "bf16", "off", or "auto" to take bfloat16 where it is clearly faster than float32.

    Raises:
        NoBfloat16: bfloat16 is asked for, and torch does not have it here.
    """
    seconds = _measured(trainer)
    bf16 = amp == "bf16"
    if bf16 and seconds(Arithmetic(True, 1)) == math.inf:
        raise NoBfloat16("--amp bf16: torch cannot train this model in bfloat16 on this processor; use --amp off")
    if amp == "auto":
        bf16 = seconds(Arithmetic(True, 1)) < _WORTH_IT * seconds(Arithmetic(False, 1))
    one, many = Arithmetic(bf16, 1), Arithmetic(bf16, torch.get_num_threads())
    return many if many != one and seconds(many) < _WORTH_IT * seconds(one) else one


def _measured(trainer: Trainer) -> Callable[[Arithmetic], float]:
    """Seconds of a step, each arithmetic timed once."""
    known: dict[Arithmetic, float] = {}

    def seconds(arithmetic: Arithmetic) -> float:
        if arithmetic not in known:
            with torch.random.fork_rng(devices=[]):
                known[arithmetic] = _seconds_if_any(copy.deepcopy(trainer), arithmetic)
        return known[arithmetic]

    return seconds


def _seconds_if_any(trainer: Trainer, arithmetic: Arithmetic) -> float:
    """Infinity where torch has no bfloat16 for this model: for an LSTM, on processors without AVX-512."""
    try:
        return _step_seconds(trainer, arithmetic)
    except RuntimeError:
        if not arithmetic.bf16:
            raise
        return math.inf


def _step_seconds(trainer: Trainer, arithmetic: Arithmetic) -> float:
    """The fastest of some steps after the first: what disturbs a measurement only makes it longer."""
    trainer.arithmetic = arithmetic
    trainer.train_step(learning_rate=0.0)
    began, steps = time.perf_counter(), []
    while len(steps) < _LEAST_STEPS or time.perf_counter() - began < _LEAST_SECONDS:
        before = time.perf_counter()
        trainer.train_step(learning_rate=0.0)
        steps.append(time.perf_counter() - before)
    return min(steps)
