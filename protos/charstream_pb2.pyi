import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Unknown(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN_UNSPECIFIED: _ClassVar[Unknown]
    UNKNOWN_REFUSE: _ClassVar[Unknown]
    UNKNOWN_SKIP: _ClassVar[Unknown]
    UNKNOWN_REPLACE: _ClassVar[Unknown]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_DEADLINE: _ClassVar[FinishReason]
    FINISH_REASON_DRAINED: _ClassVar[FinishReason]
    FINISH_REASON_REPEAT: _ClassVar[FinishReason]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADED: _ClassVar[ModelState]
    MODEL_STATE_NOT_LOADED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
UNKNOWN_UNSPECIFIED: Unknown
UNKNOWN_REFUSE: Unknown
UNKNOWN_SKIP: Unknown
UNKNOWN_REPLACE: Unknown
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_DEADLINE: FinishReason
FINISH_REASON_DRAINED: FinishReason
FINISH_REASON_REPEAT: FinishReason
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADED: ModelState
MODEL_STATE_NOT_LOADED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_FAILED: ModelState

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "allowed", "banned", "bias")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    BANNED_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    allowed: str
    banned: str
    bias: Bias
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., allowed: _Optional[str] = ..., banned: _Optional[str] = ..., bias: _Optional[_Union[Bias, _Mapping]] = ...) -> None: ...

class Bias(_message.Message):
    __slots__ = ("of",)
    class OfEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    OF_FIELD_NUMBER: _ClassVar[int]
    of: _containers.ScalarMap[str, float]
    def __init__(self, of: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("digest", "precision", "numerics")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    precision: str
    numerics: str
    def __init__(self, digest: _Optional[str] = ..., precision: _Optional[str] = ..., numerics: _Optional[str] = ...) -> None: ...

class Chunking(_message.Message):
    __slots__ = ("max_chars", "max_delay")
    MAX_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_FIELD_NUMBER: _ClassVar[int]
    max_chars: int
    max_delay: _duration_pb2.Duration
    def __init__(self, max_chars: _Optional[int] = ..., max_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "prompt", "sampling", "seed", "max_chars", "stop", "chunking", "include_stop", "min_chars", "echo", "logprobs", "n", "continuation", "time_limit", "resume_token", "received", "return_token", "checkpoint_chars", "replica", "other_numerics", "received_raw", "unknown", "stop_on_repeat")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_CHARS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    CHUNKING_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STOP_FIELD_NUMBER: _ClassVar[int]
    MIN_CHARS_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    RETURN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_CHARS_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    OTHER_NUMERICS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_RAW_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    STOP_ON_REPEAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    sampling: Sampling
    seed: int
    max_chars: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    chunking: Chunking
    include_stop: bool
    min_chars: int
    echo: bool
    logprobs: int
    n: int
    continuation: int
    time_limit: _duration_pb2.Duration
    resume_token: bytes
    received: str
    return_token: bool
    checkpoint_chars: int
    replica: Replica
    other_numerics: bool
    received_raw: bytes
    unknown: Unknown
    stop_on_repeat: Repeat
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., seed: _Optional[int] = ..., max_chars: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., chunking: _Optional[_Union[Chunking, _Mapping]] = ..., include_stop: bool = ..., min_chars: _Optional[int] = ..., echo: bool = ..., logprobs: _Optional[int] = ..., n: _Optional[int] = ..., continuation: _Optional[int] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., resume_token: _Optional[bytes] = ..., received: _Optional[str] = ..., return_token: bool = ..., checkpoint_chars: _Optional[int] = ..., replica: _Optional[_Union[Replica, _Mapping]] = ..., other_numerics: bool = ..., received_raw: _Optional[bytes] = ..., unknown: _Optional[_Union[Unknown, str]] = ..., stop_on_repeat: _Optional[_Union[Repeat, _Mapping]] = ...) -> None: ...

