"""A recorded load, to be replayed: JSON lines with when a call came, its prompt's length and its text's."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from charstream.settings import Positional, Settings, fail, parse

__all__ = ["TracedCall", "main", "read_trace"]

COMMAND = "charstream loadtest trace"


class TracedCall(Settings):
    """A line: `time` in seconds from the first call."""

    time: float = Field(ge=0)
    prompt_chars: int = Field(0, ge=0)
    max_chars: int = Field(ge=1)


def read_trace(file: Path) -> list[TracedCall]:
    """Return the calls in the order of their times. Raises ValueError: it can't be read, or a line is none."""
    try:
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--trace {file}: {getattr(error, 'strerror', None) or error}") from None
    calls = []
    for number, line in enumerate(lines, 1):
        try:
            calls.append(TracedCall.model_validate_json(line))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(
                f'--trace {file}: line {number}: {reason}; {{"time": 0.5, "prompt_chars": 12, "max_chars": 200}} is one'
            ) from None
    if not calls:
        raise ValueError(f"--trace {file}: has no calls")
    return sorted(calls, key=lambda call: call.time)


class TraceSettings(Settings):
    """Turns a server's log into a trace for `charstream loadtest --scenario replay`: JSON lines on stdout.

    The log is that of `charstream serve`, as JSON (--log-format json) or for people.
    """

    log: Annotated[Path, Positional()] = Field(description="the server's log")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(TraceSettings, argv, command=COMMAND)
    try:
        with settings.log.open(encoding="utf-8", errors="replace") as lines:
            calls = sorted(filter(None, map(_logged_call, lines)))
    except OSError as error:
        fail(COMMAND, f"{settings.log}: {(error.strerror or str(error)).lower()}")
    if not calls:
        fail(COMMAND, f"{settings.log}: has no line of a Generate call; is it the log of charstream serve?")
    first = calls[0][0]
    for began, prompt_chars, chars in calls:
        line = {"time": round(began - first, 6), "prompt_chars": prompt_chars, "max_chars": chars}
        sys.stdout.write(json.dumps(line) + "\n")
    return 0


def _logged_call(line: str) -> tuple[float, int, int] | None:
    """Return when a call began, its prompt's length and its text's; None for a line that is of no generated text.

    A call is logged at its end, with its seconds.
    """
    fields = _json_fields(line) or dict(_text_fields(line))
    try:
        if fields["method"] != "Generate" or int(fields["generated_chars"]) < 1:
            return None
        ended = datetime.fromisoformat(str(fields["time"])).timestamp()
        return ended - float(fields["seconds"]), int(fields["forced_chars"] or 0), int(fields["generated_chars"])
    except (KeyError, ValueError, TypeError):
        return None


def _json_fields(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text_fields(line: str) -> Iterator[tuple[str, str]]:
    yield "time", line[:23].replace(",", ".")
    yield from re.findall(r"(\w+)=(\S+)", line)


if __name__ == "__main__":
    sys.exit(main())
