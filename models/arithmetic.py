"""Whether bfloat16 trains faster than float32 on this machine: a matter of the processor's instructions."""

import copy
import time

import torch

from models.trainer import Trainer

__all__ = ["bf16_is_faster"]

_TIMED_STEPS = 3
_WORTH_IT = 0.9  # share of float32's time


def bf16_is_faster(trainer: Trainer) -> bool:
    """Times a few real steps of each on a copy; the trainer and the random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        seconds = {bf16: _step_seconds(copy.deepcopy(trainer), bf16) for bf16 in (False, True)}
    return seconds[True] < _WORTH_IT * seconds[False]


def _step_seconds(trainer: Trainer, bf16: bool) -> float:
    """The fastest of some steps: what disturbs a measurement only makes it longer."""
    trainer.bf16 = bf16
    seconds = []
    for _ in range(1 + _TIMED_STEPS):
        began = time.perf_counter()
        trainer.train_step(learning_rate=0.0)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
