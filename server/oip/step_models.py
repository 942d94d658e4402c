"""Step models, NAME.step: one step of the model, with the state at the caller, or kept here as a sequence."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.graph_contract import TensorSpec, step_inputs, step_outputs
from bundle.manifest import Manifest
from protos import inference_pb2 as oip
from server.access.quotas import Quota, Quotas
from server.catalog.loaded_model import ServedModel
from server.errors import InvalidField, ShuttingDown, join_names
from server.observe.call import current_call
from server.oip.names import STEP
from server.oip.responses import ResponseWriter
from server.oip.tensors import Tensor, read_tensors
from server.runtime.step_runner import StepOutput
from server.settings import ServerSettings
from server.streaming.sequences import HeldSequence, Key

__all__ = ["StepModels", "read_step", "state_specs"]

TOKEN, MAX_NAME = "token", 128
INTEGERS = {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"}
SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END = "sequence_id", "sequence_start", "sequence_end"
# Parameters that mean nothing here, and do no harm; tritonclient's own begin with the prefix.
IGNORED = {"priority", "timeout", "binary_data_output"}
RESERVED = "triton_"
Arrays = Sequence[NDArray[np.float32]]
# Takes a sequence from other replicas; see server/oip/replicas.py.
TakeSequence = Callable[[ServedModel, Key], Awaitable[HeldSequence | None]]


def state_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return the inputs of a step that are its state."""
    return step_inputs(manifest.model)[1:]


@dataclass(frozen=True)
class StepRequest:
    """A step that is asked for.

    Attributes:
        token: [B].
        state: [B, H] of each name; None if the request has none.
        sequence: 0 or "" if the state is the caller's.
    """

    token: NDArray[np.int64]
    state: Arrays | None
    sequence: int | str
    begins: bool
    ends: bool


class Models(Protocol):
    """The models, as far as a caller has to know them; see server/catalog/catalog.py."""

    def use(self, wanted: str, digest: str) -> AbstractAsyncContextManager[ServedModel]: ...


class StepModels:
    """Answers requests for single steps, within the caller's quota: a step is a text that is open, and a character."""

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        quotas: Quotas,
        drain: asyncio.Event,
        take_sequence: TakeSequence | None = None,
    ) -> None:
        self._models, self._settings, self._quotas, self._drain = models, settings, quotas, drain
        self._take_sequence = take_sequence

    async def infer(self, request: oip.ModelInferRequest, name: str) -> tuple[ResponseWriter, Sequence[Tensor]]:
        """Return the outputs of a step of the model `name`, and what writes them. Raises RequestError."""
        with self._quotas.of(current_call().identity) as quota:
            if self._drain.is_set():
                raise ShuttingDown
            with quota.text():
                async with self._models.use(name, "") as model:
                    return await self._infer(request, model, quota)

    async def _infer(
        self, request: oip.ModelInferRequest, model: ServedModel, quota: Quota
    ) -> tuple[ResponseWriter, Sequence[Tensor]]:
        manifest, call = model.manifest, current_call()
        call.model = f"{manifest.name}{STEP} {manifest.version}"
        outputs = [spec.name for spec in step_outputs(manifest.model, len(manifest.symbols))]
        writer = ResponseWriter(request, outputs)
        writer.version = manifest.version
        step = read_step(request, manifest, self._settings.max_batch)
        call.forced_chars = len(step.token)
        await quota.earn(len(step.token), self._settings.max_wait)
        output, call.queue_seconds = await self._run(step, model, quota.identity)
        # The state of a sequence stays here, unless it is asked for.
        shown = outputs if not step.sequence else [outputs[0], *(name for name in outputs if writer.wants(name))]
        arrays = dict(zip(outputs, (output.logits, *output.state), strict=True))
        return writer, [Tensor(name, "FP32", arrays[name].shape, arrays[name]) for name in dict.fromkeys(shown)]

    async def _run(self, step: StepRequest, model: ServedModel, identity: str) -> tuple[StepOutput, float]:
        shape = model.manifest.model
        state = step.state
        if state is None:
            zeros = np.zeros((len(step.token), shape.hidden), np.float32)
            state = [zeros for _ in shape.state_names]
        if not step.sequence:
            return await model.steps.step(step.token, state)
        return await model.sequences.step(
            Key(identity, step.sequence),
            step.token,
            model.steps,
            begin=state if step.begins else None,
            end=step.ends,
            find_elsewhere=partial(self._take_sequence, model) if self._take_sequence else None,
        )


