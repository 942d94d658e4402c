"""The answers to /v1/completions: messages of a text as OpenAI's choices, one by one or collected."""

import base64
import codecs
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from protos import charstream_pb2 as pb
from server.errors import InvalidField
from server.http.bodies import to_event, to_fields
from server.observe.call import current_call
from server.service.calls import Writer

__all__ = [
    "MAX_COLLECTED",
    "NUMBER_WEIGHT",
    "REASONS",
    "Answer",
    "Choice",
    "Collected",
    "Echo",
    "Streamed",
    "byte_name",
    "check_size",
    "join_numbers",
    "own_fields",
]

REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    # OpenAI has no third reason; `charstream.finish` tells them apart.
    pb.FINISH_REASON_DEADLINE: "length",
}


# A whole answer waits in memory: this is the most of its characters, each of which counts for more with numbers.
MAX_COLLECTED, NUMBER_WEIGHT = 1_000_000, 8
# The name of a byte that is not the first of its character.
CONTINUES = re.compile(r"bytes:\\x[89ab]")


def check_size(request: pb.GenerateRequest, texts: int, default_chars: int) -> None:
    """Raise InvalidField if a whole answer of this number of texts would be too large."""
    chars = request.max_chars if request.HasField("max_chars") else default_chars
    weight = NUMBER_WEIGHT * (1 + request.logprobs) if request.HasField("logprobs") else 1
    most = MAX_COLLECTED // (texts * weight)
    if chars + (len(request.prompt) if request.echo else 0) > most:
        reason = f"a whole answer to this request may have {most} characters: ask for a stream"
        raise InvalidField("max_chars", f"is {chars}; {reason}")


@dataclass
class Answer:
    """The parts that all messages of an answer share, and its counts.

    Attributes:
        each: texts of each prompt.
        fingerprint: the numerics of the replica, once a text has begun.
    """

    id: str
    model: str
    each: int
    echo: bool
    created: int = field(default_factory=lambda: int(time.time()))
    fingerprint: str | None = None
    prompt_chars: dict[int, int] = field(default_factory=dict)  # by the prompt's number
    generated_chars: int = 0

    def body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self.id}",
            "object": "text_completion",
            "created": self.created,
            "model": self.model or current_call().model.partition(" ")[0],
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }

    @property
    def usage(self) -> dict[str, int]:
        prompts = sum(self.prompt_chars.values())
        total = prompts + self.generated_chars
        return {"prompt_tokens": prompts, "completion_tokens": self.generated_chars, "total_tokens": total}

    def index(self, number: int, message: pb.GenerateResponse) -> int:
        """Return the index of the choice that a message of the prompt with this number belongs to."""
        return number * self.each + (message.index if self.each > 1 else 0)

    def note(self, number: int, message: pb.GenerateResponse) -> None:
        if message.HasField("started"):
            self.fingerprint = message.started.replica.numerics
        if message.HasField("finish"):
            self.prompt_chars[number] = message.finish.prompt_chars
            self.generated_chars += message.finish.generated_chars


class Echo:
    """Turns the messages of a scored text into those of an echo with nothing after it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._chars = 0  # of it, in the messages so far
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def message(self, score: pb.ScoreResponse) -> pb.GenerateResponse:
        begin, self._chars = self._chars, self._chars + len(score.logprobs.chosen)
        text = self._decoder.decode(score.raw) if score.raw else self._text[begin : self._chars]
        echo = pb.GenerateResponse(text=text, raw=score.raw)
        if score.HasField("logprobs"):
            echo.logprobs.CopyFrom(score.logprobs)
        if score.HasField("summary"):
            summary = score.summary
            echo.started.replica.CopyFrom(summary.replica)
            echo.finish.CopyFrom(
                pb.Finish(
                    reason=pb.FINISH_REASON_LENGTH,
                    prompt_chars=summary.chars,
                    position=summary.position,
                    timings=summary.timings,
                    resume_token=summary.resume_token,
                )
            )
        return echo


class Choice:
    """One text as its messages come."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.chars = 0  # of its text so far

    def part(self, message: pb.GenerateResponse) -> dict[str, Any]:
        """Return a message's part of the choice."""
        part = {"index": self.index, "text": message.text, "logprobs": None, "finish_reason": None}
        tokens, offsets = self._places(message)
        if message.HasField("logprobs"):
            part["logprobs"] = _logprobs(message, tokens, offsets)
        if message.HasField("finish"):
            part["finish_reason"] = REASONS.get(message.finish.reason)
        if own := own_fields(message):
            part["charstream"] = own
        return part

    def _places(self, message: pb.GenerateResponse) -> tuple[list[str], list[int]]:
        """Return a message's characters, or the names of its bytes, and where in the text each of them is."""
        tokens = [byte_name(chr(byte)) for byte in message.raw] if message.raw else list(message.text)
        offsets = []
        for token in tokens:
            self.chars += not CONTINUES.match(token)
            offsets.append(self.chars - 1)
        return tokens, offsets


