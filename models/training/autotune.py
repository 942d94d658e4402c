"""The arithmetic in which this machine trains a model fastest, found by timing steps: at first, and as it trains."""

import copy
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch

from models.training.distributed import ALONE
from models.training.precision import Arithmetic, CannotCompute
from models.training.trainer import Trainer

__all__ = [
    "ThreadTrials",
    "describe_arithmetic",
    "fastest_arithmetic",
    "first_step_seconds",
    "step_seconds",
    "thread_counts",
]

_LEAST_STEPS, _LEAST_SECONDS = 2, 0.3  # of a measurement
_WORTH_IT = 0.85  # share of the plainer way's time
_ONE_CORE = 1.2  # seconds of the processor a second, up to which several threads are no better than one
_TRIAL_EVERY = 60.0  # seconds between two trials of threads, at least
_TRIAL_SHARE = 0.02  # of the time, at most, that trials lose
_TRIAL_STEPS = 2  # of each count in a row: the first one wakes the threads
_SLOWER, _SLOW_STEPS = 1.5, 3  # times a step's usual time, in a row: other work has begun beside several threads
_SOON = 10.0  # seconds after a trial, before which no such steps bring about the next one
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def fastest_arithmetic(trainer: Trainer) -> Arithmetic:
    """Time real steps on a copy and return the fastest arithmetic; the trainer stays as it was.

    If the run's precision is left to the machine, TF32 (on a GPU) and bfloat16 are taken where they are clearly faster
    than what is more exact. On the processor one thread unless more of them are clearly faster: it stays as fast when
    the other cores get other work. Its bits are the same with any number of threads where it was tried (float32,
    docs/quality.md), but for an LSTM on a processor without AVX-512, of which oneDNN adds up in another order.

    Raises:
        CannotCompute: bfloat16 is asked for, and torch does not have it here.
    """
    seconds, precision = (
        cache(partial(_seconds_if_possible, trainer, of_the_processor=False)),
        trainer.settings.precision,
    )
    alone = cache(partial(_seconds_if_possible, trainer, of_the_processor=trainer.device.type == "cpu"))
    on_gpu = trainer.device.type == "cuda"
    exact, tf32, bf16 = Arithmetic(False, 1), Arithmetic(False, 1, tf32=True), Arithmetic(True, 1)
    if precision == "bf16" and alone(bf16) == math.inf:
        raise CannotCompute(
            "--precision bf16: torch cannot train this model in bfloat16 on this processor; use --precision fp32"
        )
    ways = {"auto": [exact, tf32, bf16] if on_gpu else [exact, bf16], "bf16": [bf16]}.get(precision, [exact])
    best = _first_unless_slower(ways, alone)
    if on_gpu:
        return best
    counts = [trainer.settings.threads] if trainer.settings.threads else thread_counts()
    return _first_unless_slower([best._replace(threads=threads) for threads in counts], seconds)


def thread_counts() -> list[int]:
    """Return the numbers of threads to try: 1, 2, 4, ... and one for each core."""
    most = min(torch.get_num_threads(), _physical_cores())
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


