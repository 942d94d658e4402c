"""Training on one device: characters a second, and the best validation loss that some minutes can buy."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.runs.start import begin
from models.train import train_model
from models.training.async_steps import AsyncSteps
from models.training.autotune import describe_arithmetic, fastest_arithmetic
from models.training.settings import TrainSettings

__all__ = ["LARGER", "Training", "TrainingResult", "chars_per_second", "losses"]

SETTLED_AFTER = 25  # steps, as in `charstream train`
# Models that are tried one after the other while there is time, each until it begins to learn by heart.
LARGER: tuple[dict[str, Any], ...] = (
    {"cell": "gru", "layers": 1, "hidden": 1024, "embedding": 64, "dropout": 0.2, "characters": 12_000_000},
    {"layers": 2, "hidden": 1024, "dropout": 0.5, "characters": 30_000_000},
    {"layers": 3, "hidden": 1024, "dropout": 0.6, "characters": 60_000_000},
    {"layers": 2, "hidden": 2048, "dropout": 0.65, "characters": 60_000_000},
)
LEAST_MINUTES = 0.2


class Training(NamedTuple):
    """The speed of a training run."""

    chars_per_second: float
    arithmetic: str
    milliseconds: float


class TrainingResult(NamedTuple):
    """The result of a training run: nats per character on the whole validation part."""

    options: dict[str, Any]
    nats: float
    characters: int
    seconds: float


def chars_per_second(data: str, folder: Path, device: str, seconds: float, **options: Any) -> Training:
    """Measure steps alone, without validation, as `charstream train` takes them, in the arithmetic that is fastest."""
    run = begin(TrainSettings(data=data, out=folder, device=device, **options), time.monotonic())
    with run.lock:
        trainer = run.trainer
        trainer.arithmetic = fastest_arithmetic(trainer)
        ahead = AsyncSteps(trainer, lambda outcome: None)
        first = began = 0.0
        while not first or time.perf_counter() - began < seconds:
            for number in range(SETTLED_AFTER):
                ahead.step(options.get("learning_rate", 1e-3), measure=number == 0)
            ahead.settle()
            if not first:  # the first steps load libraries
                first, began = trainer.step, time.perf_counter()
        took = (time.perf_counter() - began) / (trainer.step - first)
    return Training(run.chars_per_step / took, describe_arithmetic(trainer), 1000 * took)


def losses(
    data: str, folder: Path, device: str, minutes: float, models: Sequence[dict[str, Any]] = LARGER
) -> Iterator[TrainingResult]:
    """Train models one after the other, each as long as it takes, until the time is over."""
    began = time.monotonic()
    for number, options in enumerate(models):
        left = minutes - (time.monotonic() - began) / 60
        if number and left < LEAST_MINUTES:
            return
        given = {"batch": 128, "random_offsets": True, "patience": 6, **options}
        settings = TrainSettings(data=data, out=folder / str(number), device=device, minutes=left, **given)
        result = train_model(settings)
        nats = math.nan if result["carried_nats"] is None else result["carried_nats"]
        yield TrainingResult(given, nats, result["characters"], result["seconds"])
