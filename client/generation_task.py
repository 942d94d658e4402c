"""One text: keeps what came of it, and says what to ask so that the rest comes, and only that."""

from collections.abc import Sequence

from client.errors import CharstreamError, WrongReplica
from client.progress import BEGINNING, Place, Progress
from client.results import Finish, Replica, Started, to_alternatives, to_replica
from protos import charstream_pb2 as pb

__all__ = ["Text", "pinned"]

REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_DEADLINE: "deadline",
    pb.FINISH_REASON_DRAINED: "drained",
}


class Text:
    """A task of `Recovery`: one text, as `request` describes it."""

    def __init__(self, request: pb.GenerateRequest) -> None:
        self._request = request
        self._parts: list[str] = []
        self._raw: list[bytes] = []  # of a model of bytes
        self._chars = 0  # or bytes: what the server counts
        self._base = BEGINNING  # of the request that is being answered
        self._checkpoint = BEGINNING  # the newest
        self._fresh = True  # nothing of the answer has come
        self._since: float | None = None
        self.logprobs: list[float] = []
        self.alternatives: list[list[tuple[str, float]]] = []
        self.started: Started | None = None
        self.finish: Finish | None = None
        self.resumes = 0
        self.replayed_chars = 0

    @classmethod
    def of(cls, progress: Progress, now: float) -> "Text":
        text = cls(pb.GenerateRequest.FromString(progress.request))
        text._parts, text._raw = [progress.text], [progress.raw] if progress.raw else []
        text._chars = len(progress.raw or progress.text)
        text._checkpoint = progress.checkpoint
        text._since = now - progress.seconds
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
    def done(self) -> bool:
        return self.finish is not None and self.finish.reason != "drained"

    @property
    def answered(self) -> bool:
        return self.done

    @property
    def begun(self) -> bool:
        return self.started is not None or bool(self._chars)

    @property
    def resumable(self) -> bool:
        """A server that doesn't say how it started knows nothing of `received`: it would begin again."""
        return self.started is not None or not self._chars

    def message(self, now: float) -> pb.GenerateRequest:
        """What to send next: the request itself, and once something has come, one for the rest."""
        if self._since is None:
            self._since = now
        self._fresh, self.finish = True, None
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
        rest.replica.CopyFrom(pinned(started.replica, rest.other_numerics))
        if rest.HasField("time_limit"):
            rest.time_limit.FromNanoseconds(max(1_000_000, rest.time_limit.ToNanoseconds() - round(seconds * 1e9)))
        if base.token:
            rest.resume_token, rest.prompt, rest.echo = base.token, "", False
            if rest.min_chars:
                rest.min_chars = max(0, rest.min_chars - base.generated_chars)
        self.resumes += 1
        self.replayed_chars += len(rest.received_raw or rest.received)
        return rest

    def take(self, response: pb.GenerateResponse) -> Sequence[str]:
        """Keeps one message; returns the characters in it, if there are any.

        Raises:
            WrongReplica: a server that can't go on with a text began it again.
        """
        self._check_beginning(response)
        text = response.text
        self._parts.append(text)
        if response.raw:
            self._raw.append(response.raw)
        self._chars += len(response.raw or text)
        self.logprobs += response.logprobs.chosen
        self.alternatives += to_alternatives(response.logprobs)
        if response.HasField("checkpoint"):
            self._take_checkpoint(response.checkpoint)
        if response.HasField("finish"):
            self.finish = self._to_finish(response.finish)
        return (text,) if text else ()

    def _check_beginning(self, response: pb.GenerateResponse) -> None:
        if not response.HasField("started"):
            if self._fresh and self.started and response.finish.reason != pb.FINISH_REASON_DRAINED:
                raise WrongReplica("the server is too old to go on with a text")
        elif self.started is None:
            message = response.started
            self.started = Started(message.seed, message.max_chars, to_replica(message.replica))
        self._fresh = False

    def _take_checkpoint(self, message: pb.Checkpoint) -> None:
        place = Place(
            message.resume_token,
            self._base.text_chars + message.text_chars,
            self._base.generated_chars + message.generated_chars,
        )
        # At the very end there is nothing left to ask for; the one before can still tell how it ended.
        if self.started and place.generated_chars < self.started.max_chars:
            self._checkpoint = place

    @property
    def _prompt_size(self) -> int:
        prompt = self._request.prompt
        return len(prompt.encode() if self._raw else prompt)

    def _to_finish(self, message: pb.Finish) -> Finish:
        """Counts of the whole text: after a checkpoint the server knows of no prompt, and counts from there."""
        return Finish(
            reason=REASONS.get(message.reason, "unknown"),
            stop=message.stop,
            prompt_chars=self._prompt_size if self._base.token else message.prompt_chars,
            generated_chars=self._base.generated_chars + message.generated_chars,
            seed=message.seed,
            queue_seconds=message.timings.queue_seconds,
            first_char_seconds=message.timings.first_char_seconds,
            total_seconds=message.timings.total_seconds,
            position=message.position,
            resume_token=message.resume_token,
            stop_chars_sent=message.stop_chars_sent,
        )

    def without_token(self) -> bool:
        """Whether the rest can be asked for without the token that was refused; from now on it is."""
        refused, self._checkpoint = bool(self._base.token), BEGINNING
        return refused

    def explained(self, error: CharstreamError, now: float) -> CharstreamError:
        return error.after(self.text, self.progress(now))

    def progress(self, now: float) -> Progress | None:
        """None where there is nothing to go on from."""
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
            seconds=now - self._since if self._since is not None else 0.0,
        )


def pinned(replica: Replica, other_numerics: bool) -> pb.Replica:
    """The replicas on which a text may go on."""
    return (Replica(digest=replica.digest) if other_numerics else replica).message()
