"""Generated texts on the client's side: each keeps what has come, and makes the request for the missing rest alone."""

from collections.abc import Sequence

from charstream.protos import charstream_pb2 as pb

from .errors import CharstreamError, ServerError, WrongReplica
from .options import CHECKPOINT_CHARS_AFTER_LOSS, CHECKPOINT_CHARS_ON_THE_WAY_BACK, check_range
from .results import BEGINNING, Finish, Place, Progress, Started, required_replica, to_alternatives, to_replica

__all__ = ["ContinuationsTask", "TextTask"]

REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_DEADLINE: "deadline",
    pb.FINISH_REASON_DRAINED: "drained",
    pb.FINISH_REASON_REPEAT: "repeat",
}


class TextTask:
    """A task of `Recovery`: the one text that `request` describes.

    Args:
        spaced: once a server was lost, checkpoints are asked for more often than in `request`; False: the caller said
            how often.
    """

    def __init__(self, request: pb.GenerateRequest, *, spaced: bool) -> None:
        self._request, self._spaced = request, spaced
        self._requests = 0  # sent
        self._lost = 0  # how many servers since the last character that was not known
        self._known = ""  # what comes next and is known already: see `_rest`
        self.has_advanced = False
        self._parts: list[str] = []
        self._raw: list[bytes] = []  # from a model of bytes
        self._chars = 0  # or bytes, if the server counts those
        self._base = BEGINNING  # where the request that is being answered begins
        self._checkpoint = BEGINNING  # the newest one
        self._is_first = True  # no message of the answer has come
        self._since: float | None = None  # when the first request was made
        self._first_seconds: float | None = None  # from then until the first characters came
        self.logprobs: list[float] = []
        self.alternatives: list[list[tuple[str, float]]] = []
        self.started: Started | None = None
        self.finish: Finish | None = None
        self.resumes = 0
        self.replayed_chars = 0

    @classmethod
    def from_progress(cls, progress: Progress, now: float) -> "TextTask":
        text = cls(pb.GenerateRequest.FromString(progress.request), spaced=progress.spaced)
        text._parts, text._raw = [progress.text], [progress.raw] if progress.raw else []
        text._chars = len(progress.raw or progress.text)
        text._checkpoint = progress.checkpoint
        text._since, text._first_seconds = now - progress.seconds, progress.first_seconds
        text.logprobs = list(progress.logprobs)
        text.alternatives = [list(place) for place in progress.alternatives]
        text.started = progress.started
        return text

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def raw(self) -> bytes:
        return b"".join(self._raw)

    @property
    def is_done(self) -> bool:
        return self.finish is not None and self.finish.reason != "drained"

    @property
    def is_answered(self) -> bool:
        return self.is_done

    @property
    def has_begun(self) -> bool:
        return self.started is not None or bool(self._chars)

    @property
    def can_resume(self) -> bool:
        """A server that doesn't say how it started doesn't know the field `received`: it would begin again."""
        return self.started is not None or not self._chars

    @property
    def attempt(self) -> str:
        if self.started is None:
            return "retry" if self._requests > 1 else ""
        return "remake" if self._known else "checkpoint" if self._base.token else "replay"

    def message(self, now: float) -> pb.GenerateRequest:
        """Return the request itself or, once the text has started, one for its rest."""
        if self._since is None:
            self._since = now
        self._is_first, self.finish, self._requests, self._known = True, None, self._requests + 1, ""
        if self.started is None:
            return self._request
        self._base = self._checkpoint if self._checkpoint.text_chars <= self._chars else BEGINNING
        return self._rest(self.started, self._base, now - self._since)

    def _rest(self, started: Started, base: Place, seconds: float) -> pb.GenerateRequest:
        rest = pb.GenerateRequest()
        rest.CopyFrom(self._request)
        rest.seed = started.seed
        rest.max_chars = started.max_chars - base.generated_chars
        if self._raw:
            rest.received_raw = self.raw[base.text_chars :]
        else:
            rest.received = self.text[base.text_chars :]
        rest.replica.CopyFrom(required_replica(started.replica, rest.other_numerics))
        if rest.HasField("time_limit"):
            rest.time_limit.FromNanoseconds(max(1_000_000, rest.time_limit.ToNanoseconds() - round(seconds * 1e9)))
        if base.token:
            rest.resume_token, rest.prompt, rest.echo = base.token, "", False
            if rest.min_chars:
                rest.min_chars = max(0, rest.min_chars - base.generated_chars)
        if self._spaced:
            rest.checkpoint_chars = CHECKPOINT_CHARS_AFTER_LOSS
        remakes = self._spaced and self._lost > 1 and not self._raw and not rest.other_numerics
        if remakes and not rest.HasField("time_limit"):  # one may be over before the way back is
            # A server was lost before it had read what came: the next one makes it again, with checkpoints on the way.
            self._known, rest.received = rest.received, ""
            rest.checkpoint_chars = CHECKPOINT_CHARS_ON_THE_WAY_BACK
        self.resumes += 1
        self.replayed_chars += len(rest.received_raw or rest.received)
        return rest

    def take(self, response: pb.GenerateResponse, now: float) -> Sequence[str]:
        """Keep one message, which came at `now`; return the characters in it, if there are any.

        Raises:
            WrongReplica: the server can't go on with a text and began it again.
        """
        self._check_beginning(response)
        known, seconds = self._skip(response.text), self._seconds(now)
        text = response.text[known:]
        if text:
            self._lost = 0
        if text and self._first_seconds is None:
            self._first_seconds = seconds
        self._parts.append(text)
        if response.raw:
            self._raw.append(response.raw)
        self._chars += len(response.raw or text)
        self.logprobs += response.logprobs.chosen[known:]
        self.alternatives += to_alternatives(response.logprobs)[known:]
        self.has_advanced = response.HasField("checkpoint")
        if self.has_advanced:
            self._take_checkpoint(response.checkpoint)
        if response.HasField("finish"):
            self.finish = self._to_finish(response.finish, seconds)
        return (text,) if text else ()

    def _skip(self, text: str) -> int:
        """Return how many characters of a message's text are known already.

        Raises:
            WrongReplica: they are others.
        """
        count = min(len(self._known), len(text))
        if self._known[:count] != text[:count]:
            raise WrongReplica("the server makes another text than the one that began")
        self._known = self._known[count:]
        return count

    def _check_beginning(self, response: pb.GenerateResponse) -> None:
        if not response.HasField("started"):
            if self._is_first and self.started and response.finish.reason != pb.FINISH_REASON_DRAINED:
                raise WrongReplica("the server is too old to go on with a text")
        elif self.started is None:
            message = response.started
            self.started = Started(message.seed, message.max_chars, to_replica(message.replica), message.unknown_chars)
        self._is_first = False

    def _take_checkpoint(self, message: pb.Checkpoint) -> None:
        place = Place(
            message.resume_token,
            self._base.text_chars + message.text_chars,
            self._base.generated_chars + message.generated_chars,
        )
        # From the very end nothing is left to ask for; from the checkpoint before, the finish can be asked for again.
        if self.started and place.generated_chars < self.started.max_chars:
            self._checkpoint = place

    def _to_finish(self, message: pb.Finish, seconds: float) -> Finish:
        """Return the finish with the counts and times of the whole text, which took `seconds`.

        After a checkpoint the server knows no prompt, and counts from there. Of requests before its own it knows
        nothing, so then the times are the caller's.
        """
        first_seconds, total_seconds = message.timings.first_char_seconds, message.timings.total_seconds
        if self._requests > 1 or self.resumes:
            first_seconds, total_seconds = self._first_seconds or seconds, seconds
        # The end came on the way back: the text is all that is known, and the token is of another place.
        known = 0 if message.reason == pb.FINISH_REASON_DRAINED else len(self._known)
        prompt = self._request.prompt
        prompt_chars = len(prompt.encode() if self._raw else prompt) if self._base.token else message.prompt_chars
        if self._base.token and self.started and self._request.unknown == pb.UNKNOWN_SKIP:
            prompt_chars -= self.started.unknown_chars
        return Finish(
            reason=REASONS.get(message.reason, "unknown"),
            stop=message.stop,
            prompt_chars=prompt_chars,
            generated_chars=self._base.generated_chars + message.generated_chars + known,
            seed=message.seed,
            queue_seconds=message.timings.queue_seconds,
            first_char_seconds=first_seconds,
            total_seconds=total_seconds,
            position=message.position + known,
            resume_token=b"" if known else message.resume_token,
            stop_chars_sent=message.stop_chars_sent,
            repeat_period=message.repeat_period,
        )

    def drop_token(self) -> bool:
        had_token, self._checkpoint = bool(self._base.token), BEGINNING
        if self._spaced and had_token:  # no server takes another's tokens: they would be sent in vain
            self._spaced = False
            self._request.ClearField("checkpoint_chars")
        return had_token

    def attach_progress(self, error: CharstreamError, now: float) -> CharstreamError:
        return error.after(self.text, self.progress(now))

    def progress(self, now: float) -> Progress | None:
        """Return how far the text has come, or None if it has not started."""
        if self.started is None:
            return None
        return Progress(
            request=self._request.SerializeToString(),
            started=self.started,
            text=self.text,
            raw=self.raw,
            logprobs=tuple(self.logprobs),
            alternatives=tuple(tuple(place) for place in self.alternatives),
            checkpoint=self._checkpoint,
            seconds=self._seconds(now),
            first_seconds=self._first_seconds,
            spaced=self._spaced,
        )

    def note_loss(self, *, is_taken: bool) -> None:
        self._lost += is_taken or self.finish is not None  # a drained text has one

    def _seconds(self, now: float) -> float:
        return 0.0 if self._since is None else now - self._since


