"""Training and validation loss compared: whether the model learns by heart, and whether it still learns."""

import math
from dataclasses import dataclass

from matplotlib.figure import Figure

from models.check.outcome import Finding, Outcome, failure, ok, warning
from models.check.subject import Subject
from models.check.trial import History
from models.evaluation.losses import carried_nats
from models.reporting.style import COLOURS, figure, legend

__all__ = ["Gap", "check"]

SAMPLE_CHARS = 256  # at each of up to 128 places
MOST_TRAINING_CHARS = 1_000_000
WIDE, NARROW = 0.1, 0.03  # of the training loss
RISEN = 0.01  # nats by which the validation loss lies above its lowest
FALLING = 0.01  # nats by which it fell in the last fifth


@dataclass(frozen=True)
class Gap:
    """Losses of the same weights without dropout, nats per `unit`; `validation` is None if nothing is held out."""

    training: float
    validation: float | None
    unigram: float
    unit: str = "character"

    @property
    def share(self) -> float:
        """How much larger the validation loss is, as a share of the training loss."""
        if self.validation is None or self.validation == self.training:
            return 0.0
        return (self.validation - self.training) / self.training if self.training else math.inf


def check(subject: Subject) -> Outcome:
    gap, history = _measure(subject), subject.history
    figures = {"training_nats": gap.training, "validation_nats": gap.validation, "unigram_nats": gap.unigram}
    return Outcome(tuple(_judge(gap, history, subject.run is not None)), figures, lambda: _draw(gap, history))


def _measure(subject: Subject) -> Gap:
    """Measure on as much text of both parts, for training on a piece from the middle."""
    model, corpus = subject.trained_model, subject.corpus
    size = min(len(corpus.validation) or MOST_TRAINING_CHARS, MOST_TRAINING_CHARS, len(corpus.training))
    first = (len(corpus.training) - size) // 2
    middle = corpus.training[first : first + size]
    held_out = corpus.validation
    return Gap(
        carried_nats(model, middle, corpus.start, limit=SAMPLE_CHARS),
        carried_nats(model, held_out, corpus.start, limit=SAMPLE_CHARS) if len(held_out) else None,
        subject.unigram_entropy,
        subject.unit,
    )


def _judge(gap: Gap, history: History, of_a_run: bool) -> list[Finding]:
    if not gap.training < gap.unigram:
        return [
            failure(
                f"{gap.training:.3f} nats on the training text, and the {gap.unit}s' frequencies alone give "
                f"{gap.unigram:.3f}: it has learnt nothing of their order yet; train longer, or see the other checks"
            )
        ]
    if gap.validation is None:
        return [warning(f"training {gap.training:.3f} nats, and nothing is held out to compare it with: see --split")]
    return [_judge_gap(gap), *_judge_course(history, of_a_run)]


def _judge_gap(gap: Gap) -> Finding:
    text = f"training {gap.training:.3f} nats, validation {gap.validation:.3f}, {gap.share:+.1%}"
    if gap.share > WIDE:
        return warning(
            f"{text}: it learns by heart; more text, --dropout, --weight-decay or fewer --hidden units would help"
        )
    if gap.share > NARROW:
        return ok(f"{text}: it learns a little by heart, as it should at its best")
    return ok(f"{text}: nothing is learnt by heart; longer training, or more --hidden units, would still help")


def _judge_course(history: History, of_a_run: bool) -> list[Finding]:
    """Judge the course of the validation loss; a trial is too short for it to settle."""
    steps, values = history.validation.steps.astype(int).tolist(), history.validation.values.tolist()
    if len(values) < 3:
        return []
    best = values.index(min(values))
    if values[-1] - values[best] > RISEN:
        return [
            warning(
                f"{history.source}: validation has risen from {values[best]:.3f} at step {steps[best]:,} to "
                f"{values[-1]:.3f}: it overfits since then; --patience stops there, more --dropout puts it off"
            )
        ]
    if not of_a_run:
        return []
    before = values[max(0, round(len(values) * 0.8) - 1)]
    if before - values[-1] > FALLING:
        return [ok(f"{history.source}: validation still fell by {before - values[-1]:.3f} nats in the last fifth")]
    return [ok(f"{history.source}: validation has settled")]


def _draw(gap: Gap, history: History) -> Figure:
    drawn, (axes,) = figure(title=f"Training and validation: {history.source}", size=(7.5, 3.8))
    training, validation = history.loss, history.validation
    label = "training, as it goes (with dropout, if any)"
    axes.plot(training.steps, training.values, color=COLOURS[0], alpha=0.6, linewidth=1, label=label)
    if len(validation):
        axes.plot(
            validation.steps, validation.values, "o-", color=COLOURS[1], markersize=3, label="validation, a sample"
        )
    last = training.steps[-1] if len(training) else 0
    axes.plot(last, gap.training, "s", color=COLOURS[0], label=f"training, these weights: {gap.training:.3f}")
    if gap.validation is not None:
        axes.plot(last, gap.validation, "s", color=COLOURS[1], label=f"validation, these weights: {gap.validation:.3f}")
    axes.axhline(
        gap.unigram, color=COLOURS[7], linestyle="--", linewidth=1, label=f"frequencies alone: {gap.unigram:.3f}"
    )
    axes.set_xlabel("step")
    axes.set_ylabel(f"nats per {gap.unit}")
    legend(axes)
    return drawn
