"""The flags of `charstream stream`, and the options and the prompt that they stand for."""

import os
import re
import stat
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from charstream.settings import Positional
from client.commands.common import Connection, ModelChoice
from client.commands.files import STDIN, read_bytes, read_text
from client.options import GenerateOptions
from client.results import Repeat

__all__ = ["StreamSettings", "generate_options", "read_prompt", "unescape"]

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


def unescape(text: str) -> str:
    return re.sub(r"\\[ntr\\]", lambda match: ESCAPES[match[0]], text)


def _to_bias(given: Any) -> Any:
    """Split "e=-2" at its last "=", so that "==1" is about the character "="."""
    char, equals, number = str(given).rpartition("=")
    char = unescape(char)
    if not equals or len(char) != 1:
        raise ValueError('must be one character, "=" and a number, as in "e=-2"')
    return char, number


def _to_repeat(given: Any) -> Any:
    """Read "200,4" or "20-200,4": the periods, and how many times."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+),(\d+)", str(given))
    if not found:
        raise ValueError('must be the longest period, a comma and a number of times, as in "200,4", or "20-200,4"')
    least, most, times = found.groups()
    return Repeat(int(most), int(times), int(least or 1))


def _unescape_prompt(text: str | None) -> str | None:
    return None if text is None else unescape(text)


Escaped = Annotated[str, AfterValidator(unescape)]
RepeatFlag = Annotated[Repeat, BeforeValidator(_to_repeat)]
CharBias = Annotated[tuple[str, float], BeforeValidator(_to_bias)]


class StreamSettings(ModelChoice, Connection):
    r"""Streams the characters that follow a prompt to stdout, and how it ended to stderr.
    In the prompt, --stop, --allowed, --banned and --bias, \n, \t, \r and \\ (a backslash) are understood; what comes
    from standard input or a file has no escapes; its byte order mark is left out, and its line ends become newlines."""

    stray_word: ClassVar = "a prompt of several words stands in quotes"

    prompt: Annotated[str | None, Positional(), AfterValidator(_unescape_prompt)] = Field(
        None,
        description='the text to continue. "-": from standard input, less one line end at its end; so too where none '
        "is given and standard input is a pipe or a file. None, or '': the model begins a text. "
        'One that begins with "-" comes last, after the flags and "--"',
    )
    unknown: Literal["refuse", "skip", "replace"] | None = Field(
        None,
        description="characters of the prompt that the model does not know: refuse it, leave them out, or put another",
    )
    max_chars: int | None = Field(None, description="generate at most so many characters")
    min_chars: int | None = Field(
        None, description="stop strings and repetitions count after so many generated characters"
    )
    temperature: float | None = Field(None, description="divides the logits: below 1 safer, above 1 wilder")
    top_k: int | None = Field(None, description="only the so many most probable characters")
    top_p: float | None = Field(None, description="of those, the fewest whose shares reach this sum")
    min_p: float | None = Field(None, description="only those at least this share as probable as the most probable")
    greedy: bool = Field(False, description="always the most probable character, as --temperature 0")
    allowed: Escaped | None = Field(None, description="only these characters")
    banned: Escaped | None = Field(None, description="none of these characters")
    bias: tuple[CharBias, ...] = Field(
        (), description='"e=-2" adds -2 to the logit of "e"; -100 to 100. For the character "-": --bias=-=2'
    )
    seed: int | None = Field(None, description="same seed, same text; without one a random one")
    n: int = Field(1, ge=1, description="so many continuations, one below the other")
    continuation: int | None = Field(None, description="only this one of them; the first is 0")
    stop: tuple[Escaped, ...] = Field((), description="end before this string")
    include_stop: bool = Field(False, description="end after the stop string instead")
    stop_on_repeat: RepeatFlag | None = Field(
        None,
        description='"200,4": end when the last characters are one block of at most 200, 4 times in a row; "20-200,4": '
        "of at least 20, so that indentation and rows of dots may be long",
    )
    logprobs: int | None = Field(
        None, description="with --json: each character's log-probability, and so many most probable ones at its place"
    )
    max_chunk_chars: int | None = Field(None, description="at most so many characters at a time")
    max_chunk_delay: float | None = Field(None, description="ms a character may wait for others to travel with")
    time_limit: float | None = Field(None, description="seconds after which the text ends, as at --max-chars")
    timeout: float | None = Field(None, gt=0, description="seconds after which it fails")
    token_in: Path | None = Field(
        None, description="go on where the text ended that wrote this file; the prompt comes in between"
    )
    token_out: Path | None = Field(
        None, description="write a resume token for the end of the text; keep it as you keep the text"
    )
    other_numerics: bool = Field(
        False, description="go on, also from --token-in, where another precision or machine may give another text"
    )
    http: bool = Field(False, description="ask the HTTP port of the servers (--http-port there): --host has that port")
    hedge_after: float | None = Field(
        None,
        gt=0,
        description="seconds without a first character after which the next --host is asked too, for the same text",
    )
    resume: bool = Field(True, description="go on by itself where the connection or the server is lost")
    checkpoint_chars: int | None = Field(
        None, description="for that at most about so many characters are sent back; 0: all"
    )
    echo: bool = Field(True, description="print the prompt before its continuation")
    json_: bool = Field(
        False,
        description='one object a line: {"text": ...} for each chunk, then {"finish": ...}; with --n also "index"',
    )
    interactive: bool = Field(False, description="write a text by turns with the model; /help there says how")

    @model_validator(mode="after")
    def _belong_together(self) -> "StreamSettings":
        if self.greedy and self.temperature:
            raise ValueError("--greedy is temperature 0: give it or --temperature, not both")
        if self.logprobs is not None and not self.json_:
            raise ValueError("--logprobs has no place in the text: give --json as well")
        if self.n > 1 and self.token_out:
            raise ValueError("--token-out is for one text: ask for one of the --n with --continuation")
        if self.token_out and not self.token_out.resolve().parent.is_dir():
            raise ValueError(f"--token-out: {self.token_out}: there is no such folder")
        if self.interactive and (self.json_ or self.n > 1 or self.token_out or self.prompt == str(STDIN)):
            raise ValueError("--interactive reads turns and prints text: no --json, --n, --token-out or prompt -")
        return self


def generate_options(settings: StreamSettings) -> GenerateOptions:
    """Return the options for the client. Raises ValueError: the file of --token-in can't be read, or is empty."""
    delay = settings.max_chunk_delay
    return {
        # A token has the model of its text: only a flag overrides it, not the variable.
        "model": settings.model if settings.token_in is None or "model" in settings.model_fields_set else "",
        "unknown": settings.unknown,
        "max_chars": settings.max_chars,
        "min_chars": settings.min_chars,
        "temperature": 0.0 if settings.greedy else settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "allowed": settings.allowed,
        "banned": settings.banned,
        "bias": dict(settings.bias),
        "seed": settings.seed,
        "continuation": settings.continuation,
        "stop": settings.stop,
        "include_stop": settings.include_stop,
        "stop_on_repeat": settings.stop_on_repeat,
        "logprobs": settings.logprobs,
        "max_chunk_chars": settings.max_chunk_chars,
        "max_chunk_delay": None if delay is None else delay / 1000,
        "time_limit": settings.time_limit,
        "resume_token": _read_token(settings.token_in),
        "return_token": settings.token_out is not None,
        "other_numerics": settings.other_numerics,
        "checkpoint_chars": settings.checkpoint_chars,
    }


def _read_token(path: Path | None) -> bytes:
    if path is None:
        return b""
    token = read_bytes(path, "--token-in")
    if not token:
        raise ValueError(f"--token-in: {path}: is empty")
    return token


def read_prompt(given: str | None) -> str:
    """Return the prompt, from standard input if it shall come from there. Raises ValueError: that is not UTF-8."""
    if given != str(STDIN) and not (given is None and _is_piped()):
        return given or ""
    if sys.stdin and sys.stdin.isatty():
        print("the prompt, and Ctrl-D at its end:", file=sys.stderr)
    text = read_text(STDIN)
    # Echo, editors and here-documents end a text with a line end that is not meant.
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def _is_piped() -> bool:
    """Return whether standard input is a pipe or a file: no terminal, and not /dev/null, as in services and cron."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # there is none, it is closed, or Python replaced it
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
