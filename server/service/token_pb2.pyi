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
