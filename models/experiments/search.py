"""`charstream search`: looks for the training settings with the lowest validation loss."""

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bundle.vocabulary import singular
from charstream.settings import fail, parse
from models.atomic_files import name_in_errors, write_json
from models.data.corpus import open_corpus
from models.experiments.folder import (
    RESULTS,
    RUNS,
    STUDY,
    ExperimentError,
    begin_experiment,
    open_experiment,
    stoppable,
)
from models.experiments.search_figure import search_figure
from models.experiments.settings import SearchSettings
from models.experiments.space import Dimension, dimension, require_possible
from models.experiments.vary import VaryError, format_changes, require_once, variant
from models.reporting.style import save
from models.run_folder import FIRST, LAST
from models.terminal import say, table
from models.train import USAGE_ERRORS, train_model
from models.training.loss_guard import Diverged
from models.training.settings import train_command

__all__ = ["Trials", "main"]

COMMAND = "charstream search"
PICTURE = "search.png"
_SHOWN = 10  # trials in the table
_COARSE = 0.5  # share of a random search's trials that are drawn from the whole space
_BEST = 0.2  # share of the trials so far around which the others are drawn
_STARTUP, _WARM_UP = 5, 3  # trials, and validations of a trial, before any is given up
_MOST_IMPOSSIBLE = 10  # trials, one after another


def main(argv: Sequence[str] | None = None) -> int:
    """Search. Exit code 0: done; 1: it failed; 2: wrong usage; 130, 143: stopped, --resume goes on."""
    given = parse(SearchSettings, argv, command=COMMAND)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with stoppable(COMMAND, given.out):
            settings = open_experiment(given, may_change=frozenset({"trials"}))
            trials = Trials(settings)
            trials.run()
    except (*USAGE_ERRORS, ExperimentError, VaryError) as error:
        fail(COMMAND, str(error))
    except (StorageInternalError, SQLAlchemyError) as error:
        fail(COMMAND, f"{given.out / STUDY}: {_database_reason(error)}", code=1)
    say(f"{COMMAND}: {trials.draw()}")
    result = trials.result()
    print(json.dumps(result) if settings.json_ else _as_text(result))
    return 0


def _as_text(result: dict[str, Any]) -> str:
    trials = result["trials"][:_SHOWN]
    names = list(trials[0]["settings"])
    head = ["trial", "nats", "bits", "seconds", *(name.replace("_", " ") for name in names), ""]
    rows = [
        [
            str(trial["trial"]),
            *_losses(trial["validation_nats"]),
            f"{trial['seconds']:.0f}",
            *(_short(trial["settings"][name]) for name in names),
            trial["state"] if trial["state"] != "complete" else "",
        ]
        for trial in trials
    ]
    command = result["command"] or "every trial was given up: none is best"
    return f"{table(head, rows)}\n\n{command}"


