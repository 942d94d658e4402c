"""The RPCs. Protocol messages stop here."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from grpc.aio import ServicerContext

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.access.quotas import Quota, Quotas
from server.catalog.catalog import Catalog
from server.catalog.loaded_model import ServedModel
from server.engine.messages import Generation, Reason
from server.errors import CallTooLong, RequestError, ShuttingDown
from server.observe.call import Call, current_call
from server.service.requests import Asked, generation_of, scoring_of
from server.service.responses import Answer, ScoreAnswer
from server.service.resume_tokens import Keys
from server.service.token_pb2 import TextState
from server.settings import ServerSettings
from server.streaming.text_stream import Chunk, Reader

__all__ = ["TextGenerationService"]

Context = ServicerContext[Any, Any]
Chunks = AsyncGenerator[Chunk, None]


class TextGenerationService(pb_grpc.TextGenerationServicer):
    """Streams texts; refuses new ones from the moment `drain` is set."""

    def __init__(
        self, catalog: Catalog[ServedModel], settings: ServerSettings, keys: Keys, drain: asyncio.Event
    ) -> None:
        self._catalog, self._settings, self._keys, self._drain = catalog, settings, keys, drain
        self._quotas = Quotas(settings.identity_streams, settings.identity_chars)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        with self._quotas.of(current_call().identity) as quota:
            async with self._model(request, quota) as (model, token):
                await self._generate(request, context, quota, model, token)

    async def _generate(
        self, request: pb.GenerateRequest, context: Context, quota: Quota, model: ServedModel, token: TextState | None
    ) -> None:
        call = current_call()
        asked = generation_of(request, token, model, self._settings)
        answers = [Answer(asked, model, self._keys, index) for index in asked.continuations]
        self._note(call, asked, model, request.prompt)
        caller = _Caller(call, quota, context, self._settings.log_texts)
        if len(answers) == 1:
            complete = await self._send(asked.generation, answers[0], caller)
        else:
            complete = await self._send_all(asked, answers, caller)
        if not complete:
            raise self._to_go_on()

    async def Score(self, request: pb.ScoreRequest, context: Context) -> None:
        with self._quotas.of(current_call().identity) as quota:
            async with self._model(request, quota) as (model, token):
                await self._score(request, context, quota, model, token)

    async def _score(
        self, request: pb.ScoreRequest, context: Context, quota: Quota, model: ServedModel, token: TextState | None
    ) -> None:
        call = current_call()
        asked = scoring_of(request, token, model, self._settings)
        answer = ScoreAnswer(asked, model, self._keys)
        self._note(call, asked, model, request.prompt + request.text)
        caller = _Caller(call, quota, context, keep_text=False)
        async with caller.opened(model, asked.generation) as chunks:
            async for chunk in chunks:
                if chunk.finish and chunk.finish.reason is Reason.DRAINED:
                    raise self._to_go_on()
                await caller.write(answer.message(chunk))
                if chunk.finish:
                    call.note_finish(chunk.finish)

    @asynccontextmanager
    async def _model(
        self, request: pb.GenerateRequest | pb.ScoreRequest, quota: Quota
    ) -> AsyncIterator[tuple[ServedModel, TextState | None]]:
        """The model that is asked for, which stays loaded until the block ends, and what the request's token says.

        Room for a text is there, before the work of reading the request.
        """
        if self._drain.is_set():
            raise ShuttingDown
        token = None
        if request.resume_token:
            token = self._keys.open(request.resume_token, self._settings.max_token_bytes)
        name = request.model or (token.model if token else "")
        digest = token.replica.digest if token else request.replica.digest
        async with AsyncExitStack() as stack:
            with quota.text():  # who waits for a model counts
                model = await stack.enter_async_context(self._catalog.use(name, digest))
            model.streams.check_capacity(1)
            yield model, token

    def _note(self, call: Call, asked: Asked, model: ServedModel, prompt: str) -> None:
        """What the call's record says of its request."""
        generation = asked.generation
        call.model = f"{model.manifest.name} {model.manifest.version}"
        call.forced_chars = len(generation.forced)
        call.resumed = generation.origin is not None or bool(generation.received)
        if self._settings.log_texts:
            call.prompt = prompt

    def _to_go_on(self) -> RequestError:
        """Why a text is incomplete: it can go on in another call, here or elsewhere."""
        return ShuttingDown() if self._drain.is_set() else CallTooLong(self._settings.max_seconds)

    async def _send(self, generation: Generation, answer: Answer, caller: "_Caller") -> bool:
        """Returns whether the text is complete."""
        reason, last = None, None
        async with caller.opened(answer.model, generation) as chunks:
            async for chunk in chunks:
                message = answer.message(chunk)
                await caller.write(message)
                last = caller.sent(chunk, message.text, last)
                reason = chunk.finish and chunk.finish.reason
        return reason is not Reason.DRAINED

    async def _send_all(self, asked: Asked, answers: list[Answer], caller: "_Caller") -> bool:
        """Reads the prompt once, generates all continuations from its end; returns whether all are complete."""
        answers[0].model.streams.check_capacity(len(answers))
        caller.quota.check_capacity(len(answers))
        generation = asked.generation
        if len(generation.forced):
            end = await self._read_prompt(generation, answers, caller)
            if not end.snapshot:
                return await self._end_all(end, answers, caller)
            generation = generation.after(end.snapshot)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = [
                    tasks.create_task(self._send(replace(generation, continuation=answer.index), answer, caller))
                    for answer in answers
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return all(task.result() for task in sending)

    async def _read_prompt(self, generation: Generation, answers: list[Answer], caller: "_Caller") -> Chunk:
        """Sends what of the prompt is to be sent, to each; returns the last chunk, with the place after it."""
        reading = replace(generation, max_chars=0, stop=(), snapshot=True, checkpoint_chars=0)
        async with caller.opened(answers[0].model, reading) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    await self._echo(chunk, answers, caller)
        return replace(chunk, text="", scores=None)

    async def _echo(self, chunk: Chunk, answers: list[Answer], caller: "_Caller") -> None:
        """One text is charged for already."""
        caller.quota.charge((len(answers) - 1) * len(chunk.text))
        for answer in answers:
            message = answer.message(chunk, last=False)
            await caller.write(message)
            caller.sent(replace(chunk, finish=None), message.text, None)

    async def _end_all(self, end: Chunk, answers: list[Answer], caller: "_Caller") -> bool:
        """The time was over, or the server drained, before the prompt was read."""
        for answer in answers:
            await caller.write(answer.message(end))
        caller.sent(end, "", None)
        return end.finish is not None and end.finish.reason is not Reason.DRAINED


class _Caller:
    """Who waits for one text or several: what may be had, where to write, and the record of what was."""

    def __init__(self, call: Call, quota: Quota, context: Context, keep_text: bool) -> None:
        self.quota = quota
        self._call, self._context, self._keep_text = call, context, keep_text
        self._turn, self._reader = asyncio.Lock(), Reader()

    def opened(self, model: ServedModel, generation: Generation) -> AbstractAsyncContextManager[Chunks]:
        return model.streams.open(generation, self._call.began, self.quota, self._reader)

    async def write(self, message: pb.GenerateResponse | pb.ScoreResponse) -> None:
        async with self._turn:
            await self._context.write(message)
            self._reader.took = time.monotonic()

    def sent(self, chunk: Chunk, text: str, last: float | None) -> float:
        """Notes a message with some text, of which the message before was written at `last`; returns now."""
        now = time.monotonic()
        self._call.note_message(len(chunk.text), None if last is None else now - last)
        if self._keep_text:
            self._call.text += text
        if chunk.finish:
            self._call.note_finish(chunk.finish)
        return now
