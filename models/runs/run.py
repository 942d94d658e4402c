"""A training run: its progress, its decisions between two steps, and the files that it writes."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

from models.data.corpus import Corpus
from models.evaluation.losses import carried_nats, evaluated_chars
from models.network.generate import generate
from models.run_folder import BEST, FIRST, LAST, header_file
from models.runs.metrics import Metrics
from models.runs.run_checkpoints import finalise_best, make_header
from models.terminal import count_noun, say
from models.training.checkpoint import Header, Progress, save
from models.training.loss_guard import Diverged
from models.training.precision import Arithmetic
from models.training.schedule import CALIBRATION_SHARE, RateSchedule, plan_for_minutes, plan_for_steps
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["CHECK_CHARS", "RESERVE", "RESERVE_SECONDS", "Orders", "Run"]

T = TypeVar("T")

CHECK_CHARS = 256  # read of each of the held-out text's parts: a check takes a sample
SAVE_SECONDS = 60  # between two checkpoints: a process that dies loses no more than that
SAMPLE_CHARS = 300
EARLY = 5  # the first checkpoint is of the first check, in this part of the run
SAMPLE_TEMPERATURE = 0.8
# Time is kept free for a check and the final validation, which may take longer than the check before; and for what is
# not timed: the last sample, the files, the report, and Python's start before the clock's.
RESERVE = 1.25
RESERVE_SECONDS = 4.0


class Orders(NamedTuple):
    """The next actions of all processes, decided by the first one, by its clock and its signals.

    Attributes:
        plan: turn the minutes into steps.
        end: the time is up.
        save: write a checkpoint.
        leave: a signal came.
    """

    plan: bool
    end: bool
    save: bool
    leave: bool


class Run:
    """One training run, from its first step to its last, through as many processes as it takes.

    Args:
        settings: those that the run was begun with.
        progress: how far the run is; `trainer` has done as many steps.
        metrics: where the first process writes its measurements.
        began: `time.monotonic()` when this process began to work on the run.

    Attributes:
        lock: close it after the run: it holds the folder's lock.
    """

    def __init__(
        self,
        settings: TrainSettings,
        corpus: Corpus,
        progress: Progress,
        trainer: Trainer,
        metrics: Metrics,
        began: float,
    ) -> None:
        self.settings, self.corpus, self.progress = settings, corpus, progress
        self.trainer, self.group, self.metrics = trainer, trainer.group, metrics
        self.lock = ExitStack()
        self._began = began - progress.seconds
        self._schedule = RateSchedule.of(settings)
        if settings.minutes_limit is None and progress.budget is None:
            self._update(**plan_for_steps(self._most_steps or 1)._asdict())

    @property
    def seconds(self) -> float:
        """Wall-clock time spent on the run, in this process and those before it."""
        return time.monotonic() - self._began

    @property
    def chars_per_step(self) -> int:
        return self.settings.batch * self.trainer.streams.sequence

    @property
    def budget(self) -> int | None:
        """Steps of the whole run; None until they are known."""
        return self.progress.budget

    @property
    def _most_steps(self) -> int | None:
        """The largest number of steps that --steps and --characters allow; None: any number."""
        by_characters = self.settings.characters and max(1, self.settings.characters // self.chars_per_step)
        return min((steps for steps in (self.settings.steps, by_characters) if steps), default=None)

    @property
    def chars_done(self) -> int:
        return self.trainer.step * self.chars_per_step

    @property
    def chars(self) -> int | None:
        """Characters that the whole run trains on, each epoch counts; None until they are known."""
        return self.budget and self.budget * self.chars_per_step

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step to come."""
        return self._schedule.rate(self.trainer.step, self.budget)

    @property
    def is_done(self) -> bool:
        return self.budget is not None and self.trainer.step >= self.budget

    @property
    def check_due(self) -> bool:
        return self.budget is not None and (self.is_done or self.trainer.step % self.progress.check_every == 0)

    def orders(self, leave: object) -> Orders:
        """Return the decisions after a step; if `leave` is true, the run is to be left."""
        return self.group.from_first(lambda: Orders(self._can_plan, self._is_late, self._save_due, bool(leave)))

    @property
    def _can_plan(self) -> bool:
        """Whether no budget is set, and enough time or steps have passed to know how long a step takes."""
        if self.budget is not None or self.settings.minutes_limit is None:
            return False
        most = self._most_steps
        return self.seconds > CALIBRATION_SHARE * self.settings.minutes_limit * 60 or (
            most is not None and self.trainer.step >= CALIBRATION_SHARE * most
        )

    @property
    def _is_late(self) -> bool:
        """Whether the time left just suffices for the work after the last step. A resumed run keeps to its steps."""
        minutes = self.settings.minutes_limit
        return minutes is not None and not self.progress.resumed and self.seconds + self.progress.reserve > minutes * 60

    @property
    def _save_due(self) -> bool:
        return self.seconds - self.progress.seconds > SAVE_SECONDS

    def has_passed(self, share: float) -> bool:
        """Whether the run passed a share of its budget since the check before this one."""
        if self.is_done:
            return share == 1.0
        return self.trainer.step - self.progress.check_every < share * (self.budget or 0) <= self.trainer.step

    def set_arithmetic(self, arithmetic: Arithmetic) -> None:
        """Set what the steps are computed with, for as long as the run stays on this kind of device.

        With another arithmetic a resumed run would not come to the same bits.
        """
        self._update(device=self.trainer.device.type, **arithmetic._asdict())
        self.trainer.arithmetic = arithmetic

    def plan(self, step_seconds: float) -> float | None:
        """Turn the minutes into a budget of steps, and return the loss of the first check, whose duration it needs.

        Raises:
            Diverged: as `validate`.
            TooShort: no time would be left for a step.
        """
        began = time.monotonic()
        nats = self.validate()
        self._in_first(lambda: self._plan(step_seconds, time.monotonic() - began))
        return nats

    def _plan(self, step_seconds: float, check_seconds: float) -> None:
        plan = plan_for_minutes(
            self.settings.minutes_limit or 0.0,
            spent=self.seconds,
            steps_done=self.trainer.step,
            step_seconds=step_seconds,
            check_seconds=check_seconds,
            final_seconds=self.progress.reserve,
            most_steps=self._most_steps,
        )
        self._update(**plan._asdict())

    def describe_plan(self) -> str:
        """Return in words what ends the run: the minutes, or before them the characters, which presets bound, too."""
        minutes, steps = f"--minutes {self.settings.minutes_limit:g}", count_noun(self.budget or 0, "step")
        if self.budget == self._most_steps:
            return f"--characters {self.settings.characters} ends the run after {steps}, before {minutes} would"
        return f"{minutes} allows about {steps}, {self.chars:,} characters"

    def note(self, **values: float | str) -> None:
        """Add a line to the metrics."""
        if self.group.is_first:
            done = {self.settings.vocabulary: self.chars_done}
            self.metrics.add(step=self.trainer.step, seconds=round(self.seconds, 2), **done, **values)

    def say(self, text: str) -> None:
        """Write a line for people, in the first process."""
        if self.group.is_first:
            say(text)

    def validate(self) -> float | None:
        """Validate on a sample, save, and make this the end if `patience` is used up.

        Returns:
            The loss in nats; None if nothing is held out.

        Raises:
            Diverged: the loss is not finite.
        """
        nats, best = self._in_first(self._sample_loss)
        # First the best: if the process ends between the two, a resumed run makes the same check again.
        self._record_progress()
        if best:
            self._save_weights(BEST)
        if self._is_early and not header_file(self.settings.out, FIRST).exists():
            self._save_weights(FIRST)
        self._save_last()
        if nats is None:
            return None
        self.note(validation=nats)
        patience = self.settings.patience
        if patience and self.progress.worse >= patience and not self.is_done:
            self.say(f"no better validation for {patience} of them: this is the end")
            self.stop_here()
        return nats

    def _sample_loss(self) -> tuple[float | None, bool]:
        """Return the loss of a sample, and whether it is the best so far; estimate the time to reserve for the end."""
        began, held_out = time.monotonic(), self.corpus.validation
        if not len(held_out):
            self._update(reserve=RESERVE_SECONDS)
            return None, False
        with self.trainer.use_average():
            nats = carried_nats(self.trainer.model, held_out, self.corpus.start, limit=CHECK_CHARS)
        whole = evaluated_chars(len(held_out)) / evaluated_chars(len(held_out), CHECK_CHARS)
        reserve = RESERVE_SECONDS + RESERVE * (1 + whole) * (time.monotonic() - began)
        self._update(reserve=(reserve + (self.progress.reserve or reserve)) / 2)
        if not math.isfinite(nats):
            raise Diverged(f"step {self.trainer.step}: the validation loss is {nats:g}")
        best = self.progress.best is None or nats < self.progress.best
        self._update(**({"best": nats, "worse": 0} if best else {"worse": self.progress.worse + 1}))
        return nats, best

    def finish(self) -> dict[str, Any]:
        """Validate the best checkpoint on the whole held-out text, note the loss in it, and return the run's result."""
        return self._in_first(self._finish)

    def _finish(self) -> dict[str, Any]:
        if self.progress.best is None:
            self._save_weights(BEST)
        record, nats = finalise_best(self.settings, self.corpus, self.trainer.device)
        if nats is not None:
            self.note(carried=nats)
        return {
            "run": str(self.settings.out),
            "steps": self.trainer.step,
            "characters": self.chars_done,
            "seconds": round(self.seconds, 1),
            "parameters": record.parameters,
            **self.trainer.arithmetic._asdict(),
            "skipped": self.trainer.guard.statistics.skipped,
            "best_step": record.steps,
            "carried_nats": nats,
            "unit": self.corpus.vocabulary.unit,
            "bits": None if nats is None else nats / math.log(2),
        }

    def sample(self) -> str:
        """Return, and note, a text that the model writes now; no random number is taken from training."""
        with self.trainer.use_average():
            model = copy.deepcopy(self.trainer.model).cpu().eval()
        text = generate(
            model,
            self.corpus.vocabulary,
            self.corpus.start_text,
            "",
            SAMPLE_CHARS,
            temperature=SAMPLE_TEMPERATURE,
            seed=self.settings.seed,
        )
        self.note(sample=text)
        return text

    def save(self) -> None:
        """Write the last checkpoint. Every process of the group must call it."""
        self._record_progress()
        self._save_last()

    def _save_last(self) -> None:
        """Write all that a resumed run needs. Every process gives its part, the first one writes."""
        tensors = self.trainer.tensors()
        if self.group.is_first:
            save(self.settings.out, LAST, self._header, tensors)

    def _save_weights(self, name: str) -> None:
        if self.group.is_first:
            with self.trainer.use_average():
                save(self.settings.out, name, self._header, self.trainer.weights())

    @property
    def _is_early(self) -> bool:
        return self.budget is not None and self.trainer.step * EARLY <= self.budget

    @property
    def _header(self) -> Header:
        return make_header(self.settings, self.corpus, self.trainer.model, self.trainer.step, self.progress)

    def _record_progress(self) -> None:
        self._update(step=self.trainer.step, seconds=self.seconds, guard=self.trainer.guard.statistics)

    def stop_here(self) -> None:
        """Make the steps done the whole budget."""
        self._update(budget=self.trainer.step)

    def _in_first(self, work: Callable[[], T]) -> T:
        """Do some work in the first process, and share its result and the progress with all."""
        result, self.progress = self.group.from_first(lambda: (work(), self.progress))
        return result

    def _update(self, **changes: Any) -> None:
        self.progress = self.progress.model_copy(update=changes)
