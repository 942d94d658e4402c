"""POST /v1/completions, as OpenAI's: the request becomes ours, and our messages become its choices."""

import asyncio
from typing import Annotated, Any

from google.protobuf.message import Message
from pydantic import BeforeValidator, Field

from protos import charstream_pb2 as pb
from server.errors import InvalidField
from server.http.bodies import Body, Strings, merge_fields, parse
from server.http.choices import Answer, Collected, Echo, Streamed, check_size
from server.http.exchange import Exchange
from server.observe.call import current_call
from server.service.calls import Texts, Writer

__all__ = ["Completions"]

UINT32, UINT64 = 2**32 - 1, 2**64 - 1
# Our names of fields, in errors, as the names that the client used.
NAMES = {"max_chars": "max_tokens", "sampling.bias": "logit_bias", "alternatives": "logprobs", "text": "prompt"}


def _refuse_penalty(value: Any) -> Any:
    if value:
        raise ValueError("this server has none: a penalty on characters punishes the letters that every word needs")
    return value


def _refuse_suffix(value: Any) -> Any:
    if value:
        raise ValueError("a recurrent model reads in one direction: leave it out")
    return value


Penalty = Annotated[Any, BeforeValidator(_refuse_penalty)]


class StreamOptions(Body):
    include_usage: bool | None = None


class CompletionRequest(Body):
    """The fields of OpenAI's request that mean something here; top_k and min_p are vLLM's, `charstream` is ours."""

    model: str | None = None
    prompt: Strings = ("",)
    max_tokens: int | None = Field(None, ge=0, le=UINT32)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, ge=-1, le=UINT32)
    min_p: float | None = None
    seed: int | None = Field(None, ge=0, le=UINT64)
    stop: Strings = ()
    n: int | None = Field(None, ge=1, le=UINT32)
    best_of: int | None = None
    logprobs: int | None = Field(None, ge=0, le=UINT32)
    echo: bool | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: Annotated[Any, BeforeValidator(_refuse_suffix)] = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    charstream: dict[str, Any] | None = None


class Completions:
    """Serves completions.

    Args:
        most_texts: prompts, times continuations of each, of one request.
        default_chars: characters that are generated if a request does not say.
    """

    def __init__(self, texts: Texts, most_texts: int, default_chars: int) -> None:
        self._texts, self._most_texts, self._default_chars = texts, most_texts, default_chars

    async def serve(self, exchange: Exchange) -> None:
        body = parse(CompletionRequest, await exchange.body())
        try:
            requests = _requests(body)
            self._check_size(body, requests)
            about = Answer(current_call().id, body.model or "", max(1, requests[0].n), echo=requests[0].echo)
            if body.stream:
                await self._stream(exchange, about, body.stream_options, requests)
            else:
                collected = Collected(about)
                await self._generate(requests, collected)
                await exchange.answer(collected.answer())
        except InvalidField as error:
            raise InvalidField(NAMES.get(error.field, error.field.removeprefix("sampling.")), error.reason) from None

    async def _stream(
        self, exchange: Exchange, about: Answer, options: StreamOptions | None, requests: list[pb.GenerateRequest]
    ) -> None:
        streamed = Streamed(about, exchange.event, usage=bool(options and options.include_usage))
        await self._generate(requests, streamed)
        await streamed.end()
        await exchange.end_events()

    async def _generate(self, requests: list[pb.GenerateRequest], answer: Streamed | Collected) -> None:
        """Generate all texts. Raises the error of the first that fails."""
        if len(requests) == 1:
            await self._text(requests[0], answer.writer(0))
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, request in enumerate(requests):
                    tasks.create_task(self._text(request, answer.writer(number)))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _text(self, request: pb.GenerateRequest, writer: Writer) -> None:
        """Generate a text; one of the prompt alone is scored."""
        if not (request.echo and request.HasField("max_chars") and request.max_chars == 0):
            await self._texts.Generate(request, writer)
            return
        score = pb.ScoreRequest(
            model=request.model,
            text=request.prompt,
            resume_token=request.resume_token,
            return_token=request.return_token,
            alternatives=request.logprobs,
            replica=request.replica,
            other_numerics=request.other_numerics,
        )
        await self._texts.Score(score, _EchoWriter(request, writer))

    def _check_size(self, body: CompletionRequest, requests: list[pb.GenerateRequest]) -> None:
        first = requests[0]
        each = max(1, first.n)
        if each > self._most_texts:
            raise InvalidField("n", f"is {each}, allowed are 1 to {self._most_texts} (--max-continuations)")
        if len(requests) * each > self._most_texts:
            came = f"has {len(requests)} prompts, each with {each} texts"
            raise InvalidField("prompt", f"{came}; allowed are {self._most_texts} texts (--max-continuations)")
        if not body.stream:
            for request in requests:
                check_size(request, len(requests) * each, self._default_chars)


class _EchoWriter:
    """Takes the messages of a scored prompt, and hands on those of its echo, with the numbers that were asked for.

    All texts that were asked for are the same.
    """

    def __init__(self, request: pb.GenerateRequest, writer: Writer) -> None:
        self._echo, self._writer, self._numbers = Echo(request.prompt), writer, request.HasField("logprobs")
        self._texts = max(1, request.n)

    async def write(self, message: pb.ScoreResponse) -> None:
        echo = self._echo.message(message)
        if not self._numbers:
            echo.ClearField("logprobs")
        for echo.index in range(self._texts):
            await self._writer.write(echo)


def _requests(body: CompletionRequest) -> list[pb.GenerateRequest]:
    """Return a request for each prompt. Fields of `charstream` are those of GenerateRequest; others come first."""
    if body.stream_options and not body.stream:
        raise InvalidField("stream_options", "is for answers that come with `stream`")
    if body.best_of is not None and body.best_of != (body.n or 1):
        reason = "there is no such choice; ask for `n` with `logprobs` 0, and take the one whose sum is largest"
        raise InvalidField("best_of", f"is {body.best_of}; {reason}")
    request = merge_fields("charstream", body.charstream or {}, pb.GenerateRequest)
    _set(request, max_chars=body.max_tokens, seed=body.seed, n=body.n, logprobs=body.logprobs, echo=body.echo)
    _set(request.sampling, temperature=body.temperature, top_p=body.top_p, min_p=body.min_p)
    _set(request.sampling, top_k=None if body.top_k is None else max(0, body.top_k))
    if body.model:
        request.model = body.model
    if body.stop:
        request.stop[:] = body.stop
    if body.logit_bias:
        request.sampling.bias.of.update(body.logit_bias)
    return [_with_prompt(request, prompt) for prompt in body.prompt or ("",)]


def _with_prompt(request: pb.GenerateRequest, prompt: str) -> pb.GenerateRequest:
    own = pb.GenerateRequest()
    own.CopyFrom(request)
    own.prompt = prompt or request.prompt
    return own


def _set(message: Message, **fields: Any) -> None:
    """Set the fields that are given."""
    for name, value in fields.items():
        if value is not None:
            setattr(message, name, value)
