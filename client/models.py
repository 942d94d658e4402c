"""`charstream models`: what a server serves, as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from pydantic import Field

from charstream.settings import parse
from client.command import Connection, connect, one_line_errors
from client.values import ModelInfo

__all__ = ["ModelsSettings", "main"]

HEADER = ("name", "cell", "layers x hidden", "characters", "precision", "provider", "validation nats", "digest")


class ModelsSettings(Connection):
    """Lists the models of a server."""

    json_: bool = Field(False, description="everything the server says of each, as a JSON list")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code 0; ends with 1 and one line on stderr where no server answers."""
    settings = parse(ModelsSettings, argv, command="charstream models")
    with one_line_errors("charstream models"), connect(settings) as client:
        models = client.models()
    if settings.json_:
        print(json.dumps([asdict(model) for model in models], ensure_ascii=False, indent=2))
    else:
        print(_table([HEADER, *map(_row, models)]))
    return 0


def _row(model: ModelInfo) -> tuple[str, ...]:
    nats = (f"{value:.4f} {protocol}" for protocol, value in sorted(model.training.validation_nats.items()))
    return (
        model.name,
        model.cell,
        f"{model.layers}x{model.hidden}",
        str(len(model.vocabulary)),
        model.precision,
        model.provider.removesuffix("ExecutionProvider"),
        ", ".join(nats) or "-",
        model.digest.removeprefix("sha256:")[:12],
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