class ContinuationsTask:
    """A task of `Recovery`: continuations 0 to n - 1 of one prompt, in one request and after a break one by one.

    Args:
        request: names no continuation.
        spaced: as for `TextTask`.
    """

    has_advanced = False

    def __init__(self, request: pb.GenerateRequest, n: int, *, spaced: bool) -> None:
        check_range("n", n, 1, 2**32 - 1)
        if request.HasField("continuation"):
            raise ValueError("continuation: it names one text; leave it out where several are asked for")
        self._request = pb.GenerateRequest()
        self._request.CopyFrom(request)
        self._request.n = n
        self.each = [TextTask(_with_continuation(request, index), spaced=spaced) for index in range(n)]
        self._asked: list[TextTask] = []  # the texts of the request that is being answered
        self.attempt = ""

    @property
    def is_done(self) -> bool:
        return all(text.is_done for text in self.each)

    @property
    def is_answered(self) -> bool:
        return all(text.is_done for text in self._asked)

    @property
    def has_begun(self) -> bool:
        return any(text.has_begun for text in self.each)

    @property
    def can_resume(self) -> bool:
        return all(text.can_resume for text in self.each)

    @property
    def replayed_chars(self) -> int:
        return sum(text.replayed_chars for text in self.each)

    def message(self, now: float) -> pb.GenerateRequest:
        missing = [text for text in self.each if not text.is_done]
        self._asked = missing[:1] if self.has_begun else missing
        messages = [text.message(now) for text in self._asked]
        self.attempt = self._asked[0].attempt
        return messages[0] if self.has_begun else self._request

    def take(self, response: pb.GenerateResponse, now: float) -> Sequence[tuple[int, str]]:
        if response.index >= len(self.each):
            raise ServerError(f"a continuation {response.index} came, asked for were {len(self.each)}")
        text = self.each[response.index]
        chunks = text.take(response, now)
        self.has_advanced = text.has_advanced
        return [(response.index, chunk) for chunk in chunks]

    def note_loss(self, *, is_taken: bool) -> None:
        for text in self._asked:
            text.note_loss(is_taken=is_taken)

    def drop_token(self) -> bool:
        return any(text.drop_token() for text in self._asked)

    def attach_progress(self, error: CharstreamError, now: float) -> CharstreamError:
        """Return the error as it is: the stream has the texts, and there is no single one to go on with."""
        return error


def _with_continuation(request: pb.GenerateRequest, index: int) -> pb.GenerateRequest:
    single = pb.GenerateRequest()
    single.CopyFrom(request)
    single.continuation = index
    return single
