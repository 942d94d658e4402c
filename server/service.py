"""The RPCs. Protocol messages stop here."""

import asyncio
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.catalog import Catalog, ServedModel
from server.errors import ShuttingDown
from server.requests import generation_of
from server.settings import ServerSettings
from server.values import Finish, Generation, Reason

__all__ = ["ModelsService", "TextGenerationService"]

Context = ServicerContext[Any, Any]
REASONS = {Reason.STOP: pb.FINISH_REASON_STOP, Reason.LENGTH: pb.FINISH_REASON_LENGTH}


class TextGenerationService(pb_grpc.TextGenerationServicer):
    """Streams texts; refuses new ones from the moment `drain` is set."""

    def __init__(self, catalog: Catalog, settings: ServerSettings, drain: asyncio.Event) -> None:
        self._catalog, self._settings, self._drain = catalog, settings, drain

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        if self._drain.is_set():
            raise ShuttingDown
        model = self._catalog.get(request.model)
        generation = generation_of(request, model, self._settings)
        generated = 0
        # Closed in any case, and at once: that is what frees the row of a caller who is gone.
        async with aclosing(model.streams.open(generation).chunks()) as chunks:
            async for chunk in chunks:
                generated += len(chunk.text)
                finish = _finish(chunk.finish, generation, generated) if chunk.finish else None
                await context.write(pb.GenerateResponse(text=chunk.text, finish=finish))


class ModelsService(pb_grpc.ModelsServicer):
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[_model(model) for model in self._catalog])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        return _model(self._catalog.get(request.name))


def _finish(finish: Finish, generation: Generation, generated: int) -> pb.Finish:
    return pb.Finish(
        reason=REASONS[finish.reason],
        stop=finish.stop,
        prompt_chars=len(generation.prompt),
        generated_chars=generated,
        seed=generation.seed,
        timings=pb.Timings(
            queue_seconds=finish.queue_seconds,
            first_char_seconds=finish.first_char_seconds,
            total_seconds=finish.total_seconds,
        ),
    )


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
