"""GET /v1/models as OpenAI's, with all that Models.ListModels tells."""

from typing import Any

from protos import charstream_pb2 as pb
from server.http.bodies import to_fields
from server.http.exchange import Exchange
from server.service.calls import Models

__all__ = ["ModelList"]


class ModelList:
    def __init__(self, models: Models) -> None:
        self._models = models

    async def serve_all(self, exchange: Exchange) -> None:
        found = await self._models.ListModels(pb.ListModelsRequest(), None)
        await exchange.answer({"object": "list", "data": [_model(model) for model in found.models]})

    async def serve_one(self, exchange: Exchange) -> None:
        name = exchange.parameters["name"]
        await exchange.answer(_model(await self._models.GetModel(pb.GetModelRequest(name=name), None)))


def _model(model: pb.Model) -> dict[str, Any]:
    """Return a model under the name by which a request means this version."""
    name = model.name if model.is_default else f"{model.name}@{model.version}"
    return {"id": name, "object": "model", "created": 0, "owned_by": "charstream", "charstream": to_fields(model)}
