"""The subject of the checks: a configuration, its text, and the weights of a run or of a short trial."""

import copy
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bundle.vocabulary import singular
from models.data.corpus import Corpus
from models.evaluation.losses import carried_nats
from models.network.char_lm import CharLM
from models.network.config import Init, ModelConfig
from models.network.initialise import initialise
from models.reporting.curves import RunError, Series, read_curves
from models.terminal import ProgressBar
from models.training.autotune import fastest_arithmetic
from models.training.batches import Streams
from models.training.loss_guard import Diverged, StepOutcome
from models.training.schedule import RateSchedule
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["NO_DROPOUT", "History", "Subject", "make_trainer", "read_history", "run_trial", "steps_within"]

NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "dropout_input": 0.0, "dropout_output": 0.0}
UNIGRAM_CHARS = 1_000_000  # of the training text, whose frequencies are counted
SECONDS, MOST_STEPS = 20.0, 2000  # of a trial
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


@dataclass(frozen=True)
class Subject:
    """The subject of the checks; a trial is run when a check first asks for what it gives.

    Attributes:
        config: the model's.
        run: folder of a run; None to check before training.
        loaded: the run's model, in eval mode.
    """

    settings: TrainSettings
    corpus: Corpus
    config: ModelConfig
    run: Path | None = None
    loaded: CharLM | None = None

    def fresh(self, init: Init | None = None, **changes: Any) -> CharLM:
        """Return an untrained model, as training begins with it apart from `init` and changes of the configuration."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            model = CharLM(self.config.model_copy(update=changes))
            initialise(
                model,
                init or self.settings.init,
                scale=self.settings.init_scale,
                forget_bias=self.settings.forget_bias,
            )
        return model

    @property
    def unit(self) -> str:
        """The unit of a symbol, which losses are per: character or byte."""
        return singular(self.corpus.vocabulary.unit)

    @property
    def trained_model(self) -> CharLM:
        """The run's model; without a run, that of a trial."""
        return self.loaded or self._trial.model

    @cached_property
    def history(self) -> History:
        """The run's history; that of a trial without a run, or if the run has none."""
        return (self.run and read_history(self.run)) or self._trial.history

    @cached_property
    def _trial(self) -> Trial:
        return run_trial(self.fresh(), self.corpus, self.settings)

    @property
    def unigram_entropy(self) -> float:
        """The loss of a model that knows the characters' frequencies alone, nats per character."""
        counts = np.bincount(self.corpus.training[:UNIGRAM_CHARS])
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    def windows(self, steps: int, streams: int) -> Tensor:
        """Return evenly spaced pieces of the training text: [steps + 1, streams] int64.

        In a short text they overlap; one that is shorter than `steps` gives fewer steps.
        """
        ids = self.corpus.training
        steps = min(steps, len(ids) - 1)
        starts = np.linspace(0, len(ids) - steps - 1, streams).astype(np.int64)
        return torch.from_numpy(ids[starts + np.arange(steps + 1)[:, None]].astype(np.int64))

    def lines(self, count: int, most: int) -> Tensor:
        """Return the first lines of the training text, at most `most` characters: [N] int64."""
        first = self.corpus.training[:most].astype(np.int64)
        ends = np.flatnonzero(first == self.corpus.start) if self.corpus.start_text == "\n" else np.array([])
        return torch.from_numpy(first[: ends[count - 1] + 1] if len(ends) >= count else first)


def run_trial(model: CharLM, corpus: Corpus, settings: TrainSettings) -> Trial:
    """Train for as many steps as 20 seconds allow, 40 to 2,000, or fewer if the settings say so.

    The learning rate takes its whole course in them. Raises CorpusError, CannotCompute.
    """
    trainer = make_trainer(model, corpus, settings)
    steps = min(settings.steps or MOST_STEPS, steps_within(trainer, SECONDS))
    schedule = RateSchedule(
        settings.schedule, settings.learning_rate, settings.warmup, settings.decay, settings.decay_steps
    )
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
