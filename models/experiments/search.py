"""`charstream search`: looks for the settings of training that give the lowest validation loss."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from charstream.settings import fail, parse
from models.experiments.folder import STUDY, ExperimentError, open_experiment, stoppable
from models.experiments.search_settings import SearchSettings
from models.experiments.trials import Trials
from models.experiments.vary import VaryError
from models.progress import say
from models.table import table
from models.train import WRONG

__all__ = ["main"]

COMMAND = "charstream search"
_SHOWN = 10  # trials, of the result, as text


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: it failed; 2: wrong usage; 130, 143: stopped, --resume goes on."""
    given = parse(SearchSettings, argv, command=COMMAND)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with stoppable(COMMAND, given.out):
            settings = open_experiment(given, may_change=frozenset({"trials"}))
            trials = Trials(settings)
            trials.run()
    except (*WRONG, ExperimentError, VaryError) as error:
        fail(COMMAND, str(error))
    except (StorageInternalError, SQLAlchemyError) as error:
        fail(COMMAND, f"{given.out / STUDY}: {_of_the_database(error)}", code=1)
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


def _of_the_database(error: BaseException) -> str:
    """SQLite's own words, such as "database or disk is full"."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return str(getattr(cause, "orig", cause))


def _losses(nats: float | None) -> tuple[str, str]:
    return ("-", "-") if nats is None else (f"{nats:.4f}", f"{nats / math.log(2):.4f}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
