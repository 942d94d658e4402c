"""The service inference.GRPCInferenceService: the Open Inference Protocol v2, with Triton's extensions."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc.aio import ServicerContext

from protos import inference_pb2 as oip
from protos import inference_pb2_grpc as oip_grpc
from server.access.quotas import Quotas
from server.catalog.catalog import Catalog
from server.catalog.loaded_model import ServedModel
from server.errors import InvalidField
from server.observe.call import current_call
from server.oip.names import Target, find_target
from server.oip.responses import ResponseWriter
from server.oip.step_models import StepModels
from server.oip.streams import Out, RequestStreams
from server.oip.tensors import Tensor, read_tensors
from server.oip.text_answers import OUTPUTS, Collector, Streamer
from server.oip.text_fields import TextInputs, generate_request
from server.service.calls import Calls, Texts
from server.settings import ServerSettings

__all__ = ["InferenceService"]

Context = ServicerContext[Any, Any]


class InferenceService(oip_grpc.GRPCInferenceServiceServicer):
    """Translates: what a text is, and what a caller may have, is decided behind `texts`."""

    def __init__(
        self,
        catalog: Catalog[ServedModel],
        settings: ServerSettings,
        calls: Calls,
        texts: Texts,
        quotas: Quotas,
        drain: asyncio.Event,
    ) -> None:
        self._versions, self._texts = catalog.versions, texts
        self._steps = StepModels(catalog, settings, quotas, drain)
        self._streams = RequestStreams(settings, calls, self._serve_streamed)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        target = self._target(request)
        if target.is_step:
            writer, tensors = await self._steps.infer(request, target.name)
            return writer.response(tensors)
        writer = ResponseWriter(request, OUTPUTS)
        inputs = generate_request(target.name, read_tensors(request), request.parameters)
        if inputs.streaming:
            raise InvalidField("streaming", "is true, and ModelInfer answers once: use ModelStreamInfer")
        return writer.response(await self._collect(inputs, writer))

    async def ModelStreamInfer(self, requests: AsyncIterator[oip.ModelInferRequest], context: Context) -> None:
        await self._streams.run(requests, context)

    async def _serve_streamed(self, request: oip.ModelInferRequest, out: Out) -> None:
        target = self._target(request)
        if target.is_step:
            writer, tensors = await self._steps.infer(request, target.name)
            await out.write(writer.part(tensors, final=not writer.wants_empty_final))
        else:
            writer = ResponseWriter(request, OUTPUTS)
            inputs = generate_request(target.name, read_tensors(request), request.parameters)
            await self._stream_text(inputs, writer, out)
        if writer.wants_empty_final:
            await out.write(writer.part([], final=True))

    async def _stream_text(self, inputs: TextInputs, writer: ResponseWriter, out: Out) -> None:
        marks_last = not writer.wants_empty_final

        async def send(tensors: Sequence[Tensor], last: bool) -> None:
            writer.version = _version()
            await out.write(writer.part(tensors, final=last and marks_last))

        if inputs.streaming is False:
            await send(await self._collect(inputs, writer), True)
        else:
            await self._texts.Generate(inputs.message, Streamer(inputs.message, send))

    def _target(self, request: oip.ModelInferRequest) -> Target:
        return find_target(request.model_name, request.model_version, self._versions)

    async def _collect(self, inputs: TextInputs, writer: ResponseWriter) -> Sequence[Tensor]:
        collector = Collector(inputs.message)
        await self._texts.Generate(inputs.message, collector)
        writer.version = _version()
        return collector.tensors()


def _version() -> str:
    """Return the version of the model that serves the current call."""
    return current_call().model.partition(" ")[2]
