"""Logs on stderr: lines for people or JSON objects, with one for each call; no call ever waits for the log."""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from grpc import StatusCode

from server.observe.call import Call, Observer
from server.observe.log_writer import LineHandler
from server.settings import ServerSettings

__all__ = ["CallLog", "Console", "Json", "configure", "lost_lines"]

log = logging.getLogger("charstream.calls")

UNCLEAR = re.compile(r'[ "=\\]')  # in a value without quotes


def configure(settings: ServerSettings) -> None:
    """Send all logging and warnings to stderr from now on."""
    # Where the process has no stderr, its number may be some other file's by now.
    handler = LineHandler(sys.stderr.fileno() if sys.stderr else os.open(os.devnull, os.O_WRONLY))
    handler.setFormatter(Json() if settings.log_format == "json" else Console())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


def lost_lines() -> int:
    """Return the number of lines that stderr did not take."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, LineHandler))


class CallLog(Observer):
    """Writes a line for each call, at its end, with prompts and texts only if `texts` says so."""

    def __init__(self, *, texts: bool) -> None:
        self._texts = texts

    def on_end(self, call: Call) -> None:
        level = logging.WARNING if call.status is StatusCode.INTERNAL else logging.INFO
        fields = _call_fields(call)
        if self._texts:
            fields |= {"prompt": call.prompt, "text": call.text}
        # As `log.log` does, without a look through the stack for who calls it.
        if log.isEnabledFor(level):
            log.handle(log.makeRecord(log.name, level, __file__, 0, "call", (), None, extra={"fields": fields}))


class Console(logging.Formatter):
    """TIME LEVEL LOGGER: MESSAGE KEY=VALUE..., and a traceback in indented lines.

    Messages, values and tracebacks contain what clients chose: nothing in them begins a line, or moves a terminal's
    cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        fields = (f"{name}={_quote_value(value)}" for name, value in _fields(record).items() if value not in (None, ""))
        lines = _printable(" ".join([head, *fields])), *(f"    {_printable(line)}" for line in _traceback(record))
        return "\n".join(lines)


class Json(logging.Formatter):
    """One JSON object per line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if error := "\n".join(_traceback(record)):
            line["error"] = error
        return json.dumps(line, default=str)


def _call_fields(call: Call) -> dict[str, Any]:
    return {
        "id": call.id,
        "request": call.headers.request,
        "attempt": call.headers.attempt,
        "method": call.method.rpartition("/")[2],
        "identity": call.identity,
        "peer": call.peer,
        "model": call.model,
        "status": call.status.name,
        "reason": call.reason,
        "limit": call.limit,
        "generated_chars": call.generated_chars,
        "forced_chars": call.forced_chars,
        "queue_seconds": _round(call.queue_seconds),
        "first_char_seconds": _round(call.first_char_seconds),
        "seconds": _round(call.seconds),
    }


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _traceback(record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info and record.exc_info[0]:
        yield from "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n").split("\n")


def _quote_value(value: Any) -> str:
    """Return a value whose end can be seen: in quotes, if it has characters that could end it."""
    text = str(value)
    return text if not UNCLEAR.search(text) and text.isprintable() else json.dumps(text, ensure_ascii=False)


def _printable(text: str) -> str:
    """Return the text with escapes for control characters and others that cannot be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
