"""A run: how far it is, and what it leaves in its folder."""

import math
import time
from typing import Any

import numpy as np

from bundle.manifest import TrainingRecord
from models.checkpoint import BEST, LAST, MODEL, Header, Progress, load, read, save
from models.corpus import Corpus
from models.evaluate import carried_nats, evaluated_chars
from models.generate import generate
from models.metrics import Metrics
from models.model import CharLM, ModelConfig
from models.schedule import CALIBRATION_SHARE, learning_rate, plan_for_minutes, plan_for_steps
from models.settings import DEFAULT_MINUTES, TrainSettings
from models.streams import Streams, require_length
from models.trainer import Arithmetic, Diverged, Trainer

__all__ = ["Run"]

CHECK_CHARS = 256  # of each of the held-out text's parts: a check reads a sample
SAVE_SECONDS = 60  # between two checkpoints: no more than that is lost when the process dies
SAMPLE_CHARS = 300
SAMPLE_TEMPERATURE = 0.8
# Kept free for a check and the final validation, should they take longer than they did; and for what no clock sees:
# the last text, the files, and Python's start before the clock's.
_RESERVE = 1.25
_RESERVE_SECONDS = 2.5


class Run:
    """One training run, from its first step to its last, through as many processes as it takes.

    Args:
        settings: those that the run was begun with.
        progress: how far it is.
        began: `time.monotonic()` when this process's share of its time began.
    """

    def __init__(self, settings: TrainSettings, corpus: Corpus, progress: Progress, began: float) -> None:
        self.settings, self.corpus, self.progress = settings, corpus, progress
        self.metrics = Metrics(settings.out)
        self._began = began - progress.seconds
        require_length(corpus.split, settings.batch, settings.sequence)
        ids = corpus.vocabulary.encode(corpus.text).astype(np.min_scalar_type(len(corpus.vocabulary)))
        self._held_out = ids[corpus.split :]
        self._start = int(corpus.vocabulary.encode(corpus.start_text)[0])
        self.trainer = Trainer(
            CharLM(_model_config(settings, len(corpus.vocabulary))),
            Streams(ids[: corpus.split], settings.batch, settings.sequence),
            batch=settings.batch,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
        )
        if settings.steps is not None:
            self._update(**plan_for_steps(settings.steps)._asdict())

    @property
    def seconds(self) -> float:
        """Wall clock spent on the run, in this process and those before."""
        return time.monotonic() - self._began

    @property
    def minutes(self) -> float | None:
        """The time given; None where steps were."""
        return self.settings.minutes or (None if self.settings.steps else DEFAULT_MINUTES)

    @property
    def chars_per_step(self) -> int:
        return self.settings.batch * self.settings.sequence

    @property
    def budget(self) -> int | None:
        """Steps of the whole run; None until they are known."""
        return self.progress.budget

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
        return learning_rate(self.trainer.step, self.settings.learning_rate, self.settings.warmup, self.budget)

    @property
    def done(self) -> bool:
        return self.budget is not None and self.trainer.step >= self.budget

    @property
    def late(self) -> bool:
        """Whether the time left just suffices for what comes after the last step."""
        return self.minutes is not None and self.seconds + self.progress.reserve > self.minutes * 60

    @property
    def plannable(self) -> bool:
        """Whether enough of the time has gone to know what a step takes, and no budget is set."""
        return self.budget is None and self.seconds > CALIBRATION_SHARE * self.minutes * 60

    @property
    def check_due(self) -> bool:
        return self.budget is not None and (self.done or self.trainer.step % self.progress.check_every == 0)

    @property
    def save_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return self.seconds - self.progress.seconds > SAVE_SECONDS

    def passed(self, share: float) -> bool:
        """Whether the run came past a share of its budget since the check before this one."""
        if self.done:
            return share == 1.0
        return self.trainer.step - self.progress.check_every < share * self.budget <= self.trainer.step

    def set_arithmetic(self, arithmetic: Arithmetic) -> None:
        """Settles, for the whole run, what its steps are computed with: another would not go on to the bit."""
        self._update(**arithmetic._asdict())
        self.trainer.arithmetic = arithmetic

    def plan(self, step_seconds: float) -> None:
        """Turns the minutes into steps. Makes the first check, whose time is part of the plan. Raises TooShort."""
        began = time.monotonic()
        self.check()
        plan = plan_for_minutes(
            self.minutes,
            spent=self.seconds,
            steps_done=self.trainer.step,
            step_seconds=step_seconds,
            check_seconds=time.monotonic() - began,
            final_seconds=self.progress.reserve,
        )
        self._update(**plan._asdict())

    def note(self, **values: float | str) -> None:
        """Adds a line to the metrics."""
        self.metrics.add(step=self.trainer.step, seconds=round(self.seconds, 2), **values)

    def check(self) -> float:
        """Validates on a sample of the held-out text, and saves. Returns the loss in nats. Raises Diverged."""
        began = time.monotonic()
        nats = carried_nats(self.trainer.model, self._held_out, self._start, limit=CHECK_CHARS)
        whole = evaluated_chars(len(self._held_out)) / evaluated_chars(len(self._held_out), CHECK_CHARS)
        reserve = _RESERVE_SECONDS + _RESERVE * (1 + whole) * (time.monotonic() - began)
        self._update(reserve=(reserve + (self.progress.reserve or reserve)) / 2)
        if not math.isfinite(nats):
            raise Diverged(f"step {self.trainer.step}: the validation loss is {nats:g}")
        if self.progress.best is None or nats < self.progress.best:
            self._update(best=nats)
            self._save(BEST, {"carried_sample": nats})
        self.save()
        self.note(validation=nats)
        return nats

    def finish(self) -> dict[str, Any]:
        """Validates the best checkpoint on all of the held-out text, notes it there, and says what the run came to."""
        header, tensors = read(self.settings.out)
        trained = load(self.settings.out)
        nats = carried_nats(trained.model, self._held_out, self._start)
        record = self._record({"carried": nats}).model_copy(update={"steps": header.training.steps})
        save(self.settings.out, BEST, header.model_copy(update={"training": record}), tensors)
        self.note(carried=nats)
        return {
            "run": str(self.settings.out),
            "steps": self.trainer.step,
            "characters": self.chars_done,
            "seconds": round(self.seconds, 1),
            "parameters": record.parameters,
            **self.trainer.arithmetic._asdict(),
            "carried_nats": nats,
            "bits_per_character": nats / math.log(2),
        }

    def sample(self) -> str:
        """What the model writes by now; takes no random number from training."""
        model = self.trainer.model.eval()
        text = generate(
            model,
            self.corpus.vocabulary,
            self.corpus.start_text,
            "",
            SAMPLE_CHARS,
            temperature=SAMPLE_TEMPERATURE,
            seed=self.settings.seed,
        )
        model.train()
        self.note(sample=text)
        return text

    def save(self) -> None:
        """The last checkpoint: all that going on needs."""
        self._update(step=self.trainer.step, seconds=self.seconds)
        self._save(LAST, {} if self.progress.best is None else {"carried_sample": self.progress.best})

    def stop_here(self) -> None:
        """The time is up: what was done is the whole run."""
        self._update(budget=self.trainer.step)

    def _update(self, **changes: Any) -> None:
        self.progress = self.progress.model_copy(update=changes)

    def _save(self, name: str, nats: dict[str, float]) -> None:
        tensors = self.trainer.tensors()
        if name == BEST:
            tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(MODEL)}
        header = Header(
            model=self.trainer.model.config,
            symbols=self.corpus.vocabulary.symbols,
            start_text=self.corpus.start_text,
            training=self._record(nats),
            settings=self.settings,
            progress=self.progress,
        )
        save(self.settings.out, name, header, tensors)

    def _record(self, nats: dict[str, float]) -> TrainingRecord:
        return TrainingRecord(
            data=self.corpus.name,
            data_sha256=self.corpus.sha256,
            parameters=sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            steps=self.trainer.step,
            seconds=self.seconds,
            validation_nats=nats,
        )


def _model_config(settings: TrainSettings, vocab: int) -> ModelConfig:
    sizes = settings.model_dump(include={"cell", "activation", "layers", "hidden", "embedding", "dropout"})
    return ModelConfig(vocab=vocab, **sizes)
