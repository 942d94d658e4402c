"""`charstream compare`: trains variants of a model under equal conditions, and tables what they come to."""

import json
import sys
from collections.abc import Sequence

from charstream.settings import fail, parse
from models.experiments.compare_figure import compare_figure
from models.experiments.compare_settings import CompareSettings
from models.experiments.folder import RESULTS, ExperimentError, begin_experiment, open_experiment, stoppable, write_json
from models.experiments.variants import Compared, trained, variants
from models.experiments.vary import VaryError, shown
from models.progress import say
from models.reporting.style import save
from models.table import table
from models.train import WRONG

__all__ = ["main"]

COMMAND = "charstream compare"
PICTURE = "compare.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: it failed; 2: wrong usage; 130, 143: stopped, --resume goes on."""
    given = parse(CompareSettings, argv, command=COMMAND)
    try:
        with stoppable(COMMAND, given.out):
            settings = open_experiment(given)
            compared = _compare(settings)
    except (*WRONG, ExperimentError, VaryError) as error:
        fail(COMMAND, str(error))
    say(f"{COMMAND}: {settings.out / PICTURE}")
    print(json.dumps([one.to_json() for one in compared]) if settings.json_ else _as_text(compared))
    return 0


def _compare(settings: CompareSettings) -> list[Compared]:
    """Trains them one after the other; what is done is in results.json."""
    todo = variants(settings)
    begin_experiment(settings)
    done: list[Compared] = []
    for number, one in enumerate(todo, 1):
        say(f"{COMMAND}: {number} of {len(todo)}: {shown(one.changes)}, {one.settings.hidden} hidden units")
        done.append(trained(one))
        write_json(settings.out / RESULTS, [result.to_json() for result in done])
    save(compare_figure(done, "seconds" if settings.equal == "time" else "characters"), settings.out / PICTURE)
    return done


def _as_text(compared: Sequence[Compared]) -> str:
    names = list(compared[0].changes)
    head = [*(name.replace("_", " ") for name in names), "hidden", "parameters", "steps", "seconds"]
    speed = "bytes/s" if compared[0].unit == "byte" else "chars/s"
    rows = [
        [
            *(str(one.changes[name]) for name in names),
            str(one.hidden),
            f"{one.parameters:,}",
            f"{one.steps:,}",
            f"{one.seconds:.0f}",
            f"{one.chars_per_second:,.0f}",
            *(_loss(value) for value in (one.training_nats, one.validation_nats, one.bits)),
        ]
        for one in compared
    ]
    return table([*head, speed, "training", "validation", "bits"], rows)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
