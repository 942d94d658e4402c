"""Between Python values and the messages of charstream.v1: the half that the blocking and the asyncio client share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from client.errors import ServerError
from protos import charstream_pb2 as pb

__all__ = ["CHANNEL_OPTIONS", "DEFAULT_ADDRESS", "Finish", "ModelInfo", "Received", "Training", "request", "to_model"]

DEFAULT_ADDRESS = "127.0.0.1:50051"

CHANNEL_OPTIONS = (
    # Channels with equal options would share one connection: each client has its own.
    ("grpc.use_local_subchannel_pool", 1),
    # A dead server or a NAT that forgot us is noticed within 80 seconds; pings are sent during calls only.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

LARGEST_DURATION = 315_576_000_000.0  # seconds: what google.protobuf.Duration may hold

REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True)
class Finish:
    """How a text ended. Seconds are the server's, counted from when the request reached it."""

    reason: str  # "stop" or "length"; "unknown" where the server is newer than this client
    stop: str  # the stop string that ended the text, which is not part of it; "" for other reasons
    prompt_chars: int
    generated_chars: int
    seed: int  # with it the same request gives the same text
    queue_seconds: float
    first_char_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Training:
    """Where a model comes from."""

    data: str
    data_sha256: str
    parameters: int
    steps: int
    validation_nats: Mapping[str, float]  # nats per character of the held-out text, by protocol


@dataclass(frozen=True)
class ModelInfo:
    """A served model, as `Model` in charstream.proto describes it."""

    name: str
    version: str
    digest: str
    cell: str
    layers: int
    hidden: int
    vocabulary: str
    start_text: str
    precision: str
    provider: str
    numerics: str
    training: Training


def request(
    prompt: str,
    *,
    model: str,
    max_chars: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int | None,
    stop: str | Sequence[str],
    max_chunk_chars: int | None,
    max_chunk_delay: float | None,
) -> pb.GenerateRequest:
    """Builds the message; whether its values make sense is the server's to say.

    Raises:
        ValueError: an argument doesn't fit into its field.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    for name, text in [("model", model), ("prompt", prompt), *(("stop", text) for text in stops)]:
        _check_text(name, text)
    _check_range("max_chars", max_chars, 1, 2**32 - 1)
    _check_range("top_k", top_k, 1, 2**32 - 1)
    _check_range("seed", seed, 0, 2**64 - 1)
    _check_range("max_chunk_chars", max_chunk_chars, 1, 2**32 - 1)
    return pb.GenerateRequest(
        model=model,
        prompt=prompt,
        sampling=pb.Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
        seed=seed,
        max_chars=max_chars,
        stop=stops,
        chunking=pb.Chunking(max_chars=max_chunk_chars, max_delay=_duration("max_chunk_delay", max_chunk_delay)),
    )


class Received:
    """What has come of one stream so far."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.finish: Finish | None = None

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def take(self, response: pb.GenerateResponse) -> str:
        """Keeps one message; returns its text, which is empty in a message that only says how it ended."""
        self._parts.append(response.text)
        if response.HasField("finish"):
            self.finish = _to_finish(response.finish)
        return response.text

    def check_finished(self) -> None:
        """Raises:
        ServerError: the stream ended as if all were well, without the message that says how.
        """
        if self.finish is None:
            raise ServerError("the stream ended without saying how: is something in between cutting it?", self.text)


def to_model(message: pb.Model) -> ModelInfo:
    training = message.training
    return ModelInfo(
        name=message.name,
        version=message.version,
        digest=message.digest,
        cell=message.cell,
        layers=message.layers,
        hidden=message.hidden,
        vocabulary=message.vocabulary,
        start_text=message.start_text,
        precision=message.precision,
        provider=message.provider,
        numerics=message.numerics,
        training=Training(
            data=training.data,
            data_sha256=training.data_sha256,
            parameters=training.parameters,
            steps=training.steps,
            validation_nats=dict(training.validation_nats),
        ),
    )


def _to_finish(message: pb.Finish) -> Finish:
    return Finish(
        reason=REASONS.get(message.reason, "unknown"),
        stop=message.stop,
        prompt_chars=message.prompt_chars,
        generated_chars=message.generated_chars,
        seed=message.seed,
        queue_seconds=message.timings.queue_seconds,
        first_char_seconds=message.timings.first_char_seconds,
        total_seconds=message.timings.total_seconds,
    )


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: {text!r} is no text that UTF-8 can carry (character {error.start})") from None


def _check_range(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise ValueError(f"{name}: {value} is not in {least}..{most}")


def _duration(name: str, seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    if not abs(seconds) <= LARGEST_DURATION:
        raise ValueError(f"{name}: {seconds} is no length of time: seconds up to {LARGEST_DURATION:.0f} are")
    whole = math.trunc(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