class Repeat(_message.Message):
    __slots__ = ("max_period", "times", "min_period")
    MAX_PERIOD_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    MIN_PERIOD_FIELD_NUMBER: _ClassVar[int]
    max_period: int
    times: int
    min_period: int
    def __init__(self, max_period: _Optional[int] = ..., times: _Optional[int] = ..., min_period: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("text", "finish", "index", "logprobs", "checkpoint", "started", "raw")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    text: str
    finish: Finish
    index: int
    logprobs: Logprobs
    checkpoint: Checkpoint
    started: Started
    raw: bytes
    def __init__(self, text: _Optional[str] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., index: _Optional[int] = ..., logprobs: _Optional[_Union[Logprobs, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., raw: _Optional[bytes] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("seed", "max_chars", "replica", "unknown_chars")
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_CHARS_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_CHARS_FIELD_NUMBER: _ClassVar[int]
    seed: int
    max_chars: int
    replica: Replica
    unknown_chars: int
    def __init__(self, seed: _Optional[int] = ..., max_chars: _Optional[int] = ..., replica: _Optional[_Union[Replica, _Mapping]] = ..., unknown_chars: _Optional[int] = ...) -> None: ...

class Logprobs(_message.Message):
    __slots__ = ("chosen", "alternatives")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    chosen: _containers.RepeatedScalarFieldContainer[float]
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternatives]
    def __init__(self, chosen: _Optional[_Iterable[float]] = ..., alternatives: _Optional[_Iterable[_Union[Alternatives, _Mapping]]] = ...) -> None: ...

class Alternatives(_message.Message):
    __slots__ = ("chars", "logprobs")
    CHARS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    chars: str
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, chars: _Optional[str] = ..., logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("resume_token", "text_chars", "generated_chars", "position")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TEXT_CHARS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_CHARS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    resume_token: bytes
    text_chars: int
    generated_chars: int
    position: int
    def __init__(self, resume_token: _Optional[bytes] = ..., text_chars: _Optional[int] = ..., generated_chars: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("reason", "stop", "prompt_chars", "generated_chars", "seed", "timings", "position", "resume_token", "stop_chars_sent", "repeat_period")
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    PROMPT_CHARS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_CHARS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STOP_CHARS_SENT_FIELD_NUMBER: _ClassVar[int]
    REPEAT_PERIOD_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    stop: str
    prompt_chars: int
    generated_chars: int
    seed: int
    timings: Timings
    position: int
    resume_token: bytes
    stop_chars_sent: int
    repeat_period: int
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., stop: _Optional[str] = ..., prompt_chars: _Optional[int] = ..., generated_chars: _Optional[int] = ..., seed: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., position: _Optional[int] = ..., resume_token: _Optional[bytes] = ..., stop_chars_sent: _Optional[int] = ..., repeat_period: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "text", "prompt", "resume_token", "return_token", "alternatives", "replica", "other_numerics", "unknown")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RETURN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    OTHER_NUMERICS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    prompt: str
    resume_token: bytes
    return_token: bool
    alternatives: int
    replica: Replica
    other_numerics: bool
    unknown: Unknown
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., prompt: _Optional[str] = ..., resume_token: _Optional[bytes] = ..., return_token: bool = ..., alternatives: _Optional[int] = ..., replica: _Optional[_Union[Replica, _Mapping]] = ..., other_numerics: bool = ..., unknown: _Optional[_Union[Unknown, str]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("logprobs", "summary", "raw", "text")
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    logprobs: Logprobs
    summary: ScoreSummary
    raw: bytes
    text: str
    def __init__(self, logprobs: _Optional[_Union[Logprobs, _Mapping]] = ..., summary: _Optional[_Union[ScoreSummary, _Mapping]] = ..., raw: _Optional[bytes] = ..., text: _Optional[str] = ...) -> None: ...

class ScoreSummary(_message.Message):
    __slots__ = ("chars", "nats", "bits_per_char", "perplexity", "position", "resume_token", "replica", "timings", "unknown_chars")
    CHARS_FIELD_NUMBER: _ClassVar[int]
    NATS_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_CHAR_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_CHARS_FIELD_NUMBER: _ClassVar[int]
    chars: int
    nats: float
    bits_per_char: float
    perplexity: float
    position: int
    resume_token: bytes
    replica: Replica
    timings: Timings
    unknown_chars: int
    def __init__(self, chars: _Optional[int] = ..., nats: _Optional[float] = ..., bits_per_char: _Optional[float] = ..., perplexity: _Optional[float] = ..., position: _Optional[int] = ..., resume_token: _Optional[bytes] = ..., replica: _Optional[_Union[Replica, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., unknown_chars: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_seconds", "first_char_seconds", "total_seconds")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHAR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    first_char_seconds: float
    total_seconds: float
    def __init__(self, queue_seconds: _Optional[float] = ..., first_char_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "digest", "cell", "layers", "hidden", "vocabulary", "start_text", "precision", "provider", "numerics", "training", "state", "is_default", "texts", "max_rows", "memory", "unit", "is_server_default", "prompts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    START_TEXT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    IS_SERVER_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
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
    training: TrainingRecord
    state: ModelState
    is_default: bool
    texts: int
    max_rows: int
    memory: int
    unit: str
    is_server_default: bool
    prompts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ..., cell: _Optional[str] = ..., layers: _Optional[int] = ..., hidden: _Optional[int] = ..., vocabulary: _Optional[str] = ..., start_text: _Optional[str] = ..., precision: _Optional[str] = ..., provider: _Optional[str] = ..., numerics: _Optional[str] = ..., training: _Optional[_Union[TrainingRecord, _Mapping]] = ..., state: _Optional[_Union[ModelState, str]] = ..., is_default: bool = ..., texts: _Optional[int] = ..., max_rows: _Optional[int] = ..., memory: _Optional[int] = ..., unit: _Optional[str] = ..., is_server_default: bool = ..., prompts: _Optional[_Iterable[str]] = ...) -> None: ...

class TrainingRecord(_message.Message):
    __slots__ = ("data", "data_sha256", "parameters", "steps", "validation_nats")
    class ValidationNatsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_SHA256_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_NATS_FIELD_NUMBER: _ClassVar[int]
    data: str
    data_sha256: str
    parameters: int
    steps: int
    validation_nats: _containers.ScalarMap[str, float]
    def __init__(self, data: _Optional[str] = ..., data_sha256: _Optional[str] = ..., parameters: _Optional[int] = ..., steps: _Optional[int] = ..., validation_nats: _Optional[_Mapping[str, float]] = ...) -> None: ...
