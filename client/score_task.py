"""The score of a text on the client's side: asked for in parts, each from where the last one ended."""

import codecs
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypedDict

from charstream.protos import charstream_pb2 as pb

from .errors import CharstreamError, ServerError
from .options import check_names, check_range, check_text, unknown_mode
from .results import Replica, ScoredPart, ScoreSummary, required_replica, to_alternatives, to_replica

__all__ = ["PART_CHARS", "ScoreOptions", "ScoreTask", "score_request"]

# Characters of one message, which has at most twice as many bytes (a model of bytes counts those): far below gRPC's
# limit, as many as a server takes by default, and enough to make a message's own cost small.
PART_CHARS = 50_000


class ScoreOptions(TypedDict, total=False):
    """The options of a score. None is as if the option were absent: then its default counts."""

    prompt: str
    """A text before the scored one, which is not scored itself. Default: none."""
    alternatives: int
    """How many (0 to 20) of the most probable characters to give at each place. Default: 0."""
    model: str
    """NAME or NAME@VERSION of a served model. Default: the server's choice, where it has one."""
    unknown: Literal["refuse", "skip", "replace"] | None
    """Characters of the text and its prompt that the model doesn't know: "refuse" fails, "skip" leaves them out,
    "replace" takes U+FFFD, "?", a space or the start character for each; `summary.unknown_chars` counts them.
    Default: "refuse"."""
    resume_token: bytes
    """The token of an earlier `finish` or `summary`: the text follows its place. Default: a new text."""
    return_token: bool
    """`summary` gets a resume token. Default: False."""
    replica: Replica | None
    """Only a replica that equals this one in the fields that are set may answer. Default: any."""
    other_numerics: bool
    """Go on from a token, or after a break, also on servers of other precision or numerics. Default: False."""


def score_request(options: ScoreOptions) -> pb.ScoreRequest:
    """Build the request, without its text.

    Raises:
        TypeError: an option that doesn't exist.
        ValueError: a value that the message can't hold.
    """
    check_names(options, ScoreOptions)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("prompt", "model"):
        check_text(name, given.get(name, ""))
    check_range("alternatives", given.get("alternatives", 0), 0, 2**32 - 1)
    replica, unknown = given.pop("replica", None), unknown_mode(given)
    return pb.ScoreRequest(**given | {"unknown": unknown}, replica=replica and replica.message())


def _cut(text: str, chars: int) -> Iterator[str]:
    """Yield parts of at most `chars` characters and 2 * `chars` bytes, but of at least one character."""
    at = 0
    while at < len(text):
        part = text[at : at + chars].encode()[: max(4, 2 * chars)].decode(errors="ignore")
        yield part
        at += len(part)


