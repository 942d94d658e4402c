"""The settings of a load test, with the same flags for `charstream loadtest` and for plain locust."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import Field

from charstream.settings import Settings
from client.commands.common import Connection, ModelChoice

__all__ = ["LoadtestSettings", "Scenario", "Thresholds", "add_flags", "from_flags", "request_options", "to_flags"]

S = TypeVar("S", bound=Settings)


class Scenario(ModelChoice):
    """The requests of the users."""

    prompt: tuple[str, ...] = Field(
        (),
        description="a text to continue; given several times, the users take turns with them. Without it: the prompts "
        "that came with the model, or characters that it knows",
    )
    max_chars: int = Field(200, ge=1, description="characters of each text")
    temperature: float | None = Field(None, description="the server's default where it isn't given")
    wait: float = Field(0.0, ge=0, description="seconds between the end of a user's text and its next request")


def request_options(scenario: Scenario) -> dict[str, Any]:
    """Return the options of each request, as `Client.stream` takes them, but for its prompt and its seed."""
    return {
        "model": scenario.model,
        "max_chars": scenario.max_chars,
        "temperature": scenario.temperature,
        "resume": False,  # failures are to be counted, not repaired
    }


class Thresholds(Settings):
    """The limits that a deployment must keep to; one that isn't given isn't checked."""

    max_first_char_p99: float | None = Field(None, gt=0, description="99 of 100 texts begin within so many ms")
    max_gap_p99: float | None = Field(
        None, gt=0, description="in 99 of 100 texts, 99 of 100 gaps between chunks are at most so many ms"
    )
    min_chars_per_second: float | None = Field(None, gt=0, description="characters per second, of all users together")
    max_failures: int = Field(0, ge=0, description="texts that may fail")


class LoadtestSettings(Thresholds, Scenario, Connection):
    """Streams texts to a number of users at once, each asking for its next text when it has the last one (a closed
    loop), and reports latency and throughput. Exit code 1 where a threshold is missed."""

    users: int = Field(8, ge=1, description="streams at a time")
    seconds: int = Field(10, ge=1, description="length of the run, in seconds")
    report: Path | None = Field(None, description="folder for Locust's report.html and stats_*.csv")


def add_flags(parser: ArgumentParser, cls: type[Settings]) -> None:
    """Declare the fields of `cls` to locust's parser; the class checks their values afterwards."""
    for name, field in cls.model_fields.items():
        text = f"{field.description} (default: {field.get_default(call_default_factory=True)})".replace("%", "%%")
        many = "append" if get_origin(field.annotation) is tuple else "store"
        action = "store_true" if field.annotation is bool else many
        parser.add_argument(_flag(name), dest=name, action=action, help=text)


def from_flags(cls: type[S], options: Namespace) -> S:
    """Build `cls` from locust's options. Raises pydantic's ValidationError on a wrong value."""
    given = {name: getattr(options, name) for name in cls.model_fields}
    return cls(**{name: value for name, value in given.items() if value not in (None, "")})


def to_flags(settings: Settings, cls: type[Settings]) -> list[str]:
    """Return the flags from which `from_flags(cls, ...)` builds that part of `settings` again."""
    flags = []
    for name in cls.model_fields:
        value = getattr(settings, name)
        if isinstance(value, bool):
            flags += [_flag(name)] * value
            continue
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        flags += [f"{_flag(name)}={value}" for value in values]
    return flags


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
