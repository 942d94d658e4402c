"""The RPCs. Protocol messages stop here."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from grpc.aio import ServicerContext

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.answers import Answer, ScoreAnswer
from server.catalog import Catalog, ServedModel
from server.errors import ShuttingDown
from server.requests import Asked, generation_of, scoring_of
from server.settings import ServerSettings
from server.streams import Chunk
from server.token_pb2 import TextState
from server.tokens import Keys
from server.values import Generation, Reason

__all__ = ["ModelsService", "TextGenerationService"]

Context = ServicerContext[Any, Any]


class TextGenerationService(pb_grpc.TextGenerationServicer):
    """Streams texts; refuses new ones from the moment `drain` is set."""

    def __init__(self, catalog: Catalog, settings: ServerSettings, keys: Keys, drain: asyncio.Event) -> None:
        self._catalog, self._settings, self._keys, self._drain = catalog, settings, keys, drain

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        since = time.monotonic()
        model, token = self._model(request)
        asked = generation_of(request, token, model, self._settings)
        answers = [Answer(asked, model, self._keys, index) for index in asked.continuations]
        if len(answers) == 1:
            complete = await self._send(asked.generation, answers[0], context, since)
        else:
            complete = await self._send_all(asked, answers, _Writer(context), since)
        if not complete:
            raise ShuttingDown

    async def Score(self, request: pb.ScoreRequest, context: Context) -> None:
        since = time.monotonic()
        model, token = self._model(request)
        asked = scoring_of(request, token, model, self._settings)
        answer = ScoreAnswer(asked, model, self._keys)
        async with _opened(model, asked.generation, since) as chunks:
            async for chunk in chunks:
                if chunk.finish and chunk.finish.reason is Reason.DRAINED:
                    raise ShuttingDown
                await context.write(answer.message(chunk))

    def _model(self, request: pb.GenerateRequest | pb.ScoreRequest) -> tuple[ServedModel, TextState | None]:
        """The model that is asked for, and what the request's token says."""
        if self._drain.is_set():
            raise ShuttingDown
        if not request.resume_token:
            return self._catalog.get(request.model), None
        token = self._keys.open(request.resume_token, self._settings.max_token_bytes)
        return self._catalog.get(request.model or token.model), token

    async def _send(self, generation: Generation, answer: Answer, writer: "Context | _Writer", since: float) -> bool:
        """Returns whether the text is complete: one that was drained can go on elsewhere."""
        reason = None
        async with _opened(answer.model, generation, since) as chunks:
            async for chunk in chunks:
                await writer.write(answer.message(chunk))
                reason = chunk.finish and chunk.finish.reason
        return reason is not Reason.DRAINED

    async def _send_all(self, asked: Asked, answers: list[Answer], writer: "_Writer", since: float) -> bool:
        """Reads the prompt once, generates all continuations from its end; returns whether all are complete."""
        answers[0].model.streams.check_room(len(answers))
        generation = asked.generation
        if len(generation.forced):
            end = await self._read_prompt(generation, answers, writer, since)
            if not end.snapshot:
                return await self._end_all(end, answers, writer)
            generation = generation.after(end.snapshot)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = [
                    tasks.create_task(self._send(replace(generation, continuation=answer.index), answer, writer, since))
                    for answer in answers
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return all(task.result() for task in sending)

    async def _read_prompt(
        self, generation: Generation, answers: list[Answer], writer: "_Writer", since: float
    ) -> Chunk:
        """Sends what of the prompt is to be sent, to each; returns the last chunk, with the place after it."""
        reading = replace(generation, max_chars=0, stop=(), snapshot=True, checkpoint_chars=0)
        async with _opened(answers[0].model, reading, since) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    for answer in answers:
                        await writer.write(answer.message(chunk, last=False))
        return replace(chunk, text="", scores=None)

    async def _end_all(self, end: Chunk, answers: list[Answer], writer: "_Writer") -> bool:
        """The time was over, or the server drained, before the prompt was read."""
        for answer in answers:
            await writer.write(answer.message(end))
        return end.finish is not None and end.finish.reason is not Reason.DRAINED


def _opened(model: ServedModel, generation: Generation, since: float) -> "aclosing[AsyncGenerator[Chunk, None]]":
    """Closed in any case, and at once: that is what frees the row of a caller who is gone."""
    return aclosing(model.streams.open(generation, since).chunks())


class _Writer:
    """A call that several texts write to."""

    def __init__(self, context: Context) -> None:
        self._context, self._turn = context, asyncio.Lock()

    async def write(self, message: pb.GenerateResponse) -> None:
        async with self._turn:
            await self._context.write(message)


class ModelsService(pb_grpc.ModelsServicer):
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[_model(model) for model in self._catalog])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        return _model(self._catalog.get(request.name))


def _model(model: ServedModel) -> pb.Model:
    manifest = model.manifest
    record = manifest.training
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        digest=model.digest,
        cell=manifest.model.cell,
        layers=manifest.model.layers,
        hidden=manifest.model.hidden,
        vocabulary=manifest.symbols,
        start_text=manifest.start_text,
        precision=model.precision,
        provider=model.provider,
        numerics=model.numerics,
        training=pb.TrainingRecord(
            data=record.data,
            data_sha256=record.data_sha256,
            parameters=record.parameters,
            steps=record.steps,
            validation_nats=record.validation_nats,
        ),
    )
