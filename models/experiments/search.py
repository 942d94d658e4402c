"""`charstream search`: looks for the training settings with the lowest validation loss."""

import json
import math
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from bundle.vocabulary import singular
from charstream.settings import fail, parse
from models.atomic_files import name_in_errors, write_json
from models.data.corpus import open_corpus
from models.experiments.folder import (
    RESULTS,
    RUNS,
    ExperimentError,
    begin_experiment,
    open_experiment,
    stoppable,
)
from models.experiments.search_figure import search_figure
from models.experiments.settings import SearchSettings
from models.experiments.space import Dimension, dimension, require_possible
from models.experiments.storage import DATABASE_ERRORS, SharedTrials, describe_storage, open_study
from models.experiments.vary import VaryError, format_changes, require_once, variant
from models.reporting.style import save
from models.run_folder import FIRST, LAST
from models.runs.teachers import read_ahead
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
_MOST_IMPOSSIBLE = 10  # trials, one after another
_LOOK_SECONDS = 1.0  # between two looks for what other processes did


def main(argv: Sequence[str] | None = None) -> int:
    """Search. Exit code 0: done; 1: it failed; 2: wrong usage; 130, 143: stopped, --resume goes on."""
    given = parse(SearchSettings, argv, command=COMMAND)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with stoppable(COMMAND, given.out):
            settings = open_experiment(given, may_change=frozenset({"trials"}))
            trials = Trials(settings)
            with closing(trials):
                trials.run()
                result = trials.result()
                say(f"{COMMAND}: {trials.draw()}")
    except (*USAGE_ERRORS, ExperimentError, VaryError) as error:
        fail(COMMAND, str(error))
    except DATABASE_ERRORS as error:
        fail(COMMAND, f"{describe_storage(given)}: {_database_reason(error)}", code=1)
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
    """Return the database's own message, such as "database or disk is full"."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return " ".join(str(getattr(cause, "orig", cause)).split())


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
        text = _require_validation(settings)
        self.space = [dimension(text) for text in settings.space]
        require_once([one.name for one in self.space], "--space")
        require_possible(settings, self.space)
        begin_experiment(settings)
        self.study, self.shared = open_study(settings, text)

    @property
    def ended_trials(self) -> list[FrozenTrial]:
        """The trials that were trained to the end, the best first, then those that were given up."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return sorted(trials, key=lambda trial: (trial.state, math.inf if trial.value is None else trial.value))

    def run(self) -> None:
        """Try settings until there are enough. Raises VaryError after ten impossible ones in a row, and OSError."""
        while (done := len(self.ended_trials)) < self.settings.trials:
            trial = self._next_shared(self.shared) if self.shared else self._next()
            if trial is None:
                time.sleep(_LOOK_SECONDS)
                continue
            changes = {one.name: one.suggest(trial) for one in self._stage(trial.number)}
            say(f"trial {trial.number} ({done + 1} of {self.settings.trials}): {format_changes(changes)}")
            with self.shared.show_life(trial) if self.shared else nullcontext():
                self._try(trial, changes)
            write_json(self.settings.out / RESULTS, self.result())
        if self.shared:  # others ended after the last one of this process
            write_json(self.settings.out / RESULTS, self.result())

    def close(self) -> None:
        """Let go of a database that is shared."""
        if self.shared:
            self.shared.close()

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
        with warnings.catch_warnings():
            # It wants heartbeats to be its own loop's: ours are in models/experiments/storage.py.
            warnings.filterwarnings("ignore", "Heartbeat of storage")
            trial = self.study.ask()
        self.study.sampler = _sampler(self.settings, trial.number)
        return trial

    def _next_shared(self, shared: SharedTrials) -> Trial | None:
        """Return a trial; None while others run all that are wanted: if one of them dies, it is made here."""
        shared.fail_stale()
        if not shared.has_room():
            return None
        trial = self._next()
        if shared.has_room(before=trial.number):
            return trial
        self.study.tell(trial, state=TrialState.FAIL)  # another process was faster
        return None

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
                settings = variant(self.settings, changes, out)
                read_ahead(settings)
                nats = train_model(settings, watch)["carried_nats"]
        except UpdateFinishedTrialError:
            self._say_lost(trial)
            return
        except (Diverged, VaryError, *USAGE_ERRORS) as error:
            self._tell(trial, state=TrialState.PRUNED)
            say(f"trial {trial.number} is given up: {error}")
            if not isinstance(error, Diverged):
                self._count_impossible(error)
            return
        except BaseException:
            with suppress(*DATABASE_ERRORS):
                self._tell(trial, state=TrialState.FAIL)
            raise
        self._impossible = 0
        _delete_last_checkpoint(out)
        ended = self._tell(trial, state=TrialState.PRUNED) if watch.gave_up else self._tell(trial, nats)
        if ended.state is TrialState.FAIL:
            self._say_lost(trial)
            return
        self._report(trial.number, "was given up" if watch.gave_up else f"came to {nats:.4f} nats", began)

    def _tell(self, trial: Trial, nats: float | None = None, state: TrialState | None = None) -> FrozenTrial:
        """End the trial, unless another process took this one for dead and did; return it as it ended."""
        return self.study.tell(trial, nats, state=state, skip_if_finished=self.shared is not None)

    def _say_lost(self, trial: Trial) -> None:
        say(f"trial {trial.number} does not count: another process took this one for dead (--stale-seconds)")

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


def _require_validation(settings: SearchSettings) -> str:
    """Return the text's sha256. Raises VaryError if there is nothing to search by."""
    corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=settings.text_form)
    if not len(corpus.validation):
        raise VaryError(f"--split {settings.split} leaves no validation part to search by: 0.9,0.1 would do")
    return corpus.sha256


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
