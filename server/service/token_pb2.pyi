from protos import charstream_pb2 as _charstream_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TextState(_message.Message):
    __slots__ = ("model", "replica", "seed", "continuation", "sampling", "state", "character", "position", "forced", "tail", "unfinished")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHARACTER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_FIELD_NUMBER: _ClassVar[int]
    model: str
    replica: _charstream_pb2.Replica
    seed: int
    continuation: int
    sampling: _charstream_pb2.Sampling
    state: bytes
    character: int
    position: int
    forced: _containers.RepeatedScalarFieldContainer[int]
    tail: str
    unfinished: str
    def __init__(self, model: _Optional[str] = ..., replica: _Optional[_Union[_charstream_pb2.Replica, _Mapping]] = ..., seed: _Optional[int] = ..., continuation: _Optional[int] = ..., sampling: _Optional[_Union[_charstream_pb2.Sampling, _Mapping]] = ..., state: _Optional[bytes] = ..., character: _Optional[int] = ..., position: _Optional[int] = ..., forced: _Optional[_Iterable[int]] = ..., tail: _Optional[str] = ..., unfinished: _Optional[str] = ...) -> None: ...

class SequenceName(_message.Message):
    __slots__ = ("digest", "identity", "name", "is_number")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    digest: str
    identity: str
    name: str
    is_number: bool
    def __init__(self, digest: _Optional[str] = ..., identity: _Optional[str] = ..., name: _Optional[str] = ..., is_number: bool = ...) -> None: ...

class SequenceClaim(_message.Message):
    __slots__ = ("server", "time", "sequence")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    server: bytes
    time: float
    sequence: SequenceName
    def __init__(self, server: _Optional[bytes] = ..., time: _Optional[float] = ..., sequence: _Optional[_Union[SequenceName, _Mapping]] = ...) -> None: ...

class SequenceState(_message.Message):
    __slots__ = ("sequence", "began", "steps", "state")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    sequence: SequenceName
    began: float
    steps: int
    state: bytes
    def __init__(self, sequence: _Optional[_Union[SequenceName, _Mapping]] = ..., began: _Optional[float] = ..., steps: _Optional[int] = ..., state: _Optional[bytes] = ...) -> None: ...

class SequenceStates(_message.Message):
    __slots__ = ("server", "states")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    server: bytes
    states: _containers.RepeatedCompositeFieldContainer[SequenceState]
    def __init__(self, server: _Optional[bytes] = ..., states: _Optional[_Iterable[_Union[SequenceState, _Mapping]]] = ...) -> None: ...

class SequenceAnswer(_message.Message):
    __slots__ = ("state", "is_moving")
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_MOVING_FIELD_NUMBER: _ClassVar[int]
    state: SequenceState
    is_moving: bool
    def __init__(self, state: _Optional[_Union[SequenceState, _Mapping]] = ..., is_moving: bool = ...) -> None: ...