def own_fields(message: pb.GenerateResponse) -> dict[str, Any]:
    """Return what OpenAI's choice has no place for."""
    own = dict[str, Any]()
    for name in ("started", "checkpoint", "finish"):
        if message.HasField(name):
            own[name] = to_fields(getattr(message, name))
    if message.raw:
        own["raw"] = base64.b64encode(message.raw).decode()
    return own


def _logprobs(message: pb.GenerateResponse, tokens: list[str], offsets: list[int]) -> dict[str, Any]:
    """Return the numbers of a message's characters, each with the most probable ones at its place."""
    chosen, best = list(message.logprobs.chosen), message.logprobs.alternatives
    name = byte_name if message.raw else str
    top = [{token: own} for token, own in zip(tokens, chosen, strict=True)]
    for place, others in zip(top, best, strict=False):
        place.update(zip(map(name, others.chars), others.logprobs, strict=True))
    return {"tokens": tokens, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets}


def byte_name(byte: str) -> str:
    """Return a byte, written as a code point, as OpenAI names tokens that are parts of characters."""
    return byte if byte.isascii() else f"bytes:\\x{ord(byte):02x}"


class Collected:
    """A whole answer."""

    def __init__(self, about: Answer) -> None:
        self._about = about
        self._choices: dict[int, Choice] = {}
        self._parts: dict[int, list[dict[str, Any]]] = {}

    def writer(self, number: int) -> Writer:
        return _Writer(self, number)

    async def write(self, number: int, message: pb.GenerateResponse) -> None:
        self._about.note(number, message)
        index = self._about.index(number, message)
        choice = self._choices.setdefault(index, Choice(index))
        self._parts.setdefault(index, []).append(choice.part(message))

    def answer(self) -> dict[str, Any]:
        choices = [_join(parts) for _, parts in sorted(self._parts.items())]
        return self._about.body(choices, usage=self._about.usage)


def _join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a whole choice. Of checkpoints it has the last one."""
    whole = parts[-1] | {"text": "".join(part["text"] for part in parts)}
    whole["logprobs"] = join_numbers([part["logprobs"] for part in parts])
    own = {name: value for part in parts for name, value in part.get("charstream", {}).items()}
    raw = [base64.b64decode(part["charstream"]["raw"]) for part in parts if "raw" in part.get("charstream", {})]
    if raw:
        own["raw"] = base64.b64encode(b"".join(raw)).decode()
    return whole | {"charstream": own}


def join_numbers(parts: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the numbers of all parts of a text; None if there are none."""
    numbers = [part for part in parts if part]
    return {name: [value for one in numbers for value in one[name]] for name in numbers[0]} if numbers else None


class Streamed:
    """An answer as server-sent events.

    Args:
        send: takes bytes that are whole events.
        usage: whether an event with the counts comes before the last one.
    """

    def __init__(self, about: Answer, send: Callable[[bytes], Awaitable[None]], *, usage: bool) -> None:
        self._about, self._send = about, send
        self._more = {"usage": None} if usage else {}
        self._choices: dict[int, tuple[Choice, bytes, bytes]] = {}

    def writer(self, number: int) -> Writer:
        return _Writer(self, number)

    async def write(self, number: int, message: pb.GenerateResponse) -> None:
        index = self._about.index(number, message)
        known = self._choices.get(index)
        if known and _is_text_alone(message):
            choice, head, tail = known
            choice.chars += len(message.text)
            await self._send(head + json.dumps(message.text, ensure_ascii=False).encode() + tail)
            return
        self._about.note(number, message)
        choice = known[0] if known else Choice(index)
        event = to_event(self._about.body([choice.part(message)], **self._more))
        if not known:
            self._choices[index] = (choice, *self._frame(index))
        await self._send(event)

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """Return what is before and after the text in events that have nothing else: most of them."""
        bare = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
        head, quotes, tail = to_event(self._about.body([bare], **self._more)).partition(b'"text":""')
        return head + quotes[:-2], tail

    async def end(self) -> None:
        last = b"data: [DONE]\n\n"
        if self._more:
            last = to_event(self._about.body([], usage=self._about.usage)) + last
        await self._send(last)


class _Writer:
    """Takes the messages of one prompt."""

    def __init__(self, answer: Collected | Streamed, number: int) -> None:
        self._answer, self._number = answer, number

    async def write(self, message: pb.GenerateResponse) -> None:
        await self._answer.write(self._number, message)


def _is_text_alone(message: pb.GenerateResponse) -> bool:
    own = message.raw or message.HasField("finish") or message.HasField("checkpoint") or message.HasField("started")
    return not own and not message.HasField("logprobs")
