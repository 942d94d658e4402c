"""The trials of a search: what each is made with, how it is trained or given up, and what all of them came to."""

import itertools
import math
import shutil
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from models.atomic_files import naming
from models.data.corpus import open_corpus
from models.experiments.folder import RESULTS, RUNS, STUDY, begin_experiment, write_json
from models.experiments.search_figure import search_figure
from models.experiments.search_settings import SearchSettings
from models.experiments.space import Dimension, dimension
from models.experiments.vary import VaryError, require_once, shown, variant
from models.progress import say
from models.reporting.style import save
from models.train import WRONG, train_model
from models.training.loss_guard import Diverged
from models.training.settings import train_command

__all__ = ["Trials"]

PICTURE = "search.png"
_COARSE = 0.5  # share of a random search's trials that look everywhere
_BEST = 0.2  # share of the trials so far around which the others look
_STARTUP, _WARM_UP = 5, 3  # trials, and validations of a trial, before any is given up
_MOST_IMPOSSIBLE = 10  # trials, one after another


class Trials:
    """A search in a folder, as one process does it.

    Raises VaryError where the space has what training cannot have, CorpusError where there is no text.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self.settings, self._impossible = settings, 0
        _require_validation(settings)
        self.space = [dimension(text) for text in settings.space]
        require_once([one.name for one in self.space], "--space")
        _require_possible(settings, self.space)
        begin_experiment(settings)
        self.study = _open_study(settings)

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that came to their end, the best first, then those that were given up."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return sorted(trials, key=lambda trial: (trial.state, math.inf if trial.value is None else trial.value))

    def run(self) -> None:
        """Tries settings until there are enough. Raises VaryError after ten impossible ones in a row, and OSError."""
        while (done := len(self.finished)) < self.settings.trials:
            trial = self._next()
            changes = {one.name: one.suggest(trial) for one in self._stage(trial.number)}
            say(f"trial {trial.number} ({done + 1} of {self.settings.trials}): {shown(changes)}")
            self._try(trial, changes)
            write_json(self.settings.out / RESULTS, self.result())

    def result(self) -> dict[str, Any]:
        """All trials, the best first, and the command that trains with the best one's settings."""
        trials = self.finished
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        best = variant(self.settings, complete[0].params, self.settings.out / "best") if complete else None
        return {"command": best and train_command(best), "trials": [_record(trial) for trial in trials]}

    def draw(self) -> Path:
        """Makes the picture of all trials so far, and tells where."""
        picture = self.settings.out / PICTURE
        save(search_figure(self.finished, self.space, self.settings.vocabulary[:-1]), picture)
        return picture

    def _next(self) -> Trial:
        # A trial's number decides what is drawn for it, so a search that is gone on with does not repeat itself.
        self.study.sampler = _sampler(self.settings, len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask()
        self.study.sampler = _sampler(self.settings, trial.number)
        return trial

    def _stage(self, number: int) -> Sequence[Dimension]:
        """The space, or of a random search's second half what lies around the best so far."""
        complete = [trial for trial in self.finished if trial.state is TrialState.COMPLETE]
        if self.settings.sampler == "tpe" or number < self.settings.trials * _COARSE or not complete:
            return self.space
        best = complete[: math.ceil(len(complete) * _BEST)]
        return [one.narrowed([trial.params[one.name] for trial in best]) for one in self.space]

    def _try(self, trial: Trial, changes: dict[str, Any]) -> None:
        """Trains, or gives it up. A trial that ends neither well nor badly, as by Ctrl-C, does not count."""
        out, began = self.settings.out / RUNS / f"trial-{trial.number:04}", time.monotonic()
        watch = _Watch(trial, self.settings.prune)
        shutil.rmtree(out, ignore_errors=True)
        try:
            with naming(out):
                nats = train_model(variant(self.settings, changes, out), watch)["carried_nats"]
        except (Diverged, VaryError, *WRONG) as error:
            self.study.tell(trial, state=TrialState.PRUNED)
            say(f"trial {trial.number} is given up: {error}")
            if not isinstance(error, Diverged):
                self._count_impossible(error)
            return
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        self._impossible = 0
        if watch.gave_up:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, nats)
        _forget_how_to_go_on(out)
        self._tell(trial.number, "was given up" if watch.gave_up else f"came to {nats:.4f} nats", began)

    def _count_impossible(self, error: Exception) -> None:
        """One is the space's fault, many in a row are everything's, as of a text that is gone: then VaryError."""
        self._impossible += 1
        if self._impossible == _MOST_IMPOSSIBLE:
            raise VaryError(f"{_MOST_IMPOSSIBLE} trials in a row were impossible, the last one: {error}") from error

    def _tell(self, number: int, how: str, began: float) -> None:
        best = self.finished[0]
        say(
            f"trial {number} {how} after {time.monotonic() - began:.0f} s; "
            f"the best so far is trial {best.number} with {best.value:.4f}"
        )


class _Watch:
    """Hands a trial's validations to the study, and stops the training of one that is not worth it."""

    def __init__(self, trial: Trial, prune: bool) -> None:
        self.trial, self.prune, self.gave_up = trial, prune, False
        self._checks = count(1)

    def __call__(self, step: int, nats: float) -> bool:
        # By the validation's number: trials of equal time differ in their steps.
        self.trial.report(nats, next(self._checks))
        self.gave_up = self.prune and self.trial.should_prune()
        return self.gave_up


def _require_validation(settings: SearchSettings) -> None:
    corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split)
    if not len(corpus.validation):
        raise VaryError(f"--split {settings.split} leaves no validation part to search by: 0.9,0.1 would do")


def _require_possible(settings: SearchSettings, space: Sequence[Dimension]) -> None:
    """Raises VaryError if no ends of the dimensions go together."""
    reason = None
    for values in itertools.product(*(one.ends for one in space)):
        changes = {one.name: value for one, value in zip(space, values, strict=True)}
        try:
            variant(settings, changes, settings.out)
        except VaryError as error:
            reason = error
        else:
            return
    if reason:
        raise reason


def _open_study(settings: SearchSettings) -> Study:
    file = (settings.out / STUDY).resolve()
    # Other processes may hold the file for a moment.
    storage = RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})
    pruner = MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARM_UP)
    return optuna.create_study(study_name="search", storage=storage, pruner=pruner, load_if_exists=True)


def _sampler(settings: SearchSettings, number: int) -> BaseSampler:
    seed = (settings.seed * 1_000_003 + number) % 2**32
    return RandomSampler(seed=seed) if settings.sampler == "random" else TPESampler(seed=seed)


def _forget_how_to_go_on(run: Path) -> None:
    """A trial's optimiser and state are half of its files, and nobody goes on with it."""
    for file in run.glob("last.*"):
        file.unlink()


def _record(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": "complete" if trial.state is TrialState.COMPLETE else "given up",
        "validation_nats": trial.value,
        "validations": len(trial.intermediate_values),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "settings": trial.params,
    }
