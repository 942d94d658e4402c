"""A short training with the settings that are checked, watched step by step."""

import copy
import time
from dataclasses import replace
from typing import NamedTuple

from models.check.history import Curve, History
from models.data.corpus import Corpus
from models.evaluation.evaluate import carried_nats
from models.network.char_lm import CharLM
from models.progress import ProgressBar
from models.training.autotune import fastest_arithmetic
from models.training.batches import Streams
from models.training.loss_guard import Diverged, StepOutcome
from models.training.schedule import RateSchedule
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["Trial", "make_trainer", "run_trial", "steps_within"]

SECONDS, MOST_STEPS = 20.0, 2000
FEWEST_STEPS = 40
TIMED_STEPS = 3
MEASUREMENTS = 50  # of the updates
VALIDATIONS = 6
VALIDATION_CHARS = 64  # at each of up to 128 places


class Trial(NamedTuple):
    """The model, in eval mode, and how it became what it is."""

    model: CharLM
    history: History


def run_trial(model: CharLM, corpus: Corpus, settings: TrainSettings) -> Trial:
    """Trains for as many steps as 20 seconds allow, 40 to 2,000, or fewer if the settings say so.

    The learning rate takes its whole course in them. Raises CorpusError, CannotCompute.
    """
    trainer = make_trainer(model, corpus, settings)
    steps = min(settings.steps or MOST_STEPS, steps_within(trainer, SECONDS))
    course = RateSchedule(
        settings.schedule, settings.learning_rate, settings.warmup, settings.decay, settings.decay_steps
    )
    history = History(f"a trial of {steps:,} steps")
    with ProgressBar("trial", " steps", steps) as bar:
        try:
            for step in range(1, steps + 1):
                loss = _step(
                    trainer, course.rate(step - 1, steps), history, measure=step % _every(steps, MEASUREMENTS) == 0
                )
                if len(corpus.validation) and step % _every(steps, VALIDATIONS) == 0:
                    nats = carried_nats(model, corpus.validation, corpus.start, limit=VALIDATION_CHARS)
                    history.validation.add(step, nats)
                bar.advance(1, f"loss {loss:.3f}")
        except Diverged as error:
            history = replace(history, diverged=str(error))
    return Trial(model.eval(), history)


def make_trainer(model: CharLM, corpus: Corpus, settings: TrainSettings) -> Trainer:
    """As a run has it, with the arithmetic that is fastest here. Raises CorpusError, CannotCompute."""
    trainer = Trainer(model, Streams(corpus.training, len(corpus.vocabulary), settings), settings)
    trainer.arithmetic = fastest_arithmetic(trainer)
    return trainer


def steps_within(trainer: Trainer, seconds: float) -> int:
    """How many steps a time allows, no fewer than 40; the trainer stays as it was."""
    probe, began = copy.deepcopy(trainer), time.perf_counter()
    for _ in range(TIMED_STEPS):
        probe.train_step(0.0)
    return max(FEWEST_STEPS, int(seconds * TIMED_STEPS / (time.perf_counter() - began)))


def _every(steps: int, times: int) -> int:
    return max(1, steps // times)


def _step(trainer: Trainer, rate: float, history: History, *, measure: bool) -> float:
    """One step, noted; if it is to be measured, also how far it moved each matrix. Returns the loss in nats."""
    outcome = _measured(trainer, rate, history) if measure else trainer.train_step(rate)
    history.loss.add(trainer.step, outcome.loss)
    history.gradient_norm.add(trainer.step, outcome.gradient_norm)
    return outcome.loss


def _measured(trainer: Trainer, rate: float, history: History) -> StepOutcome:
    matrices = {name: tensor for name, tensor in trainer.model.named_parameters() if tensor.ndim > 1}
    before = {name: tensor.detach().clone() for name, tensor in matrices.items()}
    outcome = trainer.train_step(rate)
    for name, tensor in matrices.items():
        size = before[name].norm().item()
        if size:
            moved = (tensor.detach() - before[name]).norm().item()
            history.update_ratios.setdefault(name, Curve([], [])).add(trainer.step, moved / size)
    return outcome
