"""The values that the client returns, and how they are read from the messages of charstream.v1."""

from collections.abc import Mapping
from dataclasses import dataclass

from charstream.protos import charstream_pb2 as pb

__all__ = [
    "BEGINNING",
    "Finish",
    "ModelInfo",
    "Place",
    "Progress",
    "Repeat",
    "Replica",
    "ScoreSummary",
    "ScoredPart",
    "Started",
    "Training",
    "required_replica",
    "to_alternatives",
    "to_model",
    "to_replica",
]

STATES = {
    pb.MODEL_STATE_UNSPECIFIED: "loaded",  # from a server that knows no other state
    pb.MODEL_STATE_LOADED: "loaded",
    pb.MODEL_STATE_NOT_LOADED: "not loaded",
    pb.MODEL_STATE_LOADING: "loading",
    pb.MODEL_STATE_FAILED: "failed",
}


@dataclass(frozen=True)
class Replica:
    """All that decides a text beside its request: equal replicas generate equal text.

    In a request, "" accepts any value.
    """

    digest: str = ""  # of the bundle's manifest
    precision: str = ""  # fp32, ...
    numerics: str = ""  # digest of a fixed probe's result

    def message(self) -> pb.Replica:
        return pb.Replica(digest=self.digest, precision=self.precision, numerics=self.numerics)


@dataclass(frozen=True)
class Repeat:
    """A text repeats itself when its last characters are one block, `times` times in a row.

    The block has at most `max_period` characters, and at least `min_period`: more than one lets runs of one character
    pass, such as indentation. `max_period` times `times` is at most 4,096.
    """

    max_period: int
    times: int
    min_period: int = 1

    def message(self) -> pb.Repeat:
        return pb.Repeat(max_period=self.max_period, times=self.times, min_period=self.min_period)


@dataclass(frozen=True)
class Started:
    """The values that the server chose where the request left them open."""

    seed: int  # with it the same request gives the same text
    max_chars: int
    replica: Replica
    unknown_chars: int = 0  # of the prompt, left out or replaced as the option `unknown` asked for


@dataclass(frozen=True)
class Place:
    """Where the text of a request begins within the whole text: at its beginning, or at a checkpoint."""

    token: bytes = b""  # b"": the beginning
    text_chars: int = 0
    generated_chars: int = 0


BEGINNING = Place()


@dataclass(frozen=True)
class Progress:
    """How far a text has come: all that `Client.go_on` needs. It can be pickled and sent to another process."""

    request: bytes  # the GenerateRequest, as it was first sent
    started: Started
    text: str
    logprobs: tuple[float, ...]
    alternatives: tuple[tuple[tuple[str, float], ...], ...]
    checkpoint: Place
    seconds: float  # that have counted towards its time limit
    raw: bytes = b""  # from a model of bytes: all bytes that came; `text` is their complete characters
    first_seconds: float | None = None  # from the call until the first characters came
    spaced: bool = False  # whether the client chooses how often there are checkpoints


@dataclass(frozen=True)
class Finish:
    """How a text ended.

    The server counts the seconds, from the arrival of the request; after a break the client does, from the call.
    """

    # "stop", "length", "repeat" (stop_on_repeat) or "deadline" (time_limit is over); "drained" if the server went away
    # and the text did not go on; "unknown" if the server is newer than this client
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
    stop_chars_sent: int  # how many characters of the stop string had come before the request that found it
    repeat_period: int = 0  # characters of the block that the text ends with several times, if it ended for that


@dataclass(frozen=True)
class ScoredPart:
    """Some characters of a scored text."""

    text: str  # as the model read it: see the option `unknown`
    logprobs: list[float]  # the natural logarithm of the model's own probability of each character
    # Where asked for: the most probable characters at each place, best first. A model of bytes has a place per byte.
    alternatives: list[list[tuple[str, float]]]


@dataclass(frozen=True)
class ScoreSummary:
    """How probable a whole text is: per character, also where the model predicts bytes."""

    chars: int
    nats: float  # the sum of the negative log-probabilities
    bits_per_char: float
    perplexity: float  # per character
    position: int  # of the last character
    resume_token: bytes  # stands after the last character; with return_token
    replica: Replica
    unknown_chars: int = 0  # of text and prompt, left out or replaced as the option `unknown` asked for


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
    # "loaded", "not loaded" (the first request loads it), "loading", "failed"; "unknown" as in `Finish`
    state: str
    is_default: bool  # the name alone means this version
    texts: int  # running and waiting
    max_rows: int  # texts that run at a time
    memory: int  # bytes that it takes at most, if it is loaded
    is_server_default: bool = False  # requests that name no model mean this version
    unit: str = "characters"  # it predicts and counts "characters", or "bytes" of UTF-8
    prompts: tuple[str, ...] = ()  # beginnings of lines of its held-out text, to try it with


def required_replica(replica: Replica, other_numerics: bool) -> pb.Replica:
    """The replicas on which a text that began on `replica` may go on."""
    return (Replica(digest=replica.digest) if other_numerics else replica).message()


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
        is_server_default=message.is_server_default,
        texts=message.texts,
        max_rows=message.max_rows,
        memory=message.memory,
        unit=message.unit or "characters",  # from a server that knows no other unit
        prompts=tuple(message.prompts),
    )
