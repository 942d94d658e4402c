"""POST /v2/models/NAME/generate and generate_stream: Triton's generate extension of the Open Inference Protocol."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from protos import charstream_pb2 as pb
from server.errors import InvalidField
from server.http.bodies import Body, Strings, merge_fields, parse, to_event
from server.http.choices import REASONS, check_size, own_fields
from server.http.exchange import Exchange
from server.observe.call import current_call
from server.service.calls import Texts

__all__ = ["Generate", "error_text"]

# The names that Triton's backends of language models have for some of our fields.
NAMES = {"max_tokens": "max_chars", "min_tokens": "min_chars", "stop_words": "stop", "random_seed": "seed"}
SAMPLING = {field.name for field in pb.Sampling.DESCRIPTOR.fields}


class GenerateBody(Body, extra="allow"):
    """Other fields are GenerateRequest's and Sampling's, beside `text_input` or in `parameters`."""

    id: str | None = None
    text_input: Strings = Field(...)
    parameters: dict[str, Any] | None = None
    stream: Any = None  # the path says it


def error_text(error: Exception, message: str) -> dict[str, str]:
    return {"error": message}


class Generate:
    """Serves both.

    Args:
        default_chars: characters that are generated if a request does not say.
    """

    def __init__(self, texts: Texts, default_chars: int) -> None:
        self._texts, self._default_chars = texts, default_chars

    async def serve_whole(self, exchange: Exchange) -> None:
        body, request = _request(await exchange.body(), exchange.parameters)
        check_size(request, 1, self._default_chars)
        texts = _Texts(body.id, None)
        await self._texts.Generate(request, texts)
        await exchange.answer(texts.whole())

    async def serve_stream(self, exchange: Exchange) -> None:
        body, request = _request(await exchange.body(), exchange.parameters)
        await self._texts.Generate(request, _Texts(body.id, exchange))
        await exchange.end_events()


def _request(data: bytes, place: Mapping[str, str]) -> tuple[GenerateBody, pb.GenerateRequest]:
    body = parse(GenerateBody, data)
    if len(body.text_input) != 1:
        raise InvalidField("text_input", f"has {len(body.text_input)} texts, allowed is 1")
    given = {**(body.model_extra or {}), **(body.parameters or {})}
    given.pop("stream", None)
    fields: dict[str, Any] = {NAMES.get(name, name): value for name, value in given.items()}
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]] if fields["stop"] else []
    fields["sampling"] = {name: fields.pop(name) for name in SAMPLING & set(fields)}
    request = merge_fields("parameters", fields, pb.GenerateRequest)
    if request.n > 1:
        raise InvalidField("n", f"is {request.n}, allowed is 1: an answer has one text")
    request.prompt = body.text_input[0]
    request.model = place["name"] + (f"@{place['version']}" if "version" in place else "")
    return body, request


class _Texts:
    """The messages of a text, sent as they come if there is an exchange to take them, or kept."""

    def __init__(self, id_: str | None, exchange: Exchange | None) -> None:
        self._id, self._exchange = {} if id_ is None else {"id": id_}, exchange
        self._parts = list[dict[str, Any]]()

    async def write(self, message: pb.GenerateResponse) -> None:
        part = self._part(message)
        if self._exchange:
            await self._exchange.event(to_event(part))
        else:
            self._parts.append(part)

    def _part(self, message: pb.GenerateResponse) -> dict[str, Any]:
        name, _, version = current_call().model.partition(" ")
        part: dict[str, Any] = {**self._id, "model_name": name, "model_version": version, "text_output": message.text}
        own = own_fields(message)
        part |= {name: own[name] for name in ("checkpoint", "raw") if name in own}
        if message.HasField("started"):
            part["seed"] = message.started.seed
        if message.HasField("logprobs"):
            part["logprobs"] = list(message.logprobs.chosen)
        if message.HasField("finish"):
            part["finish_reason"] = REASONS.get(message.finish.reason)
            if message.finish.resume_token:
                part["resume_token"] = own["finish"]["resume_token"]
        return part

    def whole(self) -> dict[str, Any]:
        whole = {name: value for part in self._parts for name, value in part.items()}
        for name in ("text_output", "logprobs"):
            values = [part[name] for part in self._parts if name in part]
            if values:
                whole[name] = "".join(values) if name == "text_output" else [value for one in values for value in one]
        return whole
