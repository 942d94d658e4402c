"""`charstream stream`: a text, as its characters come, on stdout; a line about it on stderr."""

import base64
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, model_validator

from charstream.settings import Positional, parse
from client.blocking import Client
from client.command import Connection, one_line_errors
from client.streams import TextStream
from client.values import Finish

__all__ = ["StreamSettings", "main"]

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


class StreamSettings(Connection):
    """Streams the characters that follow a prompt to stdout, and how it ended to stderr."""

    prompt: Annotated[str, Positional()] = Field(
        "",
        description="the text to continue; none: the model begins one. "
        'One that begins with "-" comes last, after the flags and "--"',
    )
    model: str = Field("", description="name of the model; needed where several are served")
    max_chars: int | None = Field(None, description="generate at most so many characters")
    temperature: float | None = Field(None, description="divides the logits: below 1 safer, above 1 wilder")
    top_k: int | None = Field(None, description="only the so many most probable characters")
    top_p: float | None = Field(None, description="of those, the fewest whose shares reach this sum")
    min_p: float | None = Field(None, description="only those at least this share as probable as the most probable")
    greedy: bool = Field(False, description="always the most probable character, as --temperature 0")
    seed: int | None = Field(None, description="same seed, same text; without one the server chooses")
    stop: tuple[str, ...] = Field((), description=r"end before this string; \n, \t, \r and \\ are understood")
    max_chunk_chars: int | None = Field(None, description="at most so many characters at a time")
    max_chunk_delay: float | None = Field(None, description="ms a character may wait for others to travel with")
    timeout: float | None = Field(None, gt=0, description="seconds for the whole text")
    echo: bool = Field(True, description="print the prompt before its continuation")
    json_: bool = Field(False, description='one object a line: {"text": ...} for each chunk, then {"finish": ...}')

    @model_validator(mode="after")
    def _one_temperature(self) -> "StreamSettings":
        if self.greedy and self.temperature:
            raise ValueError("--greedy is temperature 0: give it or --temperature, not both")
        return self


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code 0; ends with 1 where it failed, 2 where the request was wrong."""
    settings = parse(StreamSettings, argv, command="charstream stream")
    with one_line_errors("charstream stream"), Client(settings.host) as client, _open(client, settings) as stream:
        _print(stream, settings)
    return 0


def _open(client: Client, settings: StreamSettings) -> TextStream:
    delay = settings.max_chunk_delay
    return client.stream(
        settings.prompt,
        model=settings.model,
        max_chars=settings.max_chars,
        temperature=0.0 if settings.greedy else settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        seed=settings.seed,
        stop=[_unescape(stop) for stop in settings.stop],
        max_chunk_chars=settings.max_chunk_chars,
        max_chunk_delay=None if delay is None else delay / 1000,
        timeout=settings.timeout,
    )


def _print(stream: TextStream, settings: StreamSettings) -> None:
    if settings.json_:
        _print_json(stream)
    else:
        _print_text(stream, settings.prompt if settings.echo else "")


def _print_json(stream: TextStream) -> None:
    for text in stream:
        _write(_json_line({"text": text}))
    if stream.finish:
        _write(_json_line({"finish": asdict(stream.finish)}))


def _print_text(stream: TextStream, echo: str) -> None:
    chunks = iter(stream)
    try:
        _write(echo + next(chunks, ""))  # a refused request prints nothing
        for text in chunks:
            _write(text)
    finally:
        if stream.text and sys.stdout.isatty():
            _write("\n")  # so that what comes next has a line of its own
    if stream.finish:
        print(_summary(stream.finish), file=sys.stderr)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _json_line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=_base64) + "\n"


def _base64(token: bytes) -> str:
    return base64.b64encode(token).decode()


def _summary(finish: Finish) -> str:
    """One line of the server's own figures: what the network adds isn't in them."""
    speed = finish.generated_chars / finish.total_seconds if finish.total_seconds else 0.0
    stop = f" {finish.stop!r}" if finish.stop else ""
    return (
        f"{finish.reason}{stop}: {finish.generated_chars} characters, {speed:,.0f} chars/s, "
        f"first after {finish.first_char_seconds * 1000:.1f} ms, seed {finish.seed}"
    )


def _unescape(text: str) -> str:
    return re.sub(r"\\[ntr\\]", lambda match: ESCAPES[match[0]], text)


if __name__ == "__main__":
    sys.exit(main())
