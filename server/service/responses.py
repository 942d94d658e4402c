"""Outputs of the engine as messages of charstream.v1."""

import math
from dataclasses import dataclass, field

from bundle.vocabulary import CharacterDecoder, Vocabulary, partial_character
from protos import charstream_pb2 as pb
from server.engine.messages import Finish, Output, Reason, Request, Scores, Snapshot
from server.service.requests import ResponseDetails
from server.service.resume_tokens import Keys, text_state

__all__ = ["GenerateResponder", "ScoreResponder"]

LARGEST_NATS = 709.0

REASONS = {
    Reason.STOP: pb.FINISH_REASON_STOP,
    Reason.LENGTH: pb.FINISH_REASON_LENGTH,
    Reason.DEADLINE: pb.FINISH_REASON_DEADLINE,
    Reason.DRAINED: pb.FINISH_REASON_DRAINED,
    Reason.REPEAT: pb.FINISH_REASON_REPEAT,
}


@dataclass
class GenerateResponder:
    """Makes the messages of one continuation, in their order."""

    request: Request
    details: ResponseDetails
    keys: Keys
    index: int
    _begun: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._decoder = CharacterDecoder(self.details.manifest.unit, self.details.preceding)

    def message(self, chunk: Output, *, last: bool = True) -> pb.GenerateResponse:
        """Return the next message. `last`: the chunk's finish is the text's."""
        message = pb.GenerateResponse(text=self._decoder.push(chunk.text), index=self.index)
        manifest = self.details.manifest
        if manifest.unit == "bytes":
            message.raw = chunk.text.encode("latin-1")
        if not self._begun:
            self._begun = True
            details = self.details
            message.started.CopyFrom(
                pb.Started(
                    seed=self.request.seed,
                    max_chars=details.max_chars,
                    replica=details.replica,
                    unknown_chars=details.unknown_chars,
                )
            )
        if chunk.scores:
            message.logprobs.CopyFrom(_logprobs(chunk.scores, manifest.vocabulary))
        if chunk.finish and last:
            message.finish.CopyFrom(self._finish(chunk.finish))
        if chunk.snapshot and last:
            self._add_place(message, chunk.snapshot)
        return message

    def _add_place(self, message: pb.GenerateResponse, place: Snapshot) -> None:
        token = _resume_token(place, self.request, self.details, self.keys, self.index)
        if message.HasField("finish"):
            if self.request.snapshot:
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

    def _finish(self, finish: Finish) -> pb.Finish:
        return pb.Finish(
            reason=REASONS[finish.reason],
            stop=self.details.manifest.vocabulary.symbols_to_text(finish.stop),
            stop_chars_sent=finish.stop_chars_sent,
            prompt_chars=self.details.prompt_chars,
            generated_chars=finish.generated_chars,
            seed=self.request.seed,
            position=finish.position,
            timings=_timings(finish),
            repeat_period=finish.repeat_period,
        )


class ScoreResponder:
    """Makes the messages of a text that is scored."""

    def __init__(self, request: Request, details: ResponseDetails, keys: Keys) -> None:
        self._request, self._details, self._keys = request, details, keys
        self._chars, self._nats = 0, 0.0

    def message(self, chunk: Output) -> pb.ScoreResponse:
        message, manifest = pb.ScoreResponse(), self._details.manifest
        if chunk.scores:
            self._chars += len(chunk.text)
            self._nats -= float(chunk.scores.chosen.sum(dtype="float64"))
            message.logprobs.CopyFrom(_logprobs(chunk.scores, manifest.vocabulary))
            if manifest.unit == "bytes":
                message.raw = chunk.text.encode("latin-1")
            elif self._details.unknown_chars:
                message.text = chunk.text
        if chunk.finish:
            message.summary.CopyFrom(self._summary(chunk.finish))
            if chunk.snapshot:
                index = self._request.continuation
                message.summary.resume_token = _resume_token(
                    chunk.snapshot, self._request, self._details, self._keys, index
                )
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
            replica=self._details.replica,
            timings=_timings(finish),
            unknown_chars=self._details.unknown_chars,
        )


def _resume_token(place: Snapshot, request: Request, details: ResponseDetails, keys: Keys, continuation: int) -> bytes:
    state = text_state(
        place,
        model=details.manifest.name,
        replica=details.replica,
        seed=request.seed,
        continuation=continuation,
        sampling=details.sampling,
        unfinished=partial_character(details.manifest.unit, place.recent),
    )
    return keys.seal(state)


def _logprobs(scores: Scores, vocabulary: Vocabulary) -> pb.Logprobs:
    message = pb.Logprobs(chosen=scores.chosen.tolist())
    width = scores.best.shape[1]
    if width:
        symbols = vocabulary.tokens_to_symbols(scores.best)
        for place, logprobs in enumerate(scores.best_logprobs.tolist()):
            message.alternatives.add(chars=symbols[place * width : (place + 1) * width], logprobs=logprobs)
    return message


def _timings(finish: Finish) -> pb.Timings:
    return pb.Timings(
        queue_seconds=finish.queue_seconds,
        first_char_seconds=finish.first_char_seconds,
        total_seconds=finish.total_seconds,
    )
