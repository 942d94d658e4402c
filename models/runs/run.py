"""A run: how far it is, and what it leaves in its folder."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

from models.data.corpus import Corpus
from models.evaluation.evaluate import carried_nats, evaluated_chars
from models.network.generate import generate
from models.progress import say
from models.runs.metrics import Metrics
from models.runs.run_checkpoints import Keeping
from models.training.checkpoint import Progress
from models.training.loss_guard import Diverged
from models.training.precision import Arithmetic
from models.training.schedule import CALIBRATION_SHARE, RateSchedule, plan_for_minutes, plan_for_steps
from models.training.settings import TrainSettings
from models.training.trainer import Trainer

__all__ = ["Orders", "Run"]

T = TypeVar("T")

CHECK_CHARS = 256  # of each of the held-out text's parts: a check reads a sample
SAVE_SECONDS = 60  # between two checkpoints: no more than that is lost when the process dies
SAMPLE_CHARS = 300
SAMPLE_TEMPERATURE = 0.8
# Kept free for a check and the final validation, should they take longer than they did; and for what no clock sees:
# the last text, the files, the report, and Python's start before the clock's.
_RESERVE = 1.25
_RESERVE_SECONDS = 4.0


class Orders(NamedTuple):
    """What the first process decides between two steps, by its clock and its signals, for all of them."""

    plan: bool
    end: bool
    save: bool
    leave: bool


class Run:
    """One training run, from its first step to its last, through as many processes as it takes.

    Args:
        settings: those that the run was begun with.
        progress: how far it is.
        trainer: as far.
        metrics: where the first process writes what was measured.
        began: `time.monotonic()` when this process's share of its time began.

    Attributes:
        held: what is to be closed at its end: the folder is its alone.
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
        self.keeping = Keeping(settings, corpus, trainer)
        self.held = ExitStack()
        self._began = began - progress.seconds
        self._course = RateSchedule(
            settings.schedule, settings.learning_rate, settings.warmup, settings.decay, settings.decay_steps
        )
        if settings.limit is None and progress.budget is None:
            self._update(**plan_for_steps(self._most_steps or 1)._asdict())

    @property
    def seconds(self) -> float:
        """Wall clock spent on the run, in this process and those before."""
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
        """What --steps and --characters allow; None: any number."""
        by_characters = self.settings.characters and max(1, self.settings.characters // self.chars_per_step)
        return min((steps for steps in (self.settings.steps, by_characters) if steps), default=None)

    @property
    def chars_done(self) -> int:
        return self.trainer.step * self.chars_per_step

    @property
    def chars(self) -> int | None:
        """Characters that the whole run trains on, those read again counted again; None until known."""
        return self.budget and self.budget * self.chars_per_step

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return self._course.rate(self.trainer.step, self.budget)

    @property
    def done(self) -> bool:
        return self.budget is not None and self.trainer.step >= self.budget

    @property
    def check_due(self) -> bool:
        return self.budget is not None and (self.done or self.trainer.step % self.progress.check_every == 0)

    def orders(self, leave: object) -> Orders:
        """What is to be done after a step; to leave if `leave` is true."""
        return self.group.from_first(lambda: Orders(self._plannable, self._late, self._save_due, bool(leave)))

    @property
    def _plannable(self) -> bool:
        """Whether enough of the time, or of the steps, has gone to know what a step takes, and no budget is set."""
        if self.budget is not None or self.settings.limit is None:
            return False
        most = self._most_steps
        return self.seconds > CALIBRATION_SHARE * self.settings.limit * 60 or (
            most is not None and self.trainer.step >= CALIBRATION_SHARE * most
        )

    @property
    def _late(self) -> bool:
        """Whether the time left just suffices for what comes after the last step. A resumed run keeps to its steps."""
        limit = self.settings.limit
        return limit is not None and not self.progress.resumed and self.seconds + self.progress.reserve > limit * 60

    @property
    def _save_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return self.seconds - self.progress.seconds > SAVE_SECONDS

    def passed(self, share: float) -> bool:
        """Whether the run came past a share of its budget since the check before this one."""
        if self.done:
            return share == 1.0
        return self.trainer.step - self.progress.check_every < share * (self.budget or 0) <= self.trainer.step

    def set_arithmetic(self, arithmetic: Arithmetic) -> None:
        """Settles, as long as the run stays on this kind of device, what its steps are computed with.

        Another would not go on to the bit.
        """
        self._update(device=self.trainer.device.type, **arithmetic._asdict())
        self.trainer.arithmetic = arithmetic

    def plan(self, step_seconds: float) -> float | None:
        """Turns the minutes into steps. Makes and returns the first check, whose time is part of the plan.

        Raises:
            Diverged: as `check`.
            TooShort: no step would be left.
        """
        began = time.monotonic()
        nats = self.check()
        self._in_first(lambda: self._plan(step_seconds, time.monotonic() - began))
        return nats

    def _plan(self, step_seconds: float, check_seconds: float) -> None:
        plan = plan_for_minutes(
            self.settings.limit or 0.0,
            spent=self.seconds,
            steps_done=self.trainer.step,
            step_seconds=step_seconds,
            check_seconds=check_seconds,
            final_seconds=self.progress.reserve,
            most_steps=self._most_steps,
        )
        self._update(**plan._asdict())

    def note(self, **values: float | str) -> None:
        """Adds a line to the metrics."""
        if self.group.is_first:
            done = {self.settings.vocabulary: self.chars_done}
            self.metrics.add(step=self.trainer.step, seconds=round(self.seconds, 2), **done, **values)

    def say(self, text: str) -> None:
        """Tells people."""
        if self.group.is_first:
            say(text)

    def check(self) -> float | None:
        """Validates on a sample of the held-out text, and saves.

        Returns:
            The loss in nats; None if nothing is held out.

        Raises:
            Diverged: it is no number.
        """
        nats, best = self._in_first(self._validate)
        # First the best: should the process end between the two, the same check is made again from the last one.
        self._take_down()
        if best:
            self.keeping.best(self.progress)
        self.keeping.last(self.progress)
        if nats is None:
            return None
        self.note(validation=nats)
        patience = self.settings.patience
        if patience and self.progress.worse >= patience and not self.done:
            self.say(f"no better validation for {patience} of them: this is the end")
            self.stop_here()
        return nats

    def _validate(self) -> tuple[float | None, bool]:
        """The loss, and whether it is the best so far."""
        began, held_out = time.monotonic(), self.corpus.validation
        if not len(held_out):
            self._update(reserve=_RESERVE_SECONDS)
            return None, False
        with self.trainer.use_average():
            nats = carried_nats(self.trainer.model, held_out, self.corpus.start, limit=CHECK_CHARS)
        whole = evaluated_chars(len(held_out)) / evaluated_chars(len(held_out), CHECK_CHARS)
        reserve = _RESERVE_SECONDS + _RESERVE * (1 + whole) * (time.monotonic() - began)
        self._update(reserve=(reserve + (self.progress.reserve or reserve)) / 2)
        if not math.isfinite(nats):
            raise Diverged(f"step {self.trainer.step}: the validation loss is {nats:g}")
        best = self.progress.best is None or nats < self.progress.best
        self._update(**({"best": nats, "worse": 0} if best else {"worse": self.progress.worse + 1}))
        return nats, best

    def finish(self) -> dict[str, Any]:
        """Validates the best checkpoint on all of the held-out text, notes it there, and says what the run came to."""
        return self._in_first(self._finish)

    def _finish(self) -> dict[str, Any]:
        if self.progress.best is None:
            self.keeping.best(self.progress)
        record, nats = self.keeping.judged()
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
        """What the model writes by now; takes no random number from training."""
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
        """The last checkpoint: all that going on needs. A matter of the whole group."""
        self._take_down()
        self.keeping.last(self.progress)

    def _take_down(self) -> None:
        """How far the run is."""
        self._update(step=self.trainer.step, seconds=self.seconds, guard=self.trainer.guard.statistics)

    def stop_here(self) -> None:
        """What was done is the whole run."""
        self._update(budget=self.trainer.step)

    def _in_first(self, work: Callable[[], T]) -> T:
        """Does something in the first process; all of them know what came of it, and how far the run is."""
        result, self.progress = self.group.from_first(lambda: (work(), self.progress))
        return result

    def _update(self, **changes: Any) -> None:
        self.progress = self.progress.model_copy(update=changes)
