"""Looks inside a model: the hidden units after each character of a text, by single steps of the step graph."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.graph_contract import step_inputs
from server.access.quotas import Quota, Quotas
from server.catalog.loaded_model import ServedModel
from server.errors import InvalidField, ShuttingDown, join_names, quote
from server.observe.call import current_call
from server.service.calls import Activations
from server.service.fields import encode
from server.settings import ServerSettings

__all__ = ["MOST_CHARS", "MOST_NUMBERS", "StateReader"]

# Of one request: the characters that are read, and the numbers that are answered.
MOST_CHARS, MOST_NUMBERS = 1024, 1 << 20


class Models(Protocol):
    """The models, as far as a reader has to know them; see server/catalog/catalog.py."""

    def use(self, wanted: str, digest: str) -> AbstractAsyncContextManager[ServedModel]: ...


class StateReader:
    """Reads texts step by step, within the caller's quota: such a text is one that is open, with its characters."""

    def __init__(self, models: Models, settings: ServerSettings, quotas: Quotas, drain: asyncio.Event) -> None:
        self._models, self._settings, self._quotas, self._drain = models, settings, quotas, drain

    async def read(self, model: str, text: str, state: str, last: int | None) -> Activations:
        """Return the activations after the `last` characters of a text (None: all), which may be empty.

        Args:
            state: the name of the array; "": that of the hidden state of the highest layer.

        Raises:
            RequestError: as Score.
        """
        with self._quotas.of(current_call().identity) as quota:
            if self._drain.is_set():
                raise ShuttingDown
            with quota.text():
                async with self._models.use(model, "") as served:
                    return await self._read(served, text, state, last, quota)

    async def _read(self, served: ServedModel, text: str, state: str, last: int | None, quota: Quota) -> Activations:
        manifest, call = served.manifest, current_call()
        call.model = f"{manifest.name} {manifest.version}"
        names = tuple(spec.name for spec in step_inputs(manifest.model)[1:])
        name = state or [name for name in names if name.startswith("h")][-1]
        if name not in names:
            raise InvalidField("state", f"is {quote(name)}, this model has {join_names(names)}")
        tokens = encode("text", text, manifest)
        count = len(tokens) if last is None else min(last, len(tokens))
        _check_size(len(tokens), count, manifest.model.hidden)
        call.forced_chars = len(tokens)
        await quota.earn(len(tokens), self._settings.max_wait)
        start = manifest.vocabulary.symbols_to_tokens(manifest.start_text)
        values, logits = await _step_through(served, np.concatenate([start, tokens]), names.index(name), count)
        return Activations(
            model=manifest.name,
            version=manifest.version,
            state=name,
            states=names,
            symbols=manifest.vocabulary.tokens_to_symbols(tokens[len(tokens) - count :]),
            is_bytes=manifest.unit == "bytes",
            values=values,
            logprobs=_log_softmax(logits),
        )


def _check_size(chars: int, count: int, hidden: int) -> None:
    if chars > MOST_CHARS:
        raise InvalidField("text", f"has {chars} characters, allowed are {MOST_CHARS}: send its end")
    most = MOST_NUMBERS // hidden
    if count > most:
        reason = f"{count} characters of {hidden} units are too many numbers, {most} fit: ask for less with `last`"
        raise InvalidField("last", reason)


async def _step_through(
    served: ServedModel, tokens: NDArray[np.int64], index: int, count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a state [count, H] after each of the last tokens, and the logits [V] after the last one."""
    shape = served.manifest.model
    state = [np.zeros((1, shape.hidden), np.float32) for _ in shape.state_names]
    values = np.empty((count, shape.hidden), np.float32)
    first = len(tokens) - count
    logits = np.empty(0, np.float32)
    for place in range(len(tokens)):
        output, _ = await served.steps.step(tokens[place : place + 1], state)
        state, logits = list(output.state), output.logits[0]
        if place >= first:
            values[place - first] = state[index][0]
    return values, logits


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = (logits - logits.max()).astype(np.float64)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