def _database_reason(error: BaseException) -> str:
    """Return SQLite's own message, such as "database or disk is full"."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return str(getattr(cause, "orig", cause))


def _losses(nats: float | None) -> tuple[str, str]:
    return ("-", "-") if nats is None else (f"{nats:.4f}", f"{nats / math.log(2):.4f}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Trials:
    """The trials of a search in a folder, of which this process makes some.

    Raises:
        VaryError: the space has values that are impossible.
        CorpusError: there is no text.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self.settings, self._impossible = settings, 0
        _require_validation(settings)
        self.space = [dimension(text) for text in settings.space]
        require_once([one.name for one in self.space], "--space")
        require_possible(settings, self.space)
        begin_experiment(settings)
        self.study = _open_study(settings)

    @property
    def ended_trials(self) -> list[FrozenTrial]:
        """The trials that were trained to the end, the best first, then those that were given up."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return sorted(trials, key=lambda trial: (trial.state, math.inf if trial.value is None else trial.value))

    def run(self) -> None:
        """Try settings until there are enough. Raises VaryError after ten impossible ones in a row, and OSError."""
        while (done := len(self.ended_trials)) < self.settings.trials:
            trial = self._next()
            changes = {one.name: one.suggest(trial) for one in self._stage(trial.number)}
            say(f"trial {trial.number} ({done + 1} of {self.settings.trials}): {format_changes(changes)}")
            self._try(trial, changes)
            write_json(self.settings.out / RESULTS, self.result())

    def result(self) -> dict[str, Any]:
        """Return all trials, the best first, and the command that trains with the settings of the best."""
        trials = self.ended_trials
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        best = variant(self.settings, complete[0].params, self.settings.out / "best") if complete else None
        return {"command": best and train_command(best), "trials": [_record(trial) for trial in trials]}

    def draw(self) -> Path:
        """Draw all trials so far, and return the picture's path."""
        picture = self.settings.out / PICTURE
        save(search_figure(self.ended_trials, self.space, singular(self.settings.vocabulary)), picture)
        return picture

    def _next(self) -> Trial:
        # A trial's number seeds its values, so that a resumed search does not repeat itself.
        self.study.sampler = _sampler(self.settings, len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask()
        self.study.sampler = _sampler(self.settings, trial.number)
        return trial

    def _stage(self, number: int) -> Sequence[Dimension]:
        """Return the space, or in the second half of a random search the part around the best trials so far."""
        complete = [trial for trial in self.ended_trials if trial.state is TrialState.COMPLETE]
        if self.settings.sampler == "tpe" or number < self.settings.trials * _COARSE or not complete:
            return self.space
        best = complete[: math.ceil(len(complete) * _BEST)]
        return [one.narrow([trial.params[one.name] for trial in best]) for one in self.space]

    def _try(self, trial: Trial, changes: dict[str, Any]) -> None:
        """Train with the changes, or give the trial up. One that Ctrl-C or an unknown error ends does not count."""
        out, began = self.settings.out / RUNS / f"trial-{trial.number:04}", time.monotonic()
        watch = _Watch(trial, self.settings.prune)
        shutil.rmtree(out, ignore_errors=True)
        try:
            with name_in_errors(out):
                nats = train_model(variant(self.settings, changes, out), watch)["carried_nats"]
        except (Diverged, VaryError, *USAGE_ERRORS) as error:
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
        _delete_last_checkpoint(out)
        self._report(trial.number, "was given up" if watch.gave_up else f"came to {nats:.4f} nats", began)

    def _count_impossible(self, error: Exception) -> None:
        """Raise VaryError after many impossible trials in a row: not the space is wrong, but perhaps the text gone."""
        self._impossible += 1
        if self._impossible == _MOST_IMPOSSIBLE:
            raise VaryError(f"{_MOST_IMPOSSIBLE} trials in a row were impossible, the last one: {error}") from error

    def _report(self, number: int, how: str, began: float) -> None:
        best = self.ended_trials[0]
        say(
            f"trial {number} {how} after {time.monotonic() - began:.0f} s; "
            f"the best so far is trial {best.number} with {best.value:.4f}"
        )


class _Watch:
    """Reports a trial's validations to the study, and stops a trial that does worse than most."""

    def __init__(self, trial: Trial, prune: bool) -> None:
        self.trial, self.prune, self.gave_up = trial, prune, False
        self._checks = count(1)

    def __call__(self, step: int, nats: float) -> bool:
        # Trials are compared by the validation's number: with --minutes their steps differ.
        self.trial.report(nats, next(self._checks))
        self.gave_up = self.prune and self.trial.should_prune()
        return self.gave_up


def _require_validation(settings: SearchSettings) -> None:
    corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=settings.text_form)
    if not len(corpus.validation):
        raise VaryError(f"--split {settings.split} leaves no validation part to search by: 0.9,0.1 would do")


def _open_study(settings: SearchSettings) -> Study:
    file = (settings.out / STUDY).resolve()
    # Other processes may lock the file for a moment.
    storage = RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})
    pruner = MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARM_UP)
    return optuna.create_study(study_name="search", storage=storage, pruner=pruner, load_if_exists=True)


def _sampler(settings: SearchSettings, number: int) -> BaseSampler:
    seed = (settings.seed * 1_000_003 + number) % 2**32
    return RandomSampler(seed=seed) if settings.sampler == "random" else TPESampler(seed=seed)


def _delete_last_checkpoint(run: Path) -> None:
    """Delete a trial's optimiser and state, which are half of its files, and its first weights: no trial is resumed."""
    for file in (*run.glob(f"{LAST}.*"), *run.glob(f"{FIRST}.*")):
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


if __name__ == "__main__":
    sys.exit(main())
