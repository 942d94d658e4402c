"""The RPCs that tell which models are served."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpc.aio import ServicerContext

from bundle.curve import CURVE, MAX_CURVE_BYTES, CurveError, TrainingCurve, parse_curve
from bundle.manifest import Manifest
from bundle.read import CARD, BundleError, read_file
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.catalog.catalog import Catalog
from server.catalog.loaded_model import ServedModel
from server.catalog.versions import Version
from server.service.calls import ModelCard
from server.settings import ServerSettings

__all__ = ["ModelsService"]

Context = ServicerContext[Any, Any]
MAX_CARD_BYTES = 1 << 20


class ModelsService(pb_grpc.ModelsServicer):
    def __init__(self, catalog: Catalog[ServedModel], settings: ServerSettings) -> None:
        self._versions, self._loader, self._settings = catalog.versions, catalog.loader, settings

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(self._model, self._versions))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        return self._model(self._versions.choose(request.name, digest=""))

    async def card(self, name: str) -> ModelCard:
        """Return the card and the training curve that a model's bundle has. Raises as `GetModel`."""
        version = self._versions.choose(name, digest="")
        manifest, folder = version.found.manifest, version.found.folder
        text, curve = await asyncio.to_thread(_read_card, folder, manifest)
        return ModelCard(manifest.name, manifest.version, text, curve, manifest.training)

    def _model(self, version: Version) -> pb.Model:
        manifest = version.found.manifest
        training = manifest.training
        model = pb.Model(
            name=manifest.name,
            version=manifest.version,
            digest=version.found.digest,
            cell=manifest.model.cell,
            layers=manifest.model.layers,
            hidden=manifest.model.hidden,
            vocabulary=manifest.symbols,
            start_text=manifest.start_text,
            training=pb.TrainingRecord(
                data=training.data,
                data_sha256=training.data_sha256,
                parameters=training.parameters,
                steps=training.steps,
                validation_nats=training.validation_nats,
            ),
            state=_state(version),
            is_default=self._versions.default(manifest.name) is version,
            is_server_default=self._versions.server_default() is version,
            max_rows=self._settings.max_rows,
            memory=self._loader.memory_of(version),
            unit=manifest.unit,
            prompts=training.prompts,
        )
        loaded = self._loader.get(version)
        if loaded:
            model.precision, model.provider, model.numerics = loaded.precision, loaded.provider, loaded.numerics
            model.texts = loaded.streams.texts
        return model


def _read_card(folder: Path, manifest: Manifest) -> tuple[str, TrainingCurve | None]:
    """Return the bundle's card and curve; what is too large, or no longer there as it was, is left out."""
    sizes = {CARD: MAX_CARD_BYTES, CURVE: MAX_CURVE_BYTES}
    found = dict[str, bytes]()
    for name, most in sizes.items():
        with suppress(BundleError):
            if name in manifest.files and manifest.files[name].bytes <= most:
                found[name] = read_file(folder, name, manifest) or b""
    curve = None
    with suppress(CurveError):
        curve = parse_curve(found[CURVE]) if CURVE in found else None
    return found.get(CARD, b"").decode("utf-8", "replace"), curve


def _state(version: Version) -> pb.ModelState:
    if not version.is_usable:
        return pb.MODEL_STATE_FAILED
    if version.is_loaded:
        return pb.MODEL_STATE_LOADED
    return pb.MODEL_STATE_LOADING if version.is_loading else pb.MODEL_STATE_NOT_LOADED
