"""`charstream score`: how probable texts are to a model, in a line each, in colours or as JSON."""

import collections
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from charstream.settings import Positional, parse
from client.commands.common import Connection, ModelChoice, connect, one_line_errors
from client.commands.files import STDIN, read_text
from client.commands.printing import json_line, write
from client.commands.surprise import legend, paint
from client.results import ModelInfo, ScoredPart, ScoreSummary
from client.score_task import PART_CHARS
from client.sync_client import Client
from client.sync_streams import ScoreStream

__all__ = ["ScoreSettings", "main"]

COMMAND = "charstream score"
HEADER = ("file", "characters", "nats/char", "bits/char", "perplexity")
MOST_COLORED = 20_000  # characters: as much as somebody may look at


class ScoreSettings(ModelChoice, Connection):
    """Tells how probable texts are to a model: characters, nats and bits per character, perplexity per character.
    Each text is read from the start character on with one state that is never reset: the protocol that `charstream
    train` calls carried."""

    file: Annotated[tuple[Path, ...], Positional()] = Field(description='UTF-8 text; "-" is standard input')
    color: Literal["auto", "always", "never"] = Field(
        "auto",
        description="print the text, each character's background telling its surprise; auto: on a terminal, "
        f"for texts of at most {MOST_COLORED:,} characters, unless the variable NO_COLOR is set",
    )
    json_: bool = Field(False, description="one object a line for each file")
    each: bool = Field(False, description="with --json: also each character's log-probability, in nats")
    alternatives: int = Field(0, ge=0, description="with --json: also so many most probable characters at each place")
    part_chars: int = Field(
        PART_CHARS, ge=1, description="characters of one request; fewer where the server's --max-prompt-chars is lower"
    )
    unknown: Literal["refuse", "skip", "replace"] | None = Field(
        None,
        description="characters that the model does not know: refuse the text, leave them out, or put another; how "
        "many there are is told on stderr",
    )
    timeout: float | None = Field(None, gt=0, description="seconds for each file, after which it fails")

    @model_validator(mode="after")
    def _belong_together(self) -> "ScoreSettings":
        if (self.each or self.alternatives) and not self.json_:
            raise ValueError("--each and --alternatives have no place in the table: give --json as well")
        if self.json_ and self.color == "always":
            raise ValueError("--json has no colors: give it or --color always, not both")
        return self


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code 0; end with 1 if something failed, with 2 if a text or a flag is wrong."""
    settings = parse(ScoreSettings, argv, command=COMMAND)
    with one_line_errors(COMMAND, settings), connect(settings) as client:
        texts = {path: _read(path) for path in settings.file}
        model = None if settings.unknown in ("skip", "replace") else _model(client, settings)
        if model:
            for path, text in texts.items():
                _check(path, text, model)
        _score(client, settings, texts)
    return 0


def _read(path: Path) -> str:
    if path != STDIN and not path.exists():
        raise ValueError(f"{path}: No such file or directory; a text itself comes by: echo TEXT | {COMMAND} -")
    text = read_text(path)
    if not text:
        raise ValueError(f"{path}: is empty: there is nothing to score")
    return text


def _model(client: Client, settings: ScoreSettings) -> ModelInfo | None:
    """Return the model that will answer, or None if that is none or not known: the server will complain itself."""
    if settings.model:
        return client.model(settings.model, timeout=settings.timeout)
    models = client.models(timeout=settings.timeout)
    return next((model for model in models if model.is_server_default), models[0] if len(models) == 1 else None)


def _check(path: Path, text: str, model: ModelInfo) -> None:
    """Refuse unknown characters before the server would, which counts in parts and scores all that comes before."""
    unknown = set() if model.unit == "bytes" else set(text).difference(model.vocabulary)
    if not unknown:
        return
    place = next(place for place, char in enumerate(text) if char in unknown)
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    raise ValueError(
        f"{path}: character {text[place]!r} (U+{ord(text[place]):04X}) in line {line}, column {column}, is not in the "
        f"vocabulary of {model.name}"
    )


def _score(client: Client, settings: ScoreSettings, texts: dict[Path, str]) -> None:
    width = max(len(HEADER[0]), *(len(str(path)) for path in texts))
    header = True
    for path, text in texts.items():
        with client.score(
            text,
            part_chars=settings.part_chars,
            timeout=settings.timeout,
            model=settings.model,
            alternatives=settings.alternatives,
            unknown=settings.unknown,
        ) as stream:
            parts = _parts_with_progress(stream, path, len(text))
            if settings.json_:
                write(json_line(_object(path, list(parts), stream.read(), settings)))
                continue
            colored = _in_color(settings, len(text))
            if colored:
                _paint(parts)
            else:
                collections.deque(parts, maxlen=0)
            _tell_unknown(stream.read(), path, settings)
            if header or colored:
                write(_row(width, HEADER))
            write(_row(width, _cells(path, stream.read())))
            header = False


def _object(path: Path, parts: Sequence[ScoredPart], summary: ScoreSummary, settings: ScoreSettings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "file": str(path),
        "chars": summary.chars,
        "nats": summary.nats,
        "bits_per_char": summary.bits_per_char,
        "perplexity": summary.perplexity,
    }
    if summary.unknown_chars:
        found["unknown_chars"] = summary.unknown_chars
    if settings.each:
        found["logprobs"] = [value for part in parts for value in part.logprobs]
    if settings.alternatives:
        found["alternatives"] = [place for part in parts for place in part.alternatives]
    return found


def _parts_with_progress(stream: ScoreStream, path: Path, chars: int) -> Iterator[ScoredPart]:
    """Yield the parts; if the text is too long for colors, show on the terminal how much is done."""
    is_shown = chars > MOST_COLORED and sys.stderr.isatty()
    done = 0
    try:
        for part in stream:
            done += len(part.text)
            if is_shown:
                print(f"\r{path}: {100 * done // chars:3}%", end="", file=sys.stderr, flush=True)
            yield part
    finally:
        if is_shown:
            print("\r" + " " * len(f"{path}: 100%"), end="\r", file=sys.stderr, flush=True)


def _in_color(settings: ScoreSettings, chars: int) -> bool:
    if settings.color != "auto":
        return settings.color == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and chars <= MOST_COLORED and not plain


def _tell_unknown(summary: ScoreSummary, path: Path, settings: ScoreSettings) -> None:
    count = summary.unknown_chars
    if count:
        how = "left out" if settings.unknown == "skip" else "replaced"
        characters = "1 character is" if count == 1 else f"{count:,} characters are"
        print(f"{path}: {characters} unknown to the model and {how}", file=sys.stderr)


def _paint(parts: Iterable[ScoredPart]) -> None:
    last = ""
    for part in parts:
        write(paint(part.text, part.logprobs))
        last = part.text[-1:]
    write(f"{'' if last == chr(10) else chr(10)}{legend()}\n")


def _cells(path: Path, summary: ScoreSummary) -> tuple[str, ...]:
    nats = summary.nats / max(1, summary.chars)
    return str(path), f"{summary.chars:,}", f"{nats:.4f}", f"{summary.bits_per_char:.4f}", f"{summary.perplexity:.4f}"


def _row(width: int, cells: Sequence[str]) -> str:
    name, *figures = cells
    return name.ljust(width) + "".join(figure.rjust(14) for figure in figures) + "\n"


if __name__ == "__main__":
    sys.exit(main())
