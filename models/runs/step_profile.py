"""The time of a training step beside the processor's own speed in products: `charstream train --profile`."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.network.gru_window import pack_product
from models.training.autotune import describe_arithmetic, step_seconds, thread_counts
from models.training.distributed import ALONE
from models.training.loss import matrices
from models.training.precision import Arithmetic, CannotCompute
from models.training.trainer import Trainer

__all__ = ["product_speed", "profile_step", "step_flops"]

_SIZE = 1024  # of the square matrices whose product is the processor's own speed
_SECONDS = 0.2  # for which it is measured
# Operators of torch by what they are for; a fused layer of oneDNN multiplies and computes the gates.
_PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::", "aten::mkldnn_rnn_layer")
_UPDATE = ("aten::_fused_", "aten::_foreach_", "aten::linalg_vector_norm")


def profile_step(trainer: Trainer) -> str:
    """Time steps of a copy in each arithmetic that the settings allow, and return a table in words.

    Raises:
        CannotCompute: the trainer is on a GPU.
    """
    if trainer.device.type == "cuda":
        raise CannotCompute("--profile measures the steps of a processor: add --device cpu, or use torch.profiler")
    settings = trainer.settings
    flops = step_flops(trainer)
    lines = [
        f"a step reads {settings.batch} x {trainer.streams.sequence} characters; products with weights: "
        f"{flops / 1e9:.3g} GFLOP"
    ]
    precisions = {"auto": (False, True), "bf16": (True,)}.get(settings.precision, (False,))
    counts = [settings.threads] if settings.threads else thread_counts()
    lines += [_line(trainer, Arithmetic(bf16, threads), flops) for bf16 in precisions for threads in counts]
    products, update = _time_shares(trainer)
    shares = f"products {products:.0%}, the update {update:.0%}, all else {1 - products - update:.0%}"
    return "\n  ".join([*lines, f"in {describe_arithmetic(trainer)}, of a step's time: {shares}"])


def step_flops(trainer: Trainer) -> float:
    """Return the additions and multiplications of a step's products with weights: forward once, backward twice."""
    embedding = getattr(trainer.model.embedding, "weight", None)
    weights = sum(matrix.numel() for matrix in matrices(trainer.model.parameters()) if matrix is not embedding)
    return 6.0 * weights * trainer.settings.batch * trainer.streams.sequence


def product_speed(kind: torch.dtype, threads: int) -> float:
    """Return the additions and multiplications a second of products of two large matrices: what it can do."""
    a, b = (torch.randn(_SIZE, _SIZE).to(kind) for _ in range(2))
    clock = _clock(threads)
    with Arithmetic(False, threads).in_force():
        multiply = pack_product(a, _SIZE)
        best, until = math.inf, time.perf_counter() + _SECONDS
        while time.perf_counter() < until:
            began = clock()
            multiply(b)
            best = min(best, clock() - began)
    return 2.0 * _SIZE**3 / best


def _clock(threads: int) -> Callable[[], float]:
    """Return the clock of one thread's own work, which nothing beside it disturbs, or that of the wall."""
    return time.thread_time if threads == 1 else time.perf_counter


def _line(trainer: Trainer, arithmetic: Arithmetic, flops: float) -> str:
    number = torch.bfloat16 if arithmetic.bf16 else trainer.model.head.weight.dtype
    name = f"{str(number).removeprefix('torch.')}, {arithmetic.threads} thread{'s' * (arithmetic.threads > 1)}"
    try:
        seconds = step_seconds(trainer, arithmetic, of_the_processor=arithmetic.threads == 1)
    except RuntimeError:  # torch has no bfloat16 here for this model
        return f"{name}: not possible on this processor"
    speed, own = flops / seconds, product_speed(number, arithmetic.threads)
    chars = trainer.settings.batch * trainer.streams.sequence / seconds
    return (
        f"{name}: {seconds * 1e3:.1f} ms a step, {chars:,.0f} characters/s, {speed / 1e9:.0f} GFLOP/s, "
        f"{speed / own:.0%} of the {own / 1e9:.0f} that large products reach"
    )


def _time_shares(trainer: Trainer) -> tuple[float, float]:
    """Return the shares of a step's time that products and the update take, in the trainer's arithmetic."""
    copied = copy.deepcopy(trainer)
    copied.group = ALONE
    copied.train_step(learning_rate=0.0)
    with _OperatorTimes(_clock(trainer.arithmetic.threads)) as times:
        copied.train_step(learning_rate=0.0)
    whole = step_seconds(trainer, trainer.arithmetic, of_the_processor=trainer.arithmetic.threads == 1)
    products, update = times.of(_PRODUCTS), times.of(_UPDATE)
    whole = max(whole, products + update)
    return products / whole, update / whole


class _OperatorTimes(TorchDispatchMode):
    """Seconds that torch's operators take, by name; torch's own profiler writes to the terminal on some machines."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = self._clock()
        result = func(*args, **(kwargs or {}))
        self._seconds[func.name()] += self._clock() - began
        return result

    def of(self, names: tuple[str, ...]) -> float:
        """Return the seconds of the operators whose names begin with one of `names`."""
        return sum(seconds for name, seconds in self._seconds.items() if name.startswith(names))
