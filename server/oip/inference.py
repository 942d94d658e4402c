"""The service inference.GRPCInferenceService: the Open Inference Protocol v2, with Triton's extensions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from grpc.aio import ServicerContext

from protos import inference_pb2 as oip
from protos import inference_pb2_grpc as oip_grpc
from server.errors import InvalidField, NotImplementedHere
from server.observe.call import current_call
from server.oip.repository import Repository
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

EXTENSIONS = ["sequence", "parameters", "model_configuration", "model_repository", "statistics"]


NO_SHARED_MEMORY = "there is no shared memory here"


def _refuse(name: str, reason: str) -> Callable[[Any, oip.Unused, Context], Awaitable[NoReturn]]:
    """Return the method of an RPC that is answered with UNIMPLEMENTED, its name and the reason."""

    async def refuse(self: Any, request: oip.Unused, context: Context) -> NoReturn:
        raise NotImplementedHere(f"{name}: {reason}")

    return refuse


class InferenceService(oip_grpc.GRPCInferenceServiceServicer):
    """Translates: what a text is, and what a caller may have, is decided behind `texts`."""

    def __init__(
        self,
        settings: ServerSettings,
        calls: Calls,
        texts: Texts,
        steps: StepModels,
        repository: Repository,
        drain: asyncio.Event,
    ) -> None:
        self._texts, self._steps, self._repository, self._drain = texts, steps, repository, drain
        self._streams = RequestStreams(settings, calls, self._serve_streamed)

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=not self._drain.is_set())

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        ready = not self._drain.is_set() and self._repository.is_ready(request.name, request.version)
        return oip.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="charstream", version=version("charstream"), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        return self._repository.metadata(request.name, request.version)

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        return oip.ModelConfigResponse(config=self._repository.config(request.name, request.version))

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        return self._repository.statistics(request.name, request.version)

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        return self._repository.index(only_ready=request.ready)

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        await self._repository.load(request.model_name, list(request.parameters))
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        self._repository.unload(request.model_name)
        return oip.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        target = self._repository.find(request.model_name, request.model_version)
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

    SystemSharedMemoryStatus = _refuse("SystemSharedMemoryStatus", NO_SHARED_MEMORY)
    SystemSharedMemoryRegister = _refuse("SystemSharedMemoryRegister", NO_SHARED_MEMORY)
    SystemSharedMemoryUnregister = _refuse("SystemSharedMemoryUnregister", NO_SHARED_MEMORY)
    CudaSharedMemoryStatus = _refuse("CudaSharedMemoryStatus", NO_SHARED_MEMORY)
    CudaSharedMemoryRegister = _refuse("CudaSharedMemoryRegister", NO_SHARED_MEMORY)
    CudaSharedMemoryUnregister = _refuse("CudaSharedMemoryUnregister", NO_SHARED_MEMORY)
    TraceSetting = _refuse("TraceSetting", "traces are the operator's, --traces and OTEL_* variables")
    LogSettings = _refuse("LogSettings", "the log is the operator's, --log-format, --log-calls and --log-texts")

    async def _serve_streamed(self, request: oip.ModelInferRequest, out: Out) -> None:
        target = self._repository.find(request.model_name, request.model_version)
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
            await self._texts.Generate(inputs.message, Streamer(inputs.message, send, out.reader))

    async def _collect(self, inputs: TextInputs, writer: ResponseWriter) -> Sequence[Tensor]:
        collector = Collector(inputs.message)
        await self._texts.Generate(inputs.message, collector)
        writer.version = _version()
        return collector.tensors()


def _version() -> str:
    """Return the version of the model that serves the current call."""
    return current_call().model.partition(" ")[2]
