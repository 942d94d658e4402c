"""Messages of a text as tensors of the Open Inference Protocol: one response for each, or one for all."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import numpy as np

from protos import charstream_pb2 as pb
from server.errors import InvalidField
from server.oip.tensors import Tensor
from server.streaming.text_stream import Reader

__all__ = ["OUTPUTS", "Collector", "Streamer", "text_tensors"]

# By name: datatype, and the number of elements, -1 for any.
OUTPUTS = {
    "text_output": ("BYTES", -1),
    "index": ("UINT32", -1),
    "finish_reason": ("BYTES", -1),
    "seed": ("UINT64", -1),
    "logprobs": ("FP32", -1),
    "top_chars": ("BYTES", -1),
    "top_logprobs": ("FP32", -1),
    "resume_token": ("BYTES", -1),
    "raw": ("BYTES", -1),
    "max_chars": ("UINT32", -1),
    "unknown_chars": ("UINT32", -1),
    "replica_digest": ("BYTES", -1),
    "replica_precision": ("BYTES", -1),
    "replica_numerics": ("BYTES", -1),
    "stop": ("BYTES", -1),
    "stop_chars_sent": ("UINT32", -1),
    "repeat_period": ("UINT32", -1),
    "prompt_chars": ("UINT64", -1),
    "generated_chars": ("UINT64", -1),
    "position": ("UINT64", -1),
    "queue_seconds": ("FP64", -1),
    "first_char_seconds": ("FP64", -1),
    "total_seconds": ("FP64", -1),
    "checkpoint_token": ("BYTES", -1),
    "checkpoint_text_chars": ("UINT64", -1),
    "checkpoint_generated_chars": ("UINT64", -1),
    "checkpoint_position": ("UINT64", -1),
}
# The message that a gRPC client takes unless it says otherwise.
MOST_BYTES = 4 << 20
FLOAT_BYTES = 4
Send = Callable[[Sequence[Tensor], bool], Awaitable[None]]


class Streamer:
    """Sends each message of a text, or of several, as a response of its own.

    Args:
        send: sends tensors, and whether they are the last ones.
        reader: who takes them, and perhaps those of other requests.
    """

    def __init__(self, request: pb.GenerateRequest, send: Send, reader: Reader) -> None:
        self._left, self._send, self.reader = _texts(request), send, reader

    async def write(self, message: pb.GenerateResponse) -> None:
        self._left -= is_whole(message)
        await self._send(text_tensors([message]), self._left == 0)


class Collector:
    """Keeps the messages, and joins those of each text."""

    def __init__(self, request: pb.GenerateRequest) -> None:
        self._texts, self._bytes = _texts(request), 0
        self._char_bytes = 1 + _score_bytes(request.logprobs) if request.HasField("logprobs") else 1
        self._parts: dict[int, list[pb.GenerateResponse]] = {}

    async def write(self, message: pb.GenerateResponse) -> None:
        """Keep a message. Raises InvalidField if the answer is, or may become, more than a client takes."""
        if message.HasField("started"):
            self._check_size(self._texts * message.started.max_chars * self._char_bytes)
        scores = message.logprobs
        width = len(scores.alternatives[0].logprobs) if scores.alternatives else 0
        self._bytes += len(message.text.encode()) + len(message.raw) + len(scores.chosen) * _score_bytes(width)
        self._check_size(self._bytes)
        message.ClearField("checkpoint")  # its place is in the past when the answer comes
        self._parts.setdefault(message.index, []).append(message)

    def tensors(self) -> list[Tensor]:
        """Return the tensors of all texts, by their index."""
        return text_tensors([_join(parts) for _, parts in sorted(self._parts.items())])

    def _check_size(self, needed: int) -> None:
        if needed > MOST_BYTES:
            reason = f"allows more than {MOST_BYTES} bytes in one answer: use ModelStreamInfer, or ask for less"
            raise InvalidField("max_chars", reason)


def is_whole(message: pb.GenerateResponse) -> bool:
    """Return whether the message is the last one of its text, and no error will follow it."""
    return message.HasField("finish") and message.finish.reason != pb.FINISH_REASON_DRAINED


def _texts(request: pb.GenerateRequest) -> int:
    """Return the number of texts that are asked for."""
    return request.n if request.HasField("n") else 1


def _score_bytes(width: int) -> int:
    """Return the bytes that a character's scores take, with `width` alternatives: a number each, and a character."""
    return FLOAT_BYTES + (FLOAT_BYTES + 1) * width


def _join(parts: Sequence[pb.GenerateResponse]) -> pb.GenerateResponse:
    """Return one message that says all that these say."""
    whole = pb.GenerateResponse()
    for part in parts:
        whole.MergeFrom(part)  # repeated fields, as the log-probabilities, are appended
    whole.text = "".join(part.text for part in parts)
    whole.raw = b"".join(part.raw for part in parts)
    return whole


def text_tensors(messages: Sequence[pb.GenerateResponse]) -> list[Tensor]:
    """Return the tensors of some texts: of each name one element a text, where they have it.

    The log-probabilities of all texts follow each other: each text has as many as characters (a model of bytes: as
    many as bytes in `raw`).
    """
    columns: dict[str, list[Any]] = {}
    for message in messages:
        for name, value in _values(message):
            columns.setdefault(name, []).append(value)
    tensors = [_tensor(name, values) for name, values in columns.items()]
    return [*tensors, *_scores([message.logprobs for message in messages])]


def _tensor(name: str, values: Sequence[Any]) -> Tensor:
    datatype, _ = OUTPUTS[name]
    if datatype == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    return Tensor(name, datatype, (len(values),), values)


def _values(message: pb.GenerateResponse) -> Iterable[tuple[str, Any]]:
    yield "text_output", message.text
    yield "index", message.index
    if message.raw:
        yield "raw", message.raw
    if message.HasField("started") or message.HasField("finish"):
        yield "seed", message.started.seed or message.finish.seed
    if message.HasField("started"):
        started = message.started
        yield "max_chars", started.max_chars
        yield "unknown_chars", started.unknown_chars
        for name in ("digest", "precision", "numerics"):
            yield f"replica_{name}", getattr(started.replica, name)
    if message.HasField("finish"):
        finish = message.finish
        yield "finish_reason", pb.FinishReason.Name(finish.reason).removeprefix("FINISH_REASON_").lower()
        for name in ("stop", "stop_chars_sent", "repeat_period", "prompt_chars", "generated_chars", "position"):
            yield name, getattr(finish, name)
        for name in ("queue_seconds", "first_char_seconds", "total_seconds"):
            yield name, getattr(finish.timings, name)
        if finish.resume_token:
            yield "resume_token", finish.resume_token
    if message.HasField("checkpoint"):
        place = message.checkpoint
        yield "checkpoint_token", place.resume_token
        for name in ("text_chars", "generated_chars", "position"):
            yield f"checkpoint_{name}", getattr(place, name)


def _scores(scores: Sequence[pb.Logprobs]) -> Iterable[Tensor]:
    chosen = np.array([number for one in scores for number in one.chosen], np.float32)
    if len(chosen):
        yield Tensor("logprobs", "FP32", chosen.shape, chosen)
    best = [place for one in scores for place in one.alternatives]
    if best:
        numbers = np.array([place.logprobs for place in best], np.float32)
        yield Tensor("top_chars", "BYTES", (len(best),), [place.chars.encode() for place in best])
        yield Tensor("top_logprobs", "FP32", numbers.shape, numbers)
