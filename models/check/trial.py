"""The history of a training, be it a run or a trial: a short training with the settings that are checked."""

import copy
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.data.corpus import Corpus
from models.evaluation.losses import carried_nats
from models.network.char_lm import CharLM
from models.reporting.curves import RunError, Series, read_curves
from models.terminal import ProgressBar
from models.training.autotune import fastest_arithmetic
from models.training.batches import Streams
from models.training.loss_guard import Diverged, StepOutcome
from models.training.schedule import RateSchedule
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["History", "Trial", "make_trainer", "read_history", "run_trial", "steps_within"]

SECONDS, MOST_STEPS = 20.0, 2000
FEWEST_STEPS = 40
TIMED_STEPS = 3
MEASUREMENTS = 50  # of the updates
VALIDATIONS = 6
VALIDATION_CHARS = 64  # at each of up to 128 places

_Points = list[tuple[float, float, float]]  # (step, seconds, value); a trial's points have no seconds


@dataclass(frozen=True)
class History:
    """The measurements of a training over its steps; losses are in nats.

    Attributes:
        source: the name of the training, for people.
        update_ratios: |change| / |weights| of a step, by tensor, or of all weights together.
        diverged: the reason why the training ended early; None if it did not.
    """

    source: str
    loss: Series
    validation: Series
    gradient_norm: Series
    update_ratios: dict[str, Series]
    diverged: str | None = None


def read_history(run: Path) -> History | None:
    """Read the history of a run; None if it has no update ratios, as an imported model has none."""
    try:
        curves = read_curves(run)
    except RunError:
        return None
    loss, validation, norm, ratios = map(curves.series, ("loss", "validation", "gradient_norm", "update_ratio"))
    source = f"{run.name}, {curves.steps:,} steps"
    return History(source, loss, validation, norm, {"all weights": ratios}) if len(ratios) else None


class Trial(NamedTuple):
    """A model after a short training, in eval mode, and the history of that training."""

    model: CharLM
    history: History


def run_trial(model: CharLM, corpus: Corpus, settings: TrainSettings) -> Trial:
    """Train for as many steps as 20 seconds allow, 40 to 2,000, or fewer if the settings say so.

    The learning rate takes its whole course in them. Raises CorpusError, CannotCompute.
    """
    trainer = make_trainer(model, corpus, settings)
    steps = min(settings.steps or MOST_STEPS, steps_within(trainer, SECONDS))
    schedule = RateSchedule.of(settings)
    points, ratios, diverged = defaultdict[str, _Points](list), defaultdict[str, _Points](list), None
    with ProgressBar("trial", " steps", steps) as bar:
        try:
            for step in range(1, steps + 1):
                rate = schedule.rate(step - 1, steps)
                measure = step % max(1, steps // MEASUREMENTS) == 0
                outcome = _measured_step(trainer, rate, ratios) if measure else trainer.train_step(rate)
                points["loss"].append((step, np.nan, outcome.loss))
                points["gradient_norm"].append((step, np.nan, outcome.gradient_norm))
                if len(corpus.validation) and step % max(1, steps // VALIDATIONS) == 0:
                    nats = carried_nats(model, corpus.validation, corpus.start, limit=VALIDATION_CHARS)
                    points["validation"].append((step, np.nan, nats))
                bar.advance(1, f"loss {outcome.loss:.3f}")
        except Diverged as error:
            diverged = str(error)
    loss, validation, norm = (Series.of(points[name]) for name in ("loss", "validation", "gradient_norm"))
    updates = {name: Series.of(measured) for name, measured in ratios.items()}
    return Trial(model.eval(), History(f"a trial of {steps:,} steps", loss, validation, norm, updates, diverged))


def make_trainer(model: CharLM, corpus: Corpus, settings: TrainSettings) -> Trainer:
    """Return a trainer as a run has it, with the fastest arithmetic. Raises CorpusError, CannotCompute."""
    trainer = Trainer(model, Streams(corpus.training, len(corpus.vocabulary), settings), settings)
    trainer.arithmetic = fastest_arithmetic(trainer)
    return trainer


def steps_within(trainer: Trainer, seconds: float) -> int:
    """Return the number of steps that a time allows, at least 40; the trainer stays as it was."""
    probe, began = copy.deepcopy(trainer), time.perf_counter()
    for _ in range(TIMED_STEPS):
        probe.train_step(0.0)
    return max(FEWEST_STEPS, int(seconds * TIMED_STEPS / (time.perf_counter() - began)))


def _measured_step(trainer: Trainer, rate: float, ratios: dict[str, _Points]) -> StepOutcome:
    """Take a step, and note for each matrix |change| / |weights|."""
    matrices = {name: tensor for name, tensor in trainer.model.named_parameters() if tensor.ndim > 1}
    before = {name: tensor.detach().clone() for name, tensor in matrices.items()}
    outcome = trainer.train_step(rate)
    for name, tensor in matrices.items():
        size = before[name].norm().item()
        if size:
            moved = (tensor.detach() - before[name]).norm().item()
            ratios[name].append((trainer.step, np.nan, moved / size))
    return outcome
