"""Texts on stdout as they come, as text or as JSON, and a line about each on stderr."""

import base64
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from client.errors import CharstreamError
from client.results import Finish, Started
from client.sync_streams import Continuations, TextStream

__all__ = ["json_line", "print_json", "print_text", "print_texts", "print_texts_json", "repeated_block", "write"]


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def print_text(stream: TextStream, echo: str) -> None:
    chunks, begun = iter(stream), False
    try:
        write(echo + next(chunks, ""))  # a refused request prints nothing
        begun = True
        for text in chunks:
            write(text)
    finally:
        if begun:
            _end_line(echo + stream.text)
    if stream.finish:
        summary = _summary(stream.finish, stream.started, stream.raw)
        print(summary + _times_elsewhere(stream.resumes), file=sys.stderr)


def _end_line(text: str) -> None:
    """Give what comes next a line of its own where it follows `text`: on a terminal, or in one file or pipe (2>&1).

    Where stdout goes elsewhere it has the text and nothing else.
    """
    if not text or text.endswith("\n"):
        return
    if sys.stdout.isatty():
        write("\n")
    elif _share_one_place():
        print(file=sys.stderr, flush=True)


def _share_one_place() -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (AttributeError, OSError, ValueError):  # there is none, it is closed, or Python replaced it
        return False


def print_json(stream: TextStream) -> None:
    chunks = _Chunks()
    for text in stream:
        write(json_line(chunks.next(text, stream.raw, stream.logprobs, stream.alternatives)))
    if chunks.has_unprinted(stream.raw):
        write(json_line(chunks.next("", stream.raw, stream.logprobs, stream.alternatives)))
    if stream.finish:
        write(json_line({"finish": asdict(stream.finish), **_unknown(stream.started)}))


def print_texts(stream: Continuations, echo: str) -> None:
    """Print several texts one below the other: each begins, with all that it has by then, when the one above ends."""
    printer = _TextPrinter(stream, echo)
    try:
        for index, text in stream:
            printer.add(index, text)
    except CharstreamError as error:
        printer.show_rest()
        raise error.after("".join(stream.texts), None) from None
    printer.show_rest()
    for index, finish in enumerate(stream.finishes):
        if finish:
            print(f"{index}: {_summary(finish, stream.started[index], stream.raws[index])}", file=sys.stderr)


def print_texts_json(stream: Continuations) -> None:
    chunks = [_Chunks() for _ in stream.finishes]
    for index, text in stream:
        chunk = chunks[index].next(text, stream.raws[index], stream.logprobs[index], stream.alternatives[index])
        write(json_line({"index": index, **chunk}))
    for index, finish in enumerate(stream.finishes):
        if chunks[index].has_unprinted(stream.raws[index]):
            rest = chunks[index].next("", stream.raws[index], stream.logprobs[index], stream.alternatives[index])
            write(json_line({"index": index, **rest}))
        if finish:
            write(json_line({"index": index, "finish": asdict(finish), **_unknown(stream.started[index])}))


class _TextPrinter:
    """Prints several texts one after the other, though their chunks come mixed."""

    def __init__(self, stream: Continuations, echo: str) -> None:
        self._stream, self._echo = stream, echo
        self._waiting: list[list[str]] = [[] for _ in stream.finishes]
        self._turn = -1  # index of the text that is being printed

    def add(self, index: int, text: str) -> None:
        self._waiting[index].append(text)
        if self._turn < 0:
            self._next()
        self._show()
        while self._turn + 1 < len(self._waiting) and self._has_ended(self._turn):
            self._next()
            self._show()

    def show_rest(self) -> None:
        """Print everything that has come, if anything has."""
        has_begun = any(self._stream.texts) or any(self._stream.finishes)
        while has_begun and self._turn + 1 < len(self._waiting):
            self._next()
            self._show()
        if self._turn >= 0:
            write("\n")

    def _next(self) -> None:
        self._turn += 1
        write(f"{chr(10) * 2 if self._turn else ''}== continuation {self._turn}\n{self._echo}")

    def _show(self) -> None:
        write("".join(self._waiting[self._turn]))
        self._waiting[self._turn].clear()

    def _has_ended(self, index: int) -> bool:
        finish = self._stream.finishes[index]
        return finish is not None and finish.reason != "drained"


class _Chunks:
    """Cuts a text's growing values into the part of each chunk."""

    def __init__(self) -> None:
        self._raw = self._places = 0  # how much earlier chunks had

    def has_unprinted(self, raw: bytes) -> bool:
        """Return whether bytes are not printed yet: those of a character that was never completed."""
        return len(raw) > self._raw

    def next(self, text: str, raw: bytes, logprobs: Sequence[float], alternatives: Sequence[Any]) -> dict[str, Any]:
        """Return the newest chunk with its bytes and log-probabilities, if any, from all that has come so far."""
        chunk: dict[str, Any] = {"text": text}
        if raw:
            chunk["raw"], self._raw = raw[self._raw :], len(raw)
        if logprobs:
            chunk["logprobs"] = logprobs[self._places :]
        if alternatives:
            chunk["alternatives"] = alternatives[self._places :]
        self._places = len(logprobs)
        return chunk


def json_line(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, in ASCII where stdout cannot carry all characters."""
    encoding = (sys.stdout and sys.stdout.encoding) or "ascii"
    is_ascii = not encoding.lower().startswith("utf")
    return json.dumps(value, ensure_ascii=is_ascii, indent=indent, default=_base64) + "\n"


def _base64(token: bytes) -> str:
    return base64.b64encode(token).decode()


def _unknown(started: Started | None) -> dict[str, int]:
    """Return how many characters of the prompt were left out or replaced, if there are any."""
    return {"unknown_chars": started.unknown_chars} if started and started.unknown_chars else {}


def _summary(finish: Finish, started: Started | None, raw: bytes) -> str:
    """Return one line with the times of `Finish`, and how many characters of the prompt the model did not know."""
    unknown = "".join(f", {count} characters of the prompt unknown" for count in _unknown(started).values())
    speed = finish.generated_chars / finish.total_seconds if finish.total_seconds else 0.0
    unit = "bytes" if raw else "characters"
    cause = f" {finish.stop!r}" if finish.stop else repeated_block(finish, unit)
    return (
        f"{finish.reason}{cause}: {finish.generated_chars} {unit}, {speed:,.0f} {unit if raw else 'chars'}/s, "
        f"first after {finish.first_char_seconds * 1000:.1f} ms, seed {finish.seed}{unknown}"
        f"{_reason_of_nothing(finish)}"
    )


def _times_elsewhere(resumes: int) -> str:
    """Return how often the text went on at another server or call, or "" if it never had to."""
    return f", went on elsewhere {resumes} time{'s' if resumes > 1 else ''}" if resumes else ""


def repeated_block(finish: Finish, unit: str) -> str:
    """Return how long the block is with whose repetition the text ends, or ""."""
    if not finish.repeat_period:
        return ""
    return f" of {finish.repeat_period} {unit if finish.repeat_period > 1 else unit.removesuffix('s')}"


def _reason_of_nothing(finish: Finish) -> str:
    """Return why there is no text, or "" if there is one."""
    if finish.generated_chars:
        return ""
    if finish.reason == "stop":
        return (
            "; the model began with the stop string: another --seed begins otherwise, --min-chars N looks for it only "
            "after N characters"
        )
    if finish.reason == "deadline":
        return "; --time-limit was over before the first character: the server may be busy, give it longer"
    return ""