def read_step(request: oip.ModelInferRequest, manifest: Manifest, max_rows: int) -> StepRequest:
    """Return the step that the request asks for. Raises InvalidField."""
    tensors, specs = read_tensors(request), state_specs(manifest)
    known = [TOKEN, *(spec.name for spec in specs)]
    for name in tensors:
        if name not in known:
            raise InvalidField(name, f"is no input of this step; there are {join_names(known)}")
    token = _token(tensors, len(manifest.symbols), max_rows)
    given = [tensors[spec.name] for spec in specs if spec.name in tensors]
    if given and len(given) < len(specs):
        missing = next(spec.name for spec in specs if spec.name not in tensors)
        raise InvalidField(missing, f"is missing: the state is all of {join_names(known[1:])}, or none for a beginning")
    state = [_state(tensor, len(token), manifest.model.hidden) for tensor in given] or None
    step = StepRequest(token, state, *_sequence(request.parameters))
    _check_sequence(step)
    return step


def _token(tensors: Mapping[str, Tensor], vocab: int, max_rows: int) -> NDArray[np.int64]:
    tensor = tensors.get(TOKEN)
    if tensor is None:
        raise InvalidField(TOKEN, "is missing; it is the number of the last character in the vocabulary")
    if tensor.datatype not in INTEGERS:
        raise InvalidField(TOKEN, f"has the datatype {tensor.datatype}, INT64 is expected")
    if tensor.shape not in ((len(tensor.values),), (len(tensor.values), 1)):
        raise InvalidField(TOKEN, f"has the shape {list(tensor.shape)}, [B] is expected")
    if not 1 <= len(tensor.values) <= max_rows:
        raise InvalidField(TOKEN, f"has {len(tensor.values)} rows, allowed are 1 to {max_rows} (--max-batch)")
    values = np.asarray(tensor.values)
    wrong = values[(values < 0) | (values >= vocab)]
    if wrong.size:
        raise InvalidField(TOKEN, f"is {wrong[0]}, allowed are 0 to {vocab - 1}")
    return values.astype(np.int64)


def _state(tensor: Tensor, rows: int, hidden: int) -> NDArray[np.float32]:
    if tensor.datatype != "FP32":
        raise InvalidField(tensor.name, f"has the datatype {tensor.datatype}, FP32 is expected")
    if tensor.shape != (rows, hidden):
        raise InvalidField(tensor.name, f"has the shape {list(tensor.shape)}, {[rows, hidden]} is expected")
    values = np.asarray(tensor.values, np.float32).reshape(rows, hidden)
    if not np.isfinite(values).all():
        raise InvalidField(tensor.name, "has numbers that are not finite")
    return values


def _sequence(parameters: Mapping[str, oip.InferParameter]) -> tuple[int | str, bool, bool]:
    for name in parameters:
        if name not in {SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END, *IGNORED} and not name.startswith(RESERVED):
            raise InvalidField(name, f"is no parameter of a step; there are {SEQUENCE_ID}, _start and _end")
    sequence = _choice(parameters, SEQUENCE_ID, ("int64_param", "uint64_param", "string_param")) or 0
    starts = _choice(parameters, SEQUENCE_START, ("bool_param",))
    return sequence, bool(starts), bool(_choice(parameters, SEQUENCE_END, ("bool_param",)))


def _choice(parameters: Mapping[str, oip.InferParameter], name: str, choices: Sequence[str]) -> int | str | None:
    if name not in parameters:
        return None
    choice = parameters[name].WhichOneof("parameter_choice")
    if choice not in choices:
        raise InvalidField(name, f"is a {choice or 'parameter without value'}, {' or '.join(choices)} is expected")
    value: int | str = getattr(parameters[name], choice)
    return value


def _check_sequence(step: StepRequest) -> None:
    if not step.sequence and (step.begins or step.ends):
        raise InvalidField(SEQUENCE_ID, f"is missing, with {SEQUENCE_START if step.begins else SEQUENCE_END}")
    if step.sequence and len(step.token) != 1:
        raise InvalidField(TOKEN, f"has {len(step.token)} rows, a sequence has one")
    if step.sequence and step.state and not step.begins:
        raise InvalidField(SEQUENCE_ID, f"is held here: a state is taken with {SEQUENCE_START} only")
    if isinstance(step.sequence, str) and len(step.sequence) > MAX_NAME:
        raise InvalidField(SEQUENCE_ID, f"has {len(step.sequence)} characters, allowed are at most {MAX_NAME}")
