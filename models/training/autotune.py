"""How this machine trains a model fastest: a matter of the instructions it has, and of the model's size."""

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from models.training.distributed import ALONE
from models.training.precision import Arithmetic, allow_tf32
from models.training.trainer import Trainer

__all__ = ["CannotCompute", "described", "device_of", "fastest"]

_LEAST_STEPS, _LEAST_SECONDS = 2, 0.3  # of a measurement
_WORTH_IT = 0.85  # share of the plainer way's time
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class CannotCompute(ValueError):
    """A device or an arithmetic is asked for that is not there; one line."""


def device_of(wanted: str) -> str:
    """What `--device` means here: under torchrun each process has a GPU of its own.

    That GPU multiplies float32 exactly from then on, unless an arithmetic says otherwise.

    Raises:
        CannotCompute: there is no such GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        return "cpu"
    name, _, number = wanted.replace("auto", "cuda").partition(":")
    number = number or os.environ.get("LOCAL_RANK", "0")
    if int(number) >= count:
        raise CannotCompute(f"--device {wanted}: torch finds {count} GPUs here, not number {number}; use --device cpu")
    torch.cuda.set_device(int(number))
    allow_tf32(False)
    return f"{name}:{number}"


def fastest(trainer: Trainer) -> Arithmetic:
    """Times real steps on a copy; the trainer stays as it was.

    If the run's precision is left to the machine, TF32 (on a GPU) and bfloat16 are taken where they are clearly faster
    than what is more exact. On the processor one thread unless all of them are clearly faster: it stays as fast when
    the other cores get other work.

    Raises:
        CannotCompute: bfloat16 is asked for, and torch does not have it here.
    """
    seconds, precision = _measured(trainer), trainer.settings.precision
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


def described(trainer: Trainer) -> str:
    """What a trainer computes with, and where."""
    bf16, threads, tf32 = trainer.arithmetic
    exact = "float64" if trainer.settings.precision == "fp64" else "float32"
    name = "bfloat16" if bf16 else f"{exact} with TF32 products" if tf32 else exact
    if trainer.device.type == "cuda":
        return f"{name} on {trainer.device}, {torch.cuda.get_device_name(trainer.device)}"
    return f"{name} on {trainer.device} with {threads} thread{'s' * (threads > 1)}"


def _first_unless_slower(ways: Sequence[Arithmetic], seconds: Callable[[Arithmetic], float]) -> Arithmetic:
    """Each way against the best of those before it, which are plainer."""
    best, *others = ways
    for way in others:
        if way != best and seconds(way) < _WORTH_IT * seconds(best):
            best = way
    return best


def _physical_cores() -> int:
    """Those that this process may use: two threads of one core share its arithmetic, and wait for each other."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return len({_siblings(cpu) for cpu in usable})


def _siblings(cpu: int) -> str:
    try:
        return Path(_SIBLINGS.format(cpu)).read_text()
    except OSError:
        return str(cpu)


def _measured(trainer: Trainer) -> Callable[[Arithmetic], float]:
    """Seconds of a step, each arithmetic timed once."""
    known: dict[Arithmetic, float] = {}

    def seconds(arithmetic: Arithmetic) -> float:
        if arithmetic not in known:
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
    # The other processes of a group are not asked.
    trainer.arithmetic, trainer.group = arithmetic, ALONE
    trainer.train_step(learning_rate=0.0)
    began = time.perf_counter()
    steps: list[float] = []
    while len(steps) < _LEAST_STEPS or time.perf_counter() - began < _LEAST_SECONDS:
        before = time.perf_counter()
        trainer.train_step(learning_rate=0.0)
        steps.append(time.perf_counter() - before)
    return min(steps)
