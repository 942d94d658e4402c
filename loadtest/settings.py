"""The settings of a load test, with the same flags for `charstream loadtest` and for plain locust."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Literal, TypeVar, get_origin

from pydantic import Field, model_validator

from charstream.settings import Settings
from client.commands.common import Connection, ModelChoice
from loadtest.measures.gates import Gate
from loadtest.measures.objectives import Objectives
from loadtest.scenarios.arrivals import Arrivals
from loadtest.scenarios.mix import STANDARD, Entry, Mix
from loadtest.scenarios.trace import read_trace

__all__ = [
    "LoadtestSettings",
    "Recording",
    "Scenario",
    "ScenarioName",
    "Thresholds",
    "add_flags",
    "from_flags",
    "to_flags",
    "warmup_seconds",
]

S = TypeVar("S", bound=Settings)
ScenarioName = Literal["steady", "open", "ramp", "spike", "mixed", "soak", "replay"]
SOAK_SECONDS = 900
WARMUP_SHARE, LONGEST_WARMUP = 0.1, 5.0


class Scenario(ModelChoice):
    """The requests, and when they are made."""

    prompt: tuple[str, ...] = Field(
        (),
        description="a text to continue; given several times, the users take turns with them. Without it: the prompts "
        "that came with the model, or characters that it knows",
    )
    max_chars: int = Field(200, ge=1, description="characters of each text")
    temperature: float | None = Field(None, description="the server's default where it isn't given")
    wait: float = Field(0.0, ge=0, description="seconds between the end of a user's text and its next request")
    scenario: ScenarioName = Field(
        "steady",
        description="steady: each of --users asks for its next text when it has the last one (a closed loop); open: "
        "texts begin at --rate, whether or not others ended; ramp: up to --users in ten steps; spike: a quarter of "
        "--users, all of them in the middle third; mixed: users that make calls of many kinds (--mix); soak: the same "
        "for 15 minutes; replay: the calls of --trace at their times",
    )
    rate: float | None = Field(None, gt=0, description="open: texts a second that begin")
    arrivals: Arrivals = Field("poisson", description="open: how the times between two beginnings are distributed")
    burstiness: float = Field(1.0, gt=0, description="of --arrivals gamma: 1 is poisson, less comes in bursts")
    most_streams: int = Field(2000, ge=1, description="open, replay: streams in flight; what would be more is not sent")
    mix: Path | None = Field(None, description="TOML file with the kinds of calls and their weights")
    trace: Path | None = Field(
        None, description="replay: JSON lines with time, prompt_chars and max_chars of each call"
    )
    warmup: float | None = Field(
        None, ge=0, description="seconds before what is counted (default: a tenth of the run, at most 5)"
    )
    check: float = Field(1.0, ge=0, le=1, description="share of the texts that are asked for again later and compared")
    goodput: str = Field("", description='what a good stream keeps to, in ms, such as "first:100 gap-p99:50"')

    @model_validator(mode="after")
    def _is_complete(self) -> "Scenario":
        if self.scenario == "open" and self.rate is None:
            raise ValueError("--scenario open needs --rate: how many texts begin in a second")
        if self.scenario == "replay" and self.trace is None:
            raise ValueError("--scenario replay needs --trace: which calls, and when")
        Objectives.parse(self.goodput)
        self.calls()
        if self.trace:
            read_trace(self.trace)
        return self

    def calls(self) -> Mix:
        """Return the kinds of calls. Raises ValueError: the file can't be used."""
        if self.mix:
            return Mix.read(self.mix)
        if self.scenario in ("mixed", "soak"):
            return Mix.read(STANDARD)
        chars = (self.max_chars, self.max_chars)
        return Mix(call=(Entry(name="text", max_chars=chars, temperature=None),))

    @property
    def is_open(self) -> bool:
        return self.scenario in ("open", "replay")


class Thresholds(Settings):
    """The limits that a deployment must keep to; one that isn't given isn't checked."""

    require: tuple[str, ...] = Field(
        (),
        description='a limit of any figure, such as "first.p99<100", "goodput>0.99" or "chars-per-second>20000", with '
        "times in ms",
    )
    max_first_char_p99: float | None = Field(None, gt=0, description="99 of 100 texts begin within so many ms")
    max_gap_p99: float | None = Field(
        None, gt=0, description="in 99 of 100 texts, 99 of 100 gaps between chunks are at most so many ms"
    )
    min_chars_per_second: float | None = Field(None, gt=0, description="characters per second, of all users together")
    max_failures: int = Field(0, ge=0, description="texts that may fail")

    @model_validator(mode="after")
    def _are_gates(self) -> "Thresholds":
        for text in self.require:
            Gate.parse(text)
        return self


class Recording(Settings):
    """Where the figures go, and what else is read during the run."""

    result: Path | None = Field(None, description="JSON file for all figures, which report and compare read")
    metrics: str = Field("", description="URL of the server's Prometheus page, which is read during the run")
    null_limit: float | None = Field(
        None, gt=0, description="messages a second that this machine can take at most, as a null server showed"
    )
    alone: Path | None = Field(None, description="file with texts that were recorded before the load, to compare with")


class LoadtestSettings(Recording, Thresholds, Scenario, Connection):
    """Streams texts to a number of users at once and reports latency, throughput and whether the texts were right. Exit
    code 1 where a limit is missed, or a text was wrong.

    Four questions have a command each, with a --help of its own: `charstream loadtest quick` says in words how a server
    does, `find` how many users it carries within limits, `sweep` where it saturates, `compare` which of two results is
    better. `report` makes a page of a result, `trace` a load to replay of a server's log, `null-server` is a server
    that costs nothing.
    """

    users: int = Field(8, ge=1, description="streams at a time; the most, of a ramp and a spike")
    seconds: int | None = Field(
        None, ge=1, description="length of the run, in seconds, with the warm-up (default: 10; of a soak 900)"
    )
    processes: int | None = Field(
        None, ge=1, description="processes that make the load (default: one for two cores of this machine, at most 8)"
    )
    null_seconds: float = Field(
        2.0,
        ge=0,
        description="seconds in which is measured what this machine can ask for at most, of a server that costs "
        "nothing; 0 leaves it out",
    )
    repeats: int = Field(
        1, ge=1, description="runs, one after the other, so that `compare` can tell a difference from chance"
    )
    report: Path | None = Field(None, description="folder for report.html, result.json and CSV files, and Locust's own")
    png: bool = Field(False, description="the plots as PNG files in that folder, too")

    @property
    def run_seconds(self) -> int:
        return self.seconds or (SOAK_SECONDS if self.scenario == "soak" else 10)


def warmup_seconds(scenario: Scenario, seconds: float | None) -> float:
    """Return the length of the warm-up of a run; without a known end there is none unless it is given."""
    if scenario.warmup is not None:
        return scenario.warmup
    return min(LONGEST_WARMUP, WARMUP_SHARE * seconds) if seconds else 0.0


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
