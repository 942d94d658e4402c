"""POST /v1/score: the Score of charstream.v1, which OpenAI has not, with the numbers in OpenAI's form."""

from typing import Any

from protos import charstream_pb2 as pb
from server.errors import InvalidField
from server.http.bodies import Body, merge_fields, parse, to_event, to_fields
from server.http.choices import MAX_COLLECTED, NUMBER_WEIGHT, Choice, Echo, join_numbers
from server.http.exchange import Exchange
from server.observe.call import current_call
from server.service.calls import Texts

__all__ = ["Scores"]


class ScoreBody(Body, extra="allow"):
    """The fields of ScoreRequest, and whether the answer comes in parts."""

    stream: bool | None = None


class Scores:
    """Serves scores."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    async def serve(self, exchange: Exchange) -> None:
        body = parse(ScoreBody, await exchange.body())
        request = merge_fields("body", body.model_extra or {}, pb.ScoreRequest)
        if request.unknown == pb.UNKNOWN_SKIP:
            reason = "numbers would not be those of the text's characters; allowed are UNKNOWN_REFUSE, UNKNOWN_REPLACE"
            raise InvalidField("unknown", f"is UNKNOWN_SKIP: {reason}")
        if not body.stream:
            _check_size(request)
        parts = _Parts(request.text, exchange if body.stream else None)
        await self._texts.Score(request, parts)
        if body.stream:
            await exchange.event(b"data: [DONE]\n\n")
            await exchange.end_events()
        else:
            await exchange.answer(parts.whole())


def _check_size(request: pb.ScoreRequest) -> None:
    most = MAX_COLLECTED // (NUMBER_WEIGHT * (1 + request.alternatives))
    if len(request.text) > most:
        reason = f"a whole answer to this request may have {most}: ask with `stream`"
        raise InvalidField("text", f"has {len(request.text)} characters; {reason}")


class _Parts:
    """The parts of a score, sent as they come if there is an exchange to take them, or kept."""

    def __init__(self, text: str, exchange: Exchange | None) -> None:
        self._echo, self._choice, self._exchange = Echo(text), Choice(0), exchange
        self._parts = list[dict[str, Any]]()

    async def write(self, message: pb.ScoreResponse) -> None:
        numbers = self._choice.part(self._echo.message(message))["logprobs"]
        part = {"object": "score", "model": current_call().model.partition(" ")[0], "logprobs": numbers}
        if message.HasField("summary"):
            part["summary"] = to_fields(message.summary)
        if self._exchange:
            await self._exchange.event(to_event(part))
        else:
            self._parts.append(part)

    def whole(self) -> dict[str, Any]:
        return self._parts[-1] | {"logprobs": join_numbers([part["logprobs"] for part in self._parts])}
