"""The folder of a search or a comparison: its settings, with which it can be resumed, its runs and results."""

import json
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import ValidationError

from charstream.settings import fail
from models.atomic_files import write_json
from models.training.settings import TrainSettings, add_defaults, given_names

__all__ = [
    "RESULTS",
    "RUNS",
    "STUDY",
    "ExperimentError",
    "begin_experiment",
    "open_experiment",
    "stoppable",
]

SETTINGS, RESULTS, STUDY, RUNS = "settings.json", "results.json", "search.db", "runs"
_OURS = {"data", "out", "seed"}  # keys of our settings.json, which that of an editor has not
# Settings of one call, which do not change what is tried.
_OF_THE_CALL = {"out", "resume", "overwrite", "json_"}

S = TypeVar("S", bound=TrainSettings)


class ExperimentError(ValueError):
    """The folder is taken, or holds nothing to resume; the message is one line."""


def open_experiment(given: S, *, may_change: frozenset[str] = frozenset()) -> S:
    """Return the settings given, for a new folder, or with --resume those that the folder was begun with.

    Args:
        may_change: fields that --resume may change.

    Raises:
        ExperimentError: the folder holds a search or a comparison already, or files with such names; with --resume it
            holds none, or one of other settings.
    """
    if given.resume:
        return _resume(given, may_change)
    taken = [name for name in (SETTINGS, RESULTS, STUDY, RUNS) if (given.out / name).exists()]
    if taken and not _is_ours(given.out):
        raise ExperimentError(
            f"{given.out} has {' and '.join(taken)}, which no search or comparison of ours left there: "
            "begin in another folder"
        )
    if taken and not given.overwrite:
        raise ExperimentError(f"{given.out} is taken: go on with it by --resume, or replace it by --overwrite")
    return given


@contextmanager
def stoppable(command: str, out: Path) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the command with a line that says how to go on; exit codes 130 and 143."""
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except KeyboardInterrupt as error:
        again = shlex.join([*command.split(), "--out", str(out), "--resume"])
        fail(command, f"stopped; go on with: {again}", code=143 if isinstance(error, _Terminated) else 130)
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def _raise_terminated(*_: object) -> NoReturn:
    raise _Terminated


def begin_experiment(settings: TrainSettings) -> None:
    """Make the folder and write the settings, with which it can be resumed; do nothing if it is being resumed."""
    if not settings.resume:
        if settings.overwrite and _is_ours(settings.out):
            _empty(settings.out)
        settings.out.mkdir(parents=True, exist_ok=True)
        kept = settings.model_dump_json(exclude={"resume", "overwrite", "json_"})
        write_json(settings.out / SETTINGS, json.loads(kept))


def _is_ours(folder: Path) -> bool:
    """Whether a search or a comparison was begun in the folder."""
    try:
        kept = json.loads((folder / SETTINGS).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(kept, dict) and kept.keys() >= _OURS


def _empty(folder: Path) -> None:
    """Remove the files of a search or a comparison from its folder, and nothing else."""
    shutil.rmtree(folder / RUNS, ignore_errors=True)
    for name in (SETTINGS, RESULTS, STUDY):
        (folder / name).unlink(missing_ok=True)


def _resume(given: S, may_change: frozenset[str]) -> S:
    file = given.out / SETTINGS
    try:
        begun = type(given).model_validate(add_defaults(json.loads(file.read_bytes())))
    except OSError as error:
        raise ExperimentError(f"{given.out}: nothing to go on with there ({SETTINGS}: {error.strerror})") from error
    except ValidationError as error:
        raise ExperimentError(f"{file}: not of this command ({error.errors()[0]['msg']})") from error
    except (AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        # the settings look into what they are given before pydantic does
        raise ExperimentError(f"{file}: not of this command (no JSON object)") from error
    changes = {name: getattr(given, name) for name in given_names(given, begun) - _OF_THE_CALL}
    for name, value in changes.items():
        if name not in may_change and value != getattr(begun, name):
            raise ExperimentError(
                f"{given.out} was begun with {name.replace('_', '-')} {getattr(begun, name)}, not {value}: "
                "leave it out to go on, or begin in another folder"
            )
    return begun.model_copy(update={**changes, "out": given.out, "resume": True, "json_": given.json_})
