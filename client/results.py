"""What the client gives to its caller, and how it is read from the messages of charstream.v1."""

from collections.abc import Mapping
from dataclasses import dataclass

from protos import charstream_pb2 as pb

__all__ = [
    "Finish",
    "ModelInfo",
    "Replica",
    "ScoreSummary",
    "ScoredPart",
    "Started",
    "Training",
    "to_alternatives",
    "to_model",
    "to_replica",
]

STATES = {
    pb.MODEL_STATE_UNSPECIFIED: "loaded",  # by a server that knows no other
    pb.MODEL_STATE_LOADED: "loaded",
    pb.MODEL_STATE_NOT_LOADED: "not loaded",
    pb.MODEL_STATE_LOADING: "loading",
    pb.MODEL_STATE_FAILED: "failed",
}


@dataclass(frozen=True)
class Replica:
    """What decides a text beside its request: equal replicas generate equal text. As a wish, "" is any."""

    digest: str = ""  # of the bundle's manifest
    precision: str = ""  # fp32, ...
    numerics: str = ""  # digest of a fixed probe's result

    def message(self) -> pb.Replica:
        return pb.Replica(digest=self.digest, precision=self.precision, numerics=self.numerics)


@dataclass(frozen=True)
class Started:
    """What the server chose where the request left it open."""

    seed: int  # with it the same request gives the same text
    max_chars: int
    replica: Replica


@dataclass(frozen=True)
class Finish:
    """How a text ended. Seconds are the server's, counted from when the (last) request for it reached it."""

    # "stop", "length" or "deadline" (time_limit is over); "drained" where the server went away and the text did not go
    # on; "unknown" where the server is newer than this client
    reason: str
    stop: str  # the stop string that ended the text; part of it only with include_stop
    prompt_chars: int
    generated_chars: int
    seed: int  # with it the same request gives the same text
    queue_seconds: float
    first_char_seconds: float
    total_seconds: float
    position: int  # of the last character; the start character has position 0
    resume_token: bytes  # stands after the last character; with return_token
    stop_chars_sent: int  # so many characters of the stop string had come before the request that found it


@dataclass(frozen=True)
class ScoredPart:
    """Some characters of a scored text."""

    text: str
    logprobs: list[float]  # the natural logarithm of the model's own probability of each character
    # At each place, where asked for: the most probable characters first. Of a model of bytes at each byte's.
    alternatives: list[list[tuple[str, float]]]


@dataclass(frozen=True)
class ScoreSummary:
    """How probable a whole text is; of a model of bytes too, per character."""

    chars: int
    nats: float  # the sum of the negative log-probabilities
    bits_per_char: float
    perplexity: float  # per character
    position: int  # of the last character
    resume_token: bytes  # stands after the last character; with return_token
    replica: Replica


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
    """A version of a model, as `Model` in charstream.proto describes it."""

    name: str
    version: str
    digest: str
    cell: str
    layers: int
    hidden: int
    vocabulary: str
    start_text: str
    precision: str  # this and the next two are empty unless it is loaded
    provider: str
    numerics: str
    training: Training
    state: (
        str  # "loaded", "not loaded" (it will be for the first request), "loading", "failed"; "unknown" as in `Finish`
    )
    is_default: bool  # the name alone means this version
    texts: int  # running and waiting
    max_rows: int  # texts that run at a time
    memory: int  # bytes that it takes at most, where it is loaded
    unit: str = "characters"  # what it predicts and what counts count: "characters", or "bytes" of UTF-8


def to_replica(message: pb.Replica) -> Replica:
    return Replica(message.digest, message.precision, message.numerics)


def to_alternatives(message: pb.Logprobs) -> list[list[tuple[str, float]]]:
    return [list(zip(place.chars, place.logprobs, strict=True)) for place in message.alternatives]


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
        state=STATES.get(message.state, "unknown"),
        is_default=message.is_default,
        texts=message.texts,
        max_rows=message.max_rows,
        memory=message.memory,
        unit=message.unit or "characters",  # of a server that knows no other
    )
