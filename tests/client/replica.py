"""A replica for the scripted server: keeps the contract of charstream.proto, and breaks where a test says.

Its "model" is a formula: the character at a position depends on seed, continuation and position only, and so does its
log-probability. So a test knows each text without having been told.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from protos import charstream_pb2 as pb
from tests.client.scripted import abort

DEFAULT_CHARS = 40
REPLICA = pb.Replica(digest="sha256:d", precision="fp32", numerics="n1")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def char_at(seed: int, continuation: int, position: int) -> str:
    return LETTERS[(seed * 31 + continuation * 17 + position * position * 7 + position) % len(LETTERS)]


def logprob_at(position: int) -> float:
    return -(position % 13) / 8


@dataclass(frozen=True)
class Fault:
    """The end of one call when `after` characters were sent in it; beyond the text's end: after its finish."""

    how: str
    after: int = 0


@dataclass
class Replica:
    """Each call takes the next of `faults`; when there are none left, it ends well."""

    faults: list[Fault] = field(default_factory=list)
    chunk: int = 3
    requests: list[pb.GenerateRequest] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        fault, sent = self._begin(request), 0
        for message in several(request, self.chunk) if request.n > 1 else Answer(request).messages(self.chunk):
            if fault and sent + max(1, len(message.text)) > fault.after:
                break
            yield message
            sent += len(message.text)
        if fault:
            yield from fail(fault, context)

    def _begin(self, request: pb.GenerateRequest) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            fault = self.faults.pop(0) if self.faults else None
        return None if fault and fault.how == "token refused" and not request.resume_token else fault


def several(request: pb.GenerateRequest, chunk: int) -> Iterator[pb.GenerateResponse]:
    """Yield all continuations, a message of each in turn."""
    answers = [Answer(request, index).messages(chunk) for index in range(request.n)]
    while answers:
        for answer in list(answers):
            message = next(answer, None)
            if message is None:
                answers.remove(answer)
            else:
                yield message


class Answer:
    def __init__(self, request: pb.GenerateRequest, index: int | None = None) -> None:
        token = json.loads(request.resume_token or "{}")
        self.request = request
        self.seed = request.seed if request.HasField("seed") else token.get("seed", 99)
        self.index = request.continuation if index is None else index
        if token and not request.HasField("continuation"):
            self.index = token["continuation"]
        skips = request.unknown == pb.UNKNOWN_SKIP
        self.prompt = "".join(char for char in request.prompt if char.isascii() or not skips)
        self.start = token.get("position", 0) + len(self.prompt)  # of the last character before the generated ones
        self.echo = self.prompt if request.echo else ""
        self.max_chars = request.max_chars if request.HasField("max_chars") else DEFAULT_CHARS
        if not self.max_chars:
            raise AssertionError("nothing is asked for: a server refuses that")
        self.generated, self.stop = self._generate()
        self.text = self.echo + self.generated
        if not self.text.startswith(request.received):
            raise AssertionError(f"{request.received!r} came back, but the text is {self.text!r}")

    def _generate(self) -> tuple[str, str]:
        text = "".join(char_at(self.seed, self.index, self.start + 1 + i) for i in range(self.max_chars))
        found = [(text.index(stop, self.request.min_chars), stop) for stop in self.request.stop if stop in text]
        return (text[: min(found)[0]], min(found)[1]) if found else (text, "")

    def messages(self, chunk: int) -> Iterator[pb.GenerateResponse]:
        """Yield messages of which the first has one character, as a real first one has few."""
        unknown = len(self.request.prompt) - len(self.prompt)
        started = pb.Started(seed=self.seed, max_chars=self.max_chars, replica=REPLICA, unknown_chars=unknown)
        at = len(self.request.received)
        while at < len(self.text):
            end = min(at + (1 if started else chunk), len(self.text), self._next_checkpoint(at))
            message = pb.GenerateResponse(text=self.text[at:end], index=self.index, started=started)
            if self.request.HasField("logprobs"):
                message.logprobs.CopyFrom(self._logprobs(at, end))
            if end == self._next_checkpoint(at):
                message.checkpoint.CopyFrom(self._checkpoint(end))
            yield message
            at, started = end, None
        yield pb.GenerateResponse(index=self.index, started=started, finish=self._finish())

    def _next_checkpoint(self, at: int) -> int:
        every = self.request.checkpoint_chars
        return len(self.echo) + (max(0, at - len(self.echo)) // every + 1) * every if every else len(self.text) + 1

    def position(self, at: int) -> int:
        return self.start - len(self.echo) + at

    def token(self, at: int) -> bytes:
        where = {"position": self.position(at), "seed": self.seed, "continuation": self.index}
        return json.dumps(where).encode()

    def _checkpoint(self, at: int) -> pb.Checkpoint:
        return pb.Checkpoint(
            resume_token=self.token(at),
            text_chars=at,
            generated_chars=at - len(self.echo),
            position=self.position(at),
        )

    def _logprobs(self, begin: int, end: int) -> pb.Logprobs:
        positions = [self.position(at + 1) for at in range(begin, end)]
        best = LETTERS[: self.request.logprobs]
        alternatives = [pb.Alternatives(chars=best, logprobs=[logprob_at(p)] * len(best)) for p in positions]
        return pb.Logprobs(chosen=map(logprob_at, positions), alternatives=alternatives if best else [])

    def _finish(self) -> pb.Finish:
        at = len(self.text)
        return pb.Finish(
            reason=pb.FINISH_REASON_STOP if self.stop else pb.FINISH_REASON_LENGTH,
            stop=self.stop,
            prompt_chars=len(self.prompt),
            generated_chars=len(self.generated),
            seed=self.seed,
            position=self.position(at),
            resume_token=self.token(at) if self.request.return_token else b"",
        )


def fail(fault: Fault, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """End the call in one of the ways of the real server, or of a proxy."""
    match fault.how:
        case "no finish":
            return
        case "drained":
            yield pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_DRAINED))
            abort(context, grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        case "shutting down":
            abort(context, grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        case "overloaded" | "overloaded for long":
            delay = Duration(nanos=10_000_000) if fault.how == "overloaded" else Duration(seconds=20)
            retry = error_details_pb2.RetryInfo(retry_delay=delay)
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many texts", retry)
        case "token refused":
            violation = error_details_pb2.BadRequest.FieldViolation(field="resume_token", description="is forged")
            detail = error_details_pb2.BadRequest(field_violations=[violation])
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "resume_token: is forged", detail)
        case how:
            abort(context, grpc.StatusCode[how.upper()], f"scripted: {how}")


def expected_text(max_chars: int, seed: int, prompt: str = "", continuation: int = 0) -> str:
    """Return the generated text."""
    return "".join(char_at(seed, continuation, len(prompt) + 1 + i) for i in range(max_chars))
