"""All that a generator has to know, as it gets it from Locust's process: JSON in one line."""

import json
from collections.abc import Sequence
from pathlib import Path

from charstream.settings import Settings
from client.commands.common import Connection
from loadtest.scenarios.calls import Call
from loadtest.settings import Scenario

__all__ = ["Alone", "GeneratorConfig", "read_alone", "write_alone"]

Alone = tuple[Call, dict[int, str]]  # a call and its texts, by continuation


class GeneratorConfig(Settings):
    """The load of one process, one of `processes`."""

    connection: Connection
    scenario: Scenario
    prompts: tuple[str, ...]
    warmup: float = 0.0
    interval: float = 1.0
    process: int = 0
    processes: int = 1
    alone: Path | None = None


def write_alone(file: Path, found: Sequence[Alone]) -> None:
    file.write_text(json.dumps([[call.to_json(), texts] for call, texts in found]), encoding="utf-8")


def read_alone(file: Path) -> list[Alone]:
    content = json.loads(file.read_text("utf-8"))
    return [(Call.from_json(call), {int(index): text for index, text in texts.items()}) for call, texts in content]
