"""The arithmetic in which this machine trains a model fastest, found by timing steps."""

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from models.training.distributed import ALONE
from models.training.precision import Arithmetic, CannotCompute
from models.training.trainer import Trainer

__all__ = ["describe_arithmetic", "fastest_arithmetic", "first_step_seconds"]

_LEAST_STEPS, _LEAST_SECONDS = 2, 0.3  # of a measurement
_WORTH_IT = 0.85  # share of the plainer way's time
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def fastest_arithmetic(trainer: Trainer) -> Arithmetic:
    """Time real steps on a copy and return the fastest arithmetic; the trainer stays as it was.

    If the run's precision is left to the machine, TF32 (on a GPU) and bfloat16 are taken where they are clearly faster
    than what is more exact. On the processor one thread unless all of them are clearly faster: it stays as fast when
    the other cores get other work.

    Raises:
        CannotCompute: bfloat16 is asked for, and torch does not have it here.
    """
    seconds, precision = cache(partial(_seconds_if_possible, trainer)), trainer.settings.precision
    on_gpu = trainer.device.type == "cuda"
    exact, tf32, bf16 = Arithmetic(False, 1), Arithmetic(False, 1, tf32=True), Arithmetic(True, 1)
    if precision == "bf16" and seconds(bf16) == math.inf:
        raise CannotCompute(
            "--precision bf16: torch cannot train this model in bfloat16 on this processor; use --precision fp32"
        )
    ways = {"auto": [exact, tf32, bf16] if on_gpu else [exact, bf16], "bf16": [bf16]}.get(precision, [exact])
    best = _first_unless_slower(ways, seconds)
    threads = min(torch.get_num_threads(), _physical_cores())
    return best if on_gpu else _first_unless_slower([best, best._replace(threads=threads)], seconds)


def first_step_seconds(trainer: Trainer, short: float) -> float:
    """Time one step of a copy, on all cores; the first one is slow, so a second one is taken if it was not `short`."""
    copied, threads = copy.deepcopy(trainer), min(torch.get_num_threads(), _physical_cores())
    copied.arithmetic, copied.group = Arithmetic(False, threads), ALONE
    seconds = math.inf
    for _ in range(2):
        began = time.perf_counter()
        copied.train_step(learning_rate=0.0)
        seconds = min(seconds, time.perf_counter() - began)
        if seconds <= short:
            break
    return seconds


def describe_arithmetic(trainer: Trainer) -> str:
    """Return in words what a trainer computes with, and where."""
    bf16, threads, tf32 = trainer.arithmetic
    exact = "float64" if trainer.settings.precision == "fp64" else "float32"
    name = "bfloat16" if bf16 else f"{exact} with TF32 products" if tf32 else exact
    if trainer.device.type == "cuda":
        return f"{name} on {trainer.device}, {torch.cuda.get_device_name(trainer.device)}"
    return f"{name} on {trainer.device} with {threads} thread{'s' * (threads > 1)}"


def _first_unless_slower(ways: Sequence[Arithmetic], seconds: Callable[[Arithmetic], float]) -> Arithmetic:
    """Return the best way: each must clearly beat the best of those before it, which are plainer."""
    best, *others = ways
    for way in others:
        if way != best and seconds(way) < _WORTH_IT * seconds(best):
            best = way
    return best


def _physical_cores() -> int:
    """Count the cores of this process: two threads of one core share its arithmetic, and wait for each other."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return len({_siblings(cpu) for cpu in usable})


def _siblings(cpu: int) -> str:
    try:
        return Path(_SIBLINGS.format(cpu)).read_text()
    except OSError:
        return str(cpu)


def _seconds_if_possible(trainer: Trainer, arithmetic: Arithmetic) -> float:
    """Time a step on a copy; infinity where torch has no bfloat16 for the model: an LSTM without AVX-512."""
    try:
        return _step_seconds(copy.deepcopy(trainer), arithmetic)
    except RuntimeError:
        if not arithmetic.bf16:
            raise
        return math.inf


def _step_seconds(trainer: Trainer, arithmetic: Arithmetic) -> float:
    """Return the time of the fastest of some steps after the first: disturbances only make a step longer."""
    # The other processes of a group take no part.
    trainer.arithmetic, trainer.group = arithmetic, ALONE
    trainer.train_step(learning_rate=0.0)
    began = time.perf_counter()
    steps: list[float] = []
    while len(steps) < _LEAST_STEPS or time.perf_counter() - began < _LEAST_SECONDS:
        before = time.perf_counter()
        trainer.train_step(learning_rate=0.0)
        steps.append(time.perf_counter() - before)
    return min(steps)
