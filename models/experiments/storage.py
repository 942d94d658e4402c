"""Where the trials of a search are kept: the folder's database, or one that processes on several machines share."""

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from threading import Event, Thread

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from models.experiments.folder import STUDY
from models.experiments.settings import SearchSettings
from models.experiments.vary import VaryError

__all__ = ["DATABASE_ERRORS", "SharedTrials", "describe_storage", "open_study"]

DATABASE_ERRORS = (StorageInternalError, SQLAlchemyError)
_STARTUP, _WARM_UP = 5, 3  # trials, and validations of a trial, before any is given up
_TRIES = 5  # of several processes that make the tables at once, all but one fail
_BEATS = 4  # signs of life in the time after which a process is taken for dead
# What may differ between the processes of one search; the text is known by its sha256.
_OWN = {"data", "out", "resume", "overwrite", "json_", "storage", "study", "stale_seconds", "trials", "device"}
_SETTINGS, _LIVES = "settings", "lives"  # attributes of the study, and of a trial


def describe_storage(settings: SearchSettings) -> str:
    """Return the database's name for messages, without a password."""
    if settings.storage:
        return make_url(settings.storage).render_as_string(hide_password=True)
    return str(settings.out / STUDY)


def open_study(settings: SearchSettings, text: str) -> "tuple[Study, SharedTrials | None]":
    """Return the study, begun if it was not there, and what it takes to share it by --storage.

    Args:
        text: sha256 of the text.

    Raises:
        VaryError: the shared database has a search of this name with other settings.
    """
    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            storage = _open_storage(settings)
            break
        except DATABASE_ERRORS:
            if last or not settings.storage:
                raise
            time.sleep(0.2)
    pruner = MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARM_UP)
    name = settings.study if settings.storage else "search"
    study = optuna.create_study(study_name=name, storage=storage, pruner=pruner, load_if_exists=True)
    if not settings.storage:
        return study, None
    shared = SharedTrials(study, storage, settings)
    try:
        _require_same(study, settings, text)
    except VaryError:
        shared.close()
        raise
    return study, shared


def _open_storage(settings: SearchSettings) -> RDBStorage:
    if not settings.storage:
        file = (settings.out / STUDY).resolve()
        # Other processes may lock the file for a moment.
        return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})
    url = make_url(settings.storage).set(drivername="postgresql+psycopg")
    stale = settings.stale_seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are, in Optuna
        return RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=max(1, stale // _BEATS),
            grace_period=stale,
        )


def _require_same(study: Study, settings: SearchSettings, text: str) -> None:
    ours = {"text": text, **json.loads(settings.model_dump_json(exclude=_OWN))}
    theirs = study.user_attrs.get(_SETTINGS)
    if theirs is None:
        study.set_user_attr(_SETTINGS, ours)
        return
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            flag = name.replace("_", "-")
            raise VaryError(
                f"the search {settings.study} in the database was begun with {flag} {theirs.get(name)}, not "
                f"{ours.get(name)}: take the same settings, or another --study"
            )


class SharedTrials:
    """The trials of all processes that share a database: each sees which of the others' still run."""

    def __init__(self, study: Study, storage: RDBStorage, settings: SearchSettings) -> None:
        self._study, self._storage = study, storage
        self._wanted, self._stale_seconds = settings.trials, settings.stale_seconds

    def fail_stale(self) -> None:
        """Fail the trials of processes that showed no sign of life for too long."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            # Its process died before it could show any: nobody else would notice.
            if _LIVES not in trial.user_attrs and _age(trial) > 2 * self._stale_seconds:
                with suppress(UpdateFinishedTrialError):  # another process found it at the same time
                    self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def close(self) -> None:
        """Close the connections to the database."""
        self._storage.engine.dispose()

    def has_room(self, before: int | None = None) -> bool:
        """Return whether more trials are wanted than have ended or run; or, of those with a number below `before`."""
        lives = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING]
        found = self._study.get_trials(deepcopy=False, states=lives)
        return sum(before is None or one.number < before for one in found) < self._wanted

    @contextmanager
    def show_life(self, trial: Trial) -> Iterator[None]:
        """Show the other processes that this one lives, until the block ends."""
        ended, trial_id = Event(), trial._trial_id

        def beat() -> None:
            while not ended.wait(self._stale_seconds / _BEATS):
                # A database that is away for a moment is no reason to end: whoever trains will notice.
                with suppress(*DATABASE_ERRORS):
                    self._storage.record_heartbeat(trial_id)

        self._storage.record_heartbeat(trial_id)
        trial.set_user_attr(_LIVES, True)
        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _age(trial: FrozenTrial) -> float:
    return (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
