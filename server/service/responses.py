"""What streams give -> messages of charstream.v1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bundle.vocabulary import Vocabulary
from protos import charstream_pb2 as pb
from server.catalog.loaded_model import ServedModel
from server.engine.messages import Finish, Reason, Scores, Snapshot
from server.engine.whole import WholeCharacters, unfinished
from server.service.requests import Asked
from server.service.resume_tokens import Keys, text_state
from server.streaming.text_stream import Chunk

__all__ = ["Answer", "ScoreAnswer"]

LARGEST_NATS = 709.0

REASONS = {
    Reason.STOP: pb.FINISH_REASON_STOP,
    Reason.LENGTH: pb.FINISH_REASON_LENGTH,
    Reason.DEADLINE: pb.FINISH_REASON_DEADLINE,
    Reason.DRAINED: pb.FINISH_REASON_DRAINED,
}


@dataclass
class Answer:
    """The messages of one continuation, in their order."""

    asked: Asked
    model: ServedModel
    keys: Keys
    index: int
    _begun: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._whole = WholeCharacters(self.model.manifest.unit, self.asked.before)

    def message(self, chunk: Chunk, *, last: bool = True) -> pb.GenerateResponse:
        """The next one. `last`: the chunk's finish is the text's."""
        message = pb.GenerateResponse(text=self._whole.push(chunk.text), index=self.index)
        if self.model.manifest.unit == "bytes":
            message.raw = chunk.text.encode("latin-1")
        if not self._begun:
            self._begun = True
            seed, max_chars = self.asked.generation.seed, self.asked.max_chars
            message.started.CopyFrom(pb.Started(seed=seed, max_chars=max_chars, replica=self.model.replica))
        if chunk.scores:
            message.logprobs.CopyFrom(_logprobs(chunk.scores, self.model.manifest.vocabulary))
        finish = chunk.finish if last else None
        if finish:
            message.finish.CopyFrom(self._finish(finish))
        if chunk.snapshot and last:
            self._place(message, chunk.snapshot)
        return message

    def _place(self, message: pb.GenerateResponse, place: Snapshot) -> None:
        token = self._token(place)
        if message.HasField("finish"):
            if self.asked.generation.snapshot:
                message.finish.resume_token = token
            return
        message.checkpoint.CopyFrom(
            pb.Checkpoint(
                resume_token=token,
                text_chars=place.text_chars,
                generated_chars=place.generated_chars,
                position=place.position,
            )
        )

    def _token(self, place: Snapshot) -> bytes:
        return _token(place, self.asked, self.model, self.keys, self.index)

    def _finish(self, finish: Finish) -> pb.Finish:
        return pb.Finish(
            reason=REASONS[finish.reason],
            stop=self.model.manifest.vocabulary.symbols_to_text(finish.stop),
            stop_chars_sent=finish.stop_chars_sent,
            prompt_chars=self.asked.prompt_chars,
            generated_chars=finish.generated_chars,
            seed=self.asked.generation.seed,
            position=finish.position,
            timings=_timings(finish),
        )


class ScoreAnswer:
    """The messages of a text that is scored."""

    def __init__(self, asked: Asked, model: ServedModel, keys: Keys) -> None:
        self._asked, self._model, self._keys = asked, model, keys
        self._chars, self._nats = 0, 0.0

    def message(self, chunk: Chunk) -> pb.ScoreResponse:
        message = pb.ScoreResponse()
        if chunk.scores:
            self._chars += len(chunk.text)
            self._nats -= float(chunk.scores.chosen.sum(dtype="float64"))
            message.logprobs.CopyFrom(_logprobs(chunk.scores, self._model.manifest.vocabulary))
            if self._model.manifest.unit == "bytes":
                message.raw = chunk.text.encode("latin-1")
        if chunk.finish:
            message.summary.CopyFrom(self._summary(chunk.finish))
            if chunk.snapshot:
                continuation = self._asked.generation.continuation
                token = _token(chunk.snapshot, self._asked, self._model, self._keys, continuation)
                message.summary.resume_token = token
        return message

    def _summary(self, finish: Finish) -> pb.ScoreSummary:
        mean = self._nats / max(1, self._chars)
        return pb.ScoreSummary(
            chars=self._chars,
            nats=self._nats,
            bits_per_char=mean / math.log(2),
            # Beyond, a float ends.
            perplexity=math.exp(mean) if mean < LARGEST_NATS else math.inf,
            position=finish.position,
            replica=self._model.replica,
            timings=_timings(finish),
        )


def _token(place: Snapshot, asked: Asked, model: ServedModel, keys: Keys, continuation: int) -> bytes:
    state = text_state(
        place,
        model=model.manifest.name,
        replica=model.replica,
        seed=asked.generation.seed,
        continuation=continuation,
        sampling=asked.sampling,
        unfinished=unfinished(model.manifest.unit, place.recent),
    )
    return keys.seal(state)


def _logprobs(scores: Scores, vocabulary: Vocabulary) -> pb.Logprobs:
    message = pb.Logprobs(chosen=scores.chosen.tolist())
    if scores.best.shape[1]:
        chars = _rows(vocabulary.tokens_to_symbols(scores.best), scores.best.shape[1])
        for best, logprobs in zip(chars, scores.best_logprobs.tolist(), strict=True):
            message.alternatives.add(chars=best, logprobs=logprobs)
    return message


def _rows(text: str, width: int) -> Sequence[str]:
    return [text[begin : begin + width] for begin in range(0, len(text), width)]


def _timings(finish: Finish) -> pb.Timings:
    return pb.Timings(
        queue_seconds=finish.queue_seconds,
        first_char_seconds=finish.first_char_seconds,
        total_seconds=finish.total_seconds,
    )
