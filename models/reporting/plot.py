"""`charstream plot`: draws the loss curves of several runs in one picture, and prints their results as a table."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from charstream.settings import Positional, Settings, fail, parse
from models.reporting.curve_figure import curve_figure
from models.reporting.curves import Axis, RunCurves, RunError, common_unit, read_curves
from models.reporting.style import FORMATS, save
from models.terminal import table

__all__ = ["PlotSettings", "main"]

COMMAND = "charstream plot"


class PlotSettings(Settings):
    """Draws loss, learning rate, gradient norm and update ratio of one run or of several together.

    Runs that still go on can be drawn too. A table of what the runs came to goes to stdout.
    """

    runs: Annotated[tuple[Path, ...], Positional()] = Field(description="folders of runs")
    out: Path = Field(description=f"the picture; its ending says of what kind: {', '.join(FORMATS)}")
    against: Axis = Field("steps", description="the x axis")
    json_: bool = Field(False, description="print the table as JSON")

    @field_validator("out")
    @classmethod
    def _known_kind(cls, out: Path) -> Path:
        if out.suffix not in FORMATS:
            raise ValueError(f"the picture's name must end in {', '.join(FORMATS)}")
        return out


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(PlotSettings, argv, command=COMMAND)
    try:
        runs = [read_curves(folder, name) for folder, name in zip(settings.runs, _names(settings.runs), strict=True)]
        save(curve_figure(runs, settings.against), settings.out)
    except RunError as error:
        fail(COMMAND, str(error))
    print(f"{COMMAND}: {settings.out}", file=sys.stderr)
    rows = [figures_of(run) for run in runs]
    print(json.dumps(rows) if settings.json_ else _as_table(rows, common_unit(runs)))
    return 0


def figures_of(run: RunCurves) -> dict[str, Any]:
    """Return a run's results so far, losses in nats per character or byte; None for what it has not measured."""
    validation = run.series("validation").values
    whole = run.last("carried")
    return {
        "run": run.name,
        "parameters": run.parameters,
        "steps": run.steps,
        f"{run.unit}s": run.steps * run.chars_per_step,
        "seconds": run.seconds,
        "training_nats": run.last("loss"),
        "best_validation_nats": float(validation.min()) if len(validation) else None,
        "carried_nats": whole,
        f"bits_per_{run.unit}": whole / math.log(2) if whole is not None else None,
    }


def _as_table(rows: Sequence[dict[str, Any]], unit: str) -> str:
    head = ("run", "parameters", "steps", f"{unit}s", "seconds", "training", "validation", "all of it", "bits")
    return table(head, [[_as_cell(value, name) for name, value in row.items()] for row in rows])


def _as_cell(value: str | float | None, name: str) -> str:
    if value is None:
        return "-"
    if name == "seconds":  # whole ones in each row: 50.5500 is not read beside 100
        return f"{value:,.0f}"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' own names, or the whole paths if two names are equal."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


if __name__ == "__main__":
    sys.exit(main())
