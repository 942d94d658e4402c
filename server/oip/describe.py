"""Descriptions of models: their tensors, and how they are served, as clients of the protocol ask for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bundle.graph_contract import TensorSpec, step_inputs, step_outputs
from bundle.manifest import Manifest
from protos import inference_pb2 as oip
from server.oip.text_answers import OUTPUTS
from server.oip.text_fields import FIELDS

__all__ = ["Sequencing", "model_config", "model_metadata"]

INT64 = 7  # ONNX's code; all other tensors of a step are FP32
MICROSECONDS = 1_000_000
MOST = 2**31 - 1
ANY = -1
TYPES = {
    "BOOL": oip.TYPE_BOOL,
    "UINT32": oip.TYPE_UINT32,
    "UINT64": oip.TYPE_UINT64,
    "INT64": oip.TYPE_INT64,
    "FP32": oip.TYPE_FP32,
    "FP64": oip.TYPE_FP64,
    "BYTES": oip.TYPE_STRING,
}


@dataclass(frozen=True)
class _Tensor:
    name: str
    datatype: str
    dims: Sequence[int]
    is_optional: bool = False


@dataclass(frozen=True)
class Sequencing:
    """The limits of sequences: how many are held, and for how long without a step."""

    capacity: int
    idle_seconds: float


def model_metadata(
    name: str, versions: Sequence[str], manifest: Manifest, *, is_step: bool
) -> oip.ModelMetadataResponse:
    """Return the tensors of a model, or of its steps. `name`: as the caller has it."""

    def shown(tensor: _Tensor) -> oip.ModelMetadataResponse.TensorMetadata:
        return oip.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.dims)

    inputs, outputs = _tensors(manifest, is_step=is_step)
    return oip.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform=_platform(is_step),
        inputs=map(shown, inputs),
        outputs=map(shown, outputs),
    )


def model_config(
    name: str, manifest: Manifest, facts: Mapping[str, str], sequencing: Sequencing, *, is_step: bool
) -> oip.ModelConfig:
    """Return how a model, or its steps, is served.

    Args:
        facts: of the loaded model, beside those of the manifest.
    """
    inputs, outputs = _tensors(manifest, is_step=is_step)
    config = oip.ModelConfig(
        name=name,
        platform=_platform(is_step),
        backend="onnxruntime" if is_step else "charstream",
        version_policy=oip.ModelVersionPolicy(all=oip.ModelVersionPolicy.All()),
        input=[
            oip.ModelInput(name=one.name, data_type=TYPES[one.datatype], dims=one.dims, optional=one.is_optional)
            for one in inputs
        ],
        output=[oip.ModelOutput(name=one.name, data_type=TYPES[one.datatype], dims=one.dims) for one in outputs],
        instance_group=[oip.ModelInstanceGroup(name=name, count=1, kind=_kind(facts, is_step))],
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=not is_step),
    )
    if is_step:
        config.sequence_batching.CopyFrom(_sequence_batching(manifest, sequencing))
    for key, value in {**_facts(manifest), **facts}.items():
        config.parameters[key].string_value = value
    return config


def _platform(is_step: bool) -> str:
    return "onnxruntime_onnx" if is_step else "charstream"


def _kind(facts: Mapping[str, str], is_step: bool) -> oip.ModelInstanceGroup.Kind:
    on_device = facts.get("provider", "").startswith("CUDA") and not is_step
    return oip.ModelInstanceGroup.KIND_GPU if on_device else oip.ModelInstanceGroup.KIND_CPU


def _tensors(manifest: Manifest, *, is_step: bool) -> tuple[Sequence[_Tensor], Sequence[_Tensor]]:
    """Return the inputs and the outputs."""
    if not is_step:
        inputs = [_Tensor(field.name, field.datatype, [field.size], field.name != "text_input") for field in FIELDS]
        return inputs, [_Tensor(name, *_output(name)) for name in OUTPUTS]
    token, *state = _step_tensors(step_inputs(manifest.model))
    optional = [_Tensor(one.name, one.datatype, one.dims, is_optional=True) for one in state]
    return [token, *optional], list(_step_tensors(step_outputs(manifest.model, len(manifest.symbols))))


def _output(name: str) -> tuple[str, Sequence[int]]:
    datatype, size = OUTPUTS[name]
    return datatype, [size, ANY] if name == "top_logprobs" else [size]


def _step_tensors(specs: Sequence[TensorSpec]) -> Iterator[_Tensor]:
    for spec in specs:
        dims = [size if isinstance(size, int) else ANY for size in spec.shape]
        yield _Tensor(spec.name, "INT64" if spec.type == INT64 else "FP32", dims)


def _sequence_batching(manifest: Manifest, sequencing: Sequencing) -> oip.ModelSequenceBatching:
    state = manifest.model.state_names
    return oip.ModelSequenceBatching(
        max_sequence_idle_microseconds=int(sequencing.idle_seconds * MICROSECONDS),
        oldest=oip.ModelSequenceBatching.StrategyOldest(max_candidate_sequences=min(sequencing.capacity, MOST)),
        state=[
            oip.ModelSequenceBatching.State(
                input_name=name, output_name=f"{name}_next", data_type=oip.TYPE_FP32, dims=[1, manifest.model.hidden]
            )
            for name in state
        ],
    )


def _facts(manifest: Manifest) -> dict[str, str]:
    shape = manifest.model
    return {
        "vocabulary": manifest.symbols,
        "unit": manifest.unit,
        "start_text": manifest.start_text,
        "start_token": str(manifest.vocabulary.symbols.index(manifest.start_text)),
        "cell": shape.cell,
        "layers": str(shape.layers),
        "hidden": str(shape.hidden),
    }
