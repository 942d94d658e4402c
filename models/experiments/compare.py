"""`charstream compare`: trains variants of a model under equal conditions, and prints a table of their results."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from bundle.vocabulary import singular
from charstream.settings import fail, parse
from models.atomic_files import name_in_errors, write_json
from models.experiments.compare_figure import compare_figure
from models.experiments.folder import RESULTS, ExperimentError, begin_experiment, open_experiment, stoppable
from models.experiments.settings import CompareSettings
from models.experiments.variants import Variant, VariantResult, variants
from models.experiments.vary import VaryError, format_changes
from models.reporting.curves import read_curves
from models.reporting.style import save
from models.run_folder import LAST, header_file
from models.runs.teachers import read_ahead
from models.terminal import say, table
from models.train import USAGE_ERRORS, train_model
from models.training.loss_guard import Diverged

__all__ = ["main", "train_variant"]

COMMAND = "charstream compare"
PICTURE = "compare.png"
RESULT = "compared.json"  # in the folder of a variant's run, when it is done


def main(argv: Sequence[str] | None = None) -> int:
    """Compare. Exit code 0: done; 1: it failed; 2: wrong usage; 130, 143: stopped, --resume goes on."""
    given = parse(CompareSettings, argv, command=COMMAND)
    try:
        with stoppable(COMMAND, given.out):
            settings = open_experiment(given)
            results = _compare(settings)
    except (*USAGE_ERRORS, ExperimentError, VaryError) as error:
        fail(COMMAND, str(error))
    say(f"{COMMAND}: {settings.out / PICTURE}")
    print(json.dumps([one.to_json() for one in results]) if settings.json_ else _as_text(results))
    return 0


def _compare(settings: CompareSettings) -> list[VariantResult]:
    """Train the variants one after the other; results.json has those that are done."""
    todo = variants(settings)
    begin_experiment(settings)
    done: list[VariantResult] = []
    for number, one in enumerate(todo, 1):
        say(f"{COMMAND}: {number} of {len(todo)}: {format_changes(one.changes)}, {one.settings.hidden} hidden units")
        done.append(train_variant(one))
        write_json(settings.out / RESULTS, [result.to_json() for result in done])
    save(compare_figure(done, "seconds" if settings.equal == "time" else "characters"), settings.out / PICTURE)
    return done


def train_variant(one: Variant) -> VariantResult:
    """Train a variant, from its last checkpoint if there is one; or read its result if it is done already."""
    file = one.settings.out / RESULT
    known = _read_result(file)
    if known and known.changes == one.changes:
        return known
    with name_in_errors(one.settings.out):
        result = _train(one)
    write_json(file, result.to_json())
    return result


def _read_result(file: Path) -> VariantResult | None:
    """Return the result in a file; None if there is no file, or a damaged one."""
    try:
        return TypeAdapter(VariantResult).validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _train(one: Variant) -> VariantResult:
    resume = header_file(one.settings.out, LAST).exists()
    settings = one.settings.model_copy(update={"resume": resume, "overwrite": not resume})
    validation: float | None = None
    if not resume:
        read_ahead(settings)
    try:
        validation = train_model(settings)["carried_nats"]
    except Diverged as error:
        say(f"{format_changes(one.changes)}: {error}")
    curves = read_curves(settings.out)
    chars = curves.steps * curves.chars_per_step
    return VariantResult(
        one.changes,
        str(settings.out),
        settings.hidden,
        curves.parameters or 0,
        curves.steps,
        curves.seconds,
        round(chars / curves.seconds, 1) if curves.seconds else 0.0,
        curves.last("loss"),
        validation,
        singular(settings.vocabulary),
    )


def _as_text(results: Sequence[VariantResult]) -> str:
    names = list(results[0].changes)
    head = [*(name.replace("_", " ") for name in names), "hidden", "parameters", "steps", "seconds"]
    speed = "bytes/s" if results[0].unit == "byte" else "chars/s"
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
        for one in results
    ]
    return table([*head, speed, "training", "validation", "bits"], rows)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
