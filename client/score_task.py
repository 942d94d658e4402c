"""The score of a text: asked for in parts, each from where the last one ended."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from client.errors import CharstreamError, ServerError
from client.generation_task import pinned
from client.options import check_names, check_range, check_text
from client.results import Replica, ScoredPart, ScoreSummary, to_alternatives, to_replica
from client.whole import whole_characters
from protos import charstream_pb2 as pb

__all__ = ["PART_CHARS", "ScoreOptions", "Scores", "score_request"]

# Of a message, in at most twice as many bytes, which a model of bytes counts: far below what gRPC carries, as many as a
# server takes by default, far above what a message costs.
PART_CHARS = 50_000


class ScoreOptions(TypedDict, total=False):
    """As in `GenerateOptions`, but for the second."""

    # What comes before the text, and is not scored.
    prompt: str
    # So many most probable characters at each place.
    alternatives: int
    model: str
    resume_token: bytes
    return_token: bool
    replica: Replica | None
    other_numerics: bool


def score_request(options: ScoreOptions) -> pb.ScoreRequest:
    """A request without its text. Raises TypeError for an option that doesn't exist, ValueError for a value."""
    check_names(options, ScoreOptions)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("prompt", "model"):
        check_text(name, given.get(name, ""))
    check_range("alternatives", given.get("alternatives", 0), 0, 2**32 - 1)
    replica = given.pop("replica", None)
    return pb.ScoreRequest(**given, replica=replica and replica.message())


def _cut(text: str, chars: int) -> Iterator[str]:
    """Parts of at most so many characters, and twice as many bytes, or one character."""
    at = 0
    while at < len(text):
        part = text[at : at + chars].encode()[: max(4, 2 * chars)].decode(errors="ignore")
        yield part
        at += len(part)


class Scores:
    """A task of `Recovery`: scores `text` after what `request` says."""

    def __init__(self, request: pb.ScoreRequest, text: str, part_chars: int) -> None:
        check_text("text", text)
        check_range("part_chars", part_chars, 1, 2**32 - 1)
        self._request, self._text = request, text
        self._parts = list(_cut(text, part_chars)) or [""]
        self._ends: list[pb.ScoreSummary] = []  # of the parts that are through
        self._answered = False
        self._at = 0  # where the next log-probability belongs
        self._given = 0  # so many characters' came, the server's count
        self._pending_raw = b""  # of a model of bytes: those of a character that is not complete
        self._pending: list[float] = []  # and theirs
        self._bytes = False  # whether the server counts bytes

    @property
    def done(self) -> bool:
        return len(self._ends) == len(self._parts)

    @property
    def answered(self) -> bool:
        return self._answered

    @property
    def begun(self) -> bool:
        return bool(self._given or self._ends)

    @property
    def resumable(self) -> bool:
        return True

    def message(self, now: float) -> pb.ScoreRequest:
        """The part that is next; after a break the same one again."""
        number = len(self._ends)
        self._answered, self._at = False, sum(map(self._size, self._parts[:number]))
        part = pb.ScoreRequest()
        part.CopyFrom(self._request)
        part.text = self._parts[number]
        part.return_token = part.return_token or number < len(self._parts) - 1
        if self._ends:
            last = self._ends[-1]
            part.prompt, part.resume_token = "", last.resume_token
            part.replica.CopyFrom(pinned(to_replica(last.replica), part.other_numerics))
        return part

    def take(self, response: pb.ScoreResponse) -> Sequence[ScoredPart]:
        """Keeps one message; returns what is new in it: a part that broke is scored again from its beginning."""
        chosen, alternatives = list(response.logprobs.chosen), to_alternatives(response.logprobs)
        self._bytes |= bool(response.raw)
        known = min(len(chosen), max(0, self._given - self._at))
        self._at += len(chosen)
        if response.HasField("summary"):
            self._take_end(response.summary)
        if known == len(chosen):
            return ()
        text, logprobs = self._text[self._given : self._at], chosen[known:]
        self._given = self._at
        if self._bytes:
            text, logprobs = self._whole(response.raw[known:], logprobs)
        return (ScoredPart(text, logprobs, alternatives[known:]),)

    def _whole(self, raw: bytes, logprobs: list[float]) -> tuple[str, list[float]]:
        """The characters that these bytes complete; the rest waits."""
        raw, logprobs = self._pending_raw + raw, self._pending + logprobs
        text, found, size = whole_characters(raw, logprobs)
        self._pending_raw, self._pending = raw[size:], logprobs[size:]
        return text, found

    def _size(self, part: str) -> int:
        return len(part.encode()) if self._bytes else len(part)

    def _take_end(self, summary: pb.ScoreSummary) -> None:
        self._ends.append(summary)
        self._answered = True
        if not self.done and not summary.resume_token:
            raise ServerError("the server gave no token to go on from: score a shorter text, or larger parts")

    def without_token(self) -> bool:
        """Whether the text can be scored from its beginning; what came is not given again."""
        refused, self._ends = bool(self._ends), []
        return refused

    def explained(self, error: CharstreamError, now: float) -> CharstreamError:
        return error

    @property
    def summary(self) -> ScoreSummary | None:
        """Over all parts; None before the end."""
        if not self.done:
            return None
        chars, nats = len(self._text), sum(end.nats for end in self._ends)
        each, last = nats / max(1, chars), self._ends[-1]
        return ScoreSummary(
            chars=chars,
            nats=nats,
            bits_per_char=each / math.log(2),
            perplexity=_exp(each),
            position=last.position,
            resume_token=last.resume_token,
            replica=to_replica(last.replica),
        )


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
