"""What a text does not show: hidden units, the model's card and training, and how busy the server is."""

import asyncio
import base64
import time
from typing import Any

import numpy as np
from pydantic import Field

from protos import charstream_pb2 as pb
from server.http.bodies import Body, parse, to_event
from server.http.choices import byte_name
from server.http.exchange import Exchange
from server.observe.metrics import Metrics, Stage
from server.service.calls import Activations, Models, States
from server.settings import ServerSettings

__all__ = ["Insight"]

EVERY_SECONDS = 1.0


class ActivationsBody(Body):
    """A request for the hidden units after the `last` characters of a text."""

    model: str | None = None
    text: str
    state: str | None = None
    last: int | None = Field(None, ge=0)


class Insight:
    """Serves POST /v1/activations, GET /v1/cards/NAME and GET /v1/load."""

    def __init__(self, states: States, models: Models, metrics: Metrics, settings: ServerSettings) -> None:
        self._states, self._models, self._metrics, self._settings = states, models, metrics, settings

    async def serve_activations(self, exchange: Exchange) -> None:
        body = parse(ActivationsBody, await exchange.body())
        read = await self._states.read(body.model or "", body.text, body.state or "", body.last)
        await exchange.answer(_activations(read))

    async def serve_card(self, exchange: Exchange) -> None:
        card = await self._models.card(exchange.parameters["name"])
        about = {"object": "card", "model": card.name, "version": card.version, "card": card.text}
        curve = card.curve.model_dump() if card.curve else None
        training = card.training.model_dump(include={"split", "seconds"})
        await exchange.answer({**about, "training": training, "curve": curve})

    async def serve_load(self, exchange: Exchange) -> None:
        """Answer once, or with `?stream=true` each second, until the client or the server goes or the call was long."""
        await exchange.body()
        if exchange.query.get("stream") not in ("true", "1"):
            await exchange.answer(await self._load())
            return
        end = time.monotonic() + self._settings.max_seconds
        while True:
            await exchange.event(to_event(await self._load()))
            if time.monotonic() > end or self._metrics.stage is not Stage.READY:
                break
            await asyncio.sleep(EVERY_SECONDS)
        await exchange.end_events()

    async def _load(self) -> dict[str, Any]:
        listed = await self._models.ListModels(pb.ListModelsRequest(), None)
        loaded = [model for model in listed.models if model.state == pb.MODEL_STATE_LOADED]
        open_texts = {f"{model.name}@{model.version}": model.texts for model in loaded}
        limits = {"max_rows": self._settings.max_rows, "max_waiting": self._settings.max_waiting}
        return {
            "object": "load",
            "stage": self._metrics.stage.value,
            "texts": open_texts,
            "models": self._metrics.load(),
            **limits,
        }


def _activations(read: Activations) -> dict[str, Any]:
    """Return the JSON: activations as bytes in base64, each times `scale`, character by character."""
    largest = float(np.abs(read.values).max(initial=0.0))
    scale = max(largest, 1.0) / 127
    levels = np.rint(read.values / scale).astype(np.int8)
    return {
        "object": "activations",
        "model": read.model,
        "version": read.version,
        "state": read.state,
        "states": read.states,
        "units": read.values.shape[1],
        "tokens": [byte_name(symbol) for symbol in read.symbols] if read.is_bytes else list(read.symbols),
        "values": base64.b64encode(levels.tobytes()).decode(),
        "scale": scale,
        "next_logprobs": [round(float(value), 5) for value in read.logprobs],
    }
