"""`charstream models`: the models of a server, as a table or as JSON."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict

from pydantic import Field

from charstream.settings import parse
from client.commands.common import Connection, connect, one_line_errors
from client.commands.printing import json_line, write
from client.results import ModelInfo, Training

__all__ = ["ModelsSettings", "main", "table"]

HEADER = (
    *("name", "version", "state", "model", "characters", "precision", "provider", "numerics", "texts", "memory"),
    *("trained", "digest"),
)


class ModelsSettings(Connection):
    """Lists the models of a server."""

    json_: bool = Field(False, description="everything the server says of each, as a JSON list")


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code 0; end with 1 and one line on stderr if no server answers."""
    settings = parse(ModelsSettings, argv, command="charstream models")
    with one_line_errors("charstream models", settings), connect(settings) as client:
        models = client.models()
    if settings.json_:
        write(json_line([asdict(model) for model in models], indent=2))
    else:
        print(table([HEADER, *map(_row, models)]))
    return 0


def _row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.name,
        f"{model.version} (default)" if model.is_server_default else model.version,
        model.state,
        f"{model.cell} {model.layers}x{model.hidden}",
        f"{len(model.vocabulary)}{' bytes' if model.unit == 'bytes' else ''}",
        model.precision or "-",
        model.provider.removesuffix("ExecutionProvider") or "-",
        model.numerics or "-",
        f"{model.texts} of {model.max_rows}",
        f"{model.memory / 1e6:.0f} MB",
        _training_summary(model.training),
        model.digest.removeprefix("sha256:")[:12],
    )


def _training_summary(training: Training) -> str:
    nats = (f"{value:.4f} nats {protocol}" for protocol, value in sorted(training.validation_nats.items()))
    return ", ".join((training.data, f"{training.steps} steps", *nats))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines; a row may end before the others."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
