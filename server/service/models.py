"""The RPCs that say what is served."""

from typing import Any

from grpc.aio import ServicerContext

from bundle.manifest import TrainingRecord
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.catalog.catalog import Catalog
from server.catalog.loaded_model import ServedModel
from server.catalog.versions import Standing, Version
from server.settings import ServerSettings

__all__ = ["ModelsService"]

Context = ServicerContext[Any, Any]


class ModelsService(pb_grpc.ModelsServicer):
    def __init__(self, catalog: Catalog, settings: ServerSettings) -> None:
        self._catalog, self._settings = catalog, settings

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(self._model, self._catalog))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        return self._model(self._catalog.get(request.name))

    def _model(self, version: Version) -> pb.Model:
        manifest = version.found.manifest
        model = pb.Model(
            name=manifest.name,
            version=manifest.version,
            digest=version.found.digest,
            cell=manifest.model.cell,
            layers=manifest.model.layers,
            hidden=manifest.model.hidden,
            vocabulary=manifest.symbols,
            start_text=manifest.start_text,
            training=_training(manifest.training),
            state=_state(version),
            is_default=self._catalog.is_default(version),
            max_rows=self._settings.max_rows,
            memory=self._catalog.memory_of(version),
            unit=manifest.unit,
        )
        if version.served:
            model.MergeFrom(_loaded(version.served))
        return model


def _loaded(model: ServedModel) -> pb.Model:
    """What is known of a loaded model only."""
    return pb.Model(
        precision=model.precision, provider=model.provider, numerics=model.numerics, texts=model.streams.texts
    )


def _state(version: Version) -> pb.ModelState:
    if version.standing is Standing.FAILED:
        return pb.MODEL_STATE_FAILED
    if version.served:
        return pb.MODEL_STATE_LOADED
    return pb.MODEL_STATE_LOADING if version.loading else pb.MODEL_STATE_NOT_LOADED


def _training(record: TrainingRecord) -> pb.TrainingRecord:
    return pb.TrainingRecord(
        data=record.data,
        data_sha256=record.data_sha256,
        parameters=record.parameters,
        steps=record.steps,
        validation_nats=record.validation_nats,
    )