class ThreadTrials:
    """Times a run's own steps now and then, with fewer and with more threads, and takes what is fastest.

    The first choice was made at one moment: other work may have been beside it that ended, or begun since. A trial
    takes two steps with each number of threads; where another one is better, once more before it is taken. Steps of
    several threads that become much slower than they were, as they do beside other work, bring the next one forward.

    Args:
        trainer: on the processor, whose `arithmetic` has the threads; elsewhere, and where the threads are given or
            processes share the steps, nothing is tried.
        settle: is given the arithmetic that is to be used from now on.
    """

    def __init__(
        self,
        trainer: Trainer,
        settle: Callable[[Arithmetic], None],
        *,
        counts: Sequence[int] | None = None,
        every: float = _TRIAL_EVERY,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._trainer, self._settle, self._clock, self._every = trainer, settle, clock, every
        fixed = trainer.device.type == "cuda" or trainer.settings.threads or trainer.group.size > 1
        self._counts = [] if fixed else thread_counts() if counts is None else list(counts)
        self._seconds: dict[int, list[float]] = {}
        self._to_come: deque[int] = deque()
        self._threads, self._due = trainer.arithmetic.threads, clock() + every
        self._usual, self._slow, self._soonest = math.inf, 0, clock() + _SOON

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take one step inside: in a trial with its number of threads."""
        if not self._to_come:
            if set(self._counts) <= {self._trainer.arithmetic.threads} or self._clock() < self._due:
                began = self._clock()
                yield
                self._watch(self._clock() - began)
                return
            self._begin()
        threads = self._to_come.popleft()
        self._use(threads)
        began = self._clock()
        yield
        self._seconds.setdefault(threads, []).append(self._clock() - began)
        if not self._to_come:
            self._conclude()

    def _watch(self, seconds: float) -> None:
        """Let the next trial come at once where steps of several threads have become much slower."""
        self._usual = min(self._usual, seconds)
        self._slow = self._slow + 1 if seconds > _SLOWER * self._usual else 0
        if self._slow >= _SLOW_STEPS and self._trainer.arithmetic.threads > 1 and self._clock() > self._soonest:
            self._due = self._clock()

    def _begin(self) -> None:
        self._threads, self._seconds = self._trainer.arithmetic.threads, {}
        self._to_come.extend(self._round())

    def _round(self) -> list[int]:
        """Return the threads of the steps to come: the present number's first, then those of its neighbours."""
        fewer = [count for count in self._counts if count < self._threads][-1:]
        more = [count for count in self._counts if count > self._threads][:1]
        return [count for count in (self._threads, *fewer, *more) for _ in range(_TRIAL_STEPS)]

    def _conclude(self) -> None:
        arithmetic = self._trainer.arithmetic
        ways = [arithmetic._replace(threads=count) for count in sorted(self._seconds)]
        best = _first_unless_slower(ways, lambda way: min(self._seconds[way.threads]))
        if best.threads != self._threads and len(self._seconds[best.threads]) == _TRIAL_STEPS:
            self._to_come.extend(self._round())
            return
        self._use(best.threads)
        taken = [seconds for steps in self._seconds.values() for seconds in steps]
        lost = sum(taken) - len(taken) * min(self._seconds[self._threads])
        changed = best.threads != self._threads
        self._due = self._clock() + (self._every if changed else max(self._every, lost / _TRIAL_SHARE))
        self._usual, self._slow, self._soonest = math.inf, 0, self._clock() + _SOON
        if changed:
            self._settle(best)

    def _use(self, threads: int) -> None:
        self._trainer.arithmetic = self._trainer.arithmetic._replace(threads=threads)


def first_step_seconds(trainer: Trainer, short: float) -> float:
    """Time one step of a copy, on all cores; the first one is slow, so a second one is taken if it was not `short`.

    Threads that other work keeps from running let the others wait, for many times as long as one alone would take. So
    one thread is tried too, where all of them together were given hardly more than one core.
    """
    copied, threads = copy.deepcopy(trainer), thread_counts()[-1]
    copied.group = ALONE
    used, seconds = _second_step(copied, threads, short)
    if seconds > short and threads > 1 and used < _ONE_CORE * seconds:
        seconds = min(seconds, _second_step(copied, 1, short)[1])
    return seconds


def _second_step(trainer: Trainer, threads: int, short: float) -> tuple[float, float]:
    """Take a step, and another one if it was not `short`. Return processor time and time of the faster one."""
    trainer.arithmetic = Arithmetic(False, threads)
    times: list[tuple[float, float]] = []
    while not times or (len(times) < 2 and times[0][1] > short):
        used, began = time.process_time(), time.perf_counter()
        trainer.train_step(learning_rate=0.0)
        times.append((time.process_time() - used, time.perf_counter() - began))
    return min(times, key=lambda each: each[1])


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


def _seconds_if_possible(trainer: Trainer, arithmetic: Arithmetic, *, of_the_processor: bool) -> float:
    """Time a step on a copy; infinity where torch has no bfloat16 for the model: an LSTM without AVX-512."""
    try:
        return step_seconds(trainer, arithmetic, of_the_processor=of_the_processor)
    except RuntimeError:
        if not arithmetic.bf16:
            raise
        return math.inf


def step_seconds(trainer: Trainer, arithmetic: Arithmetic, *, of_the_processor: bool) -> float:
    """Return the time of the fastest of some steps after the first, of a copy: disturbances only make a step longer.

    Args:
        of_the_processor: count only what this thread computes, for arithmetics of one thread: others' work takes its
            core away at times, and would decide between them.
    """
    # The other processes of a group take no part.
    trainer = copy.deepcopy(trainer)
    trainer.arithmetic, trainer.group = arithmetic, ALONE
    clock = time.thread_time if of_the_processor else time.perf_counter
    trainer.train_step(learning_rate=0.0)
    began = time.perf_counter()
    steps: list[float] = []
    while len(steps) < _LEAST_STEPS or time.perf_counter() - began < _LEAST_SECONDS:
        before = clock()
        trainer.train_step(learning_rate=0.0)
        steps.append(clock() - before)
    return min(steps)