class ScoreTask:
    """A task of `Recovery`: the score of `text`, after the prompt or the token of `request`."""

    def __init__(self, request: pb.ScoreRequest, text: str, part_chars: int) -> None:
        check_text("text", text)
        check_range("part_chars", part_chars, 1, 2**32 - 1)
        self._request, self._text = request, text
        self._parts = list(_cut(text, part_chars)) or [""]
        self._ends: list[pb.ScoreSummary] = []  # of the parts that are scored
        self._is_answered = False
        self._part_begin = 0  # where the part that is being scored begins, as the server counts
        self._at = 0  # where the next log-probability belongs, as the server counts
        self._given = 0  # where the first one belongs that the caller has not got yet
        self._pending_raw = b""  # from a model of bytes: those of a character that is not complete
        self._pending: list[float] = []  # their log-probabilities
        self._bytes = False  # whether the server counts bytes
        self._requests = 0  # sent
        self.attempt, self.replayed_chars = "", 0

    @property
    def is_done(self) -> bool:
        return len(self._ends) == len(self._parts)

    @property
    def is_answered(self) -> bool:
        return self._is_answered

    @property
    def has_begun(self) -> bool:
        return bool(self._given or self._ends)

    @property
    def can_resume(self) -> bool:
        return True

    @property
    def has_advanced(self) -> bool:
        return False

    def message(self, now: float) -> pb.ScoreRequest:
        """Return the request for the next part; after a break that is the same part again."""
        number = len(self._ends)
        if self._requests and not self._is_answered:
            self.attempt = "replay" if self.has_begun else "retry"
        else:
            self.attempt = ""
        self._requests += 1
        self._is_answered, self._part_begin = False, sum(end.chars for end in self._ends)
        self._at = self._part_begin
        part = pb.ScoreRequest()
        part.CopyFrom(self._request)
        part.text = self._parts[number]
        part.return_token = part.return_token or number < len(self._parts) - 1
        if self._ends:
            last = self._ends[-1]
            part.prompt, part.resume_token = "", last.resume_token
            part.replica.CopyFrom(required_replica(to_replica(last.replica), part.other_numerics))
        return part

    def take(self, response: pb.ScoreResponse, now: float) -> Sequence[ScoredPart]:
        """Keep one message; return the news in it: after a break a part is scored again from its beginning."""
        chosen, alternatives = list(response.logprobs.chosen), to_alternatives(response.logprobs)
        part, begin = self._parts[len(self._ends)], self._part_begin
        self._bytes |= bool(response.raw)
        known = min(len(chosen), max(0, self._given - self._at))
        self._at += len(chosen)
        if response.HasField("summary"):
            self._ends.append(response.summary)
            self._is_answered = True
            if not self.is_done and not response.summary.resume_token:
                raise ServerError("the server gave no token to go on from: score a shorter text, or larger parts")
        if known == len(chosen):
            return ()
        # A part of which the server changed characters comes with its text.
        text, logprobs = response.text[known:] or part[self._given - begin : self._at - begin], chosen[known:]
        self._given = self._at
        if self._bytes:
            text, logprobs = self._take_bytes(response.raw[known:], logprobs)
        return (ScoredPart(text, logprobs, alternatives[known:]),)

    def _take_bytes(self, raw: bytes, logprobs: list[float]) -> tuple[str, list[float]]:
        """Return the characters that these bytes complete, and keep the rest."""
        raw, logprobs = self._pending_raw + raw, self._pending + logprobs
        text, found, size = _complete_characters(raw, logprobs)
        self._pending_raw, self._pending = raw[size:], logprobs[size:]
        return text, found

    def note_loss(self, *, is_taken: bool) -> None:
        pass

    def drop_token(self) -> bool:
        """Score the text from its beginning, without giving again what came; return whether that changes anything."""
        had_token, self._ends = bool(self._ends), []
        return had_token

    def attach_progress(self, error: CharstreamError, now: float) -> CharstreamError:
        return error

    @property
    def summary(self) -> ScoreSummary | None:
        """The figures of all parts together; None before the end."""
        if not self.is_done:
            return None
        # Characters also where the server counts bytes; without those that it left out.
        chars = len(self._text) if self._bytes else sum(end.chars for end in self._ends)
        nats = sum(end.nats for end in self._ends)
        each, last = nats / max(1, chars), self._ends[-1]
        return ScoreSummary(
            chars=chars,
            nats=nats,
            bits_per_char=each / math.log(2),
            perplexity=_exp(each),
            position=last.position,
            resume_token=last.resume_token,
            replica=to_replica(last.replica),
            unknown_chars=sum(end.unknown_chars for end in self._ends),
        )


def _complete_characters(raw: bytes, logprobs: Sequence[float]) -> tuple[str, list[float], int]:
    """Return the complete characters at the beginning of some UTF-8, the sums of their bytes' log-probabilities, and
    the number of their bytes."""
    text = codecs.getincrementaldecoder("utf-8")().decode(raw)  # leaves out an incomplete character at the end
    ends = [0, *itertools.accumulate(len(char.encode()) for char in text)]
    return text, [sum(logprobs[a:b]) for a, b in itertools.pairwise(ends)], ends[-1]


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
