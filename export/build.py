"""A trained model -> the files and the manifest of a bundle."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from bundle.graph_contract import (
    DEVICE_STEPS,
    TensorSpec,
    decode_inputs,
    decode_outputs,
    device_inputs,
    device_outputs,
    full_inputs,
    full_outputs,
    step_inputs,
    step_outputs,
)
from bundle.manifest import FORMAT, ON_DEVICE, Manifest, ModelShape, Precision
from bundle.probe import ROWS as PROBE_ROWS
from bundle.read import CARD, STEP, decode_file, full_file
from bundle.vocabulary import singular
from bundle.write import file_records
from export.card import card
from export.expected_probe import expected_texts
from export.graph.bounds import REDUCED, unbounded_input
from export.graph.modules import DecodeGraph, FullGraph, StepGraph
from export.onnx_file import to_onnx
from export.quantization_cost import MOST_LOSS, cost
from export.unroll import unroll
from models.training.checkpoint import Trained

__all__ = ["PRECISIONS", "USUAL", "build", "why_not"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# What a bundle has unless it is said; the precisions for a device make it several times larger.
USUAL: tuple[Precision, ...] = ("fp32", "int8")
# Sizes of the example that is traced; both stay variable, which takes an example of at least 2.
ROWS, STEPS = 3, 2


def why_not(trained: Trained, precision: Precision) -> str | None:
    """What speaks against a precision, with the layer's name or the measured loss; None if nothing does."""
    if reason := unbounded_input(trained.model.config, precision):
        return reason
    if precision not in REDUCED:
        return None
    loss = cost(trained.model, int(trained.vocabulary.numbers(trained.start_text)[0]), precision)
    if loss <= MOST_LOSS:
        return None
    if not math.isfinite(loss):
        return "it reaches numbers that are not finite there" + ", beyond 65504" * (precision == "fp16-cuda")
    batch = "; a batch normalisation makes much of units that hardly move" * (trained.model.config.norm == "batch")
    unit = singular(trained.vocabulary.unit)
    return f"it would lose {loss:.3f} nats more per {unit}, at most {MOST_LOSS} are allowed{batch}"


def build(
    trained: Trained,
    name: str,
    version: str,
    precisions: Sequence[Precision] | None = None,
    exported: Callable[[str], None] = lambda file: None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle.

    Args:
        precisions: fp32 first (default: fp32, and int8 where the model has it).
        exported: is told the name of each graph that is done, some seconds after the one before.

    Raises:
        pydantic.ValidationError: if the name or the version has characters that a bundle's may not.
        Unbounded: a precision is wanted in which the model cannot be computed.
    """
    model = trained.model
    if precisions is None:
        precisions = USUAL[:1] if why_not(trained, "int8") else USUAL
    step = StepGraph(model).eval()
    steps = {precision: step.at(precision) for precision in precisions}
    start = model.initial_state(PROBE_ROWS)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        model=model.config.shape,
        unit=trained.vocabulary.unit,
        symbols=trained.vocabulary.symbols,
        start_text=trained.start_text,
        precisions=tuple(precisions),
        probe={p: expected_texts(steps[p], start, trained.vocabulary, p) for p in precisions},
        training=trained.record,
        files={},
    )
    files = {CARD: card(trained, manifest).encode()}
    for file, data in _graphs(steps, manifest):
        files[file] = data
        exported(file)
    return manifest.model_copy(update={"files": file_records(files)}), files


def _graphs(steps: Mapping[Precision, StepGraph], manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    shape, vocab = manifest.model, len(manifest.symbols)
    example = (torch.zeros(ROWS, dtype=torch.int64), *_state(shape))
    yield STEP, to_onnx(steps["fp32"], example, step_inputs(shape), step_outputs(shape, vocab), manifest.metadata())
    for file, export in ((decode_file, _decode), (full_file, _full)):
        loops: dict[StepGraph, _Loop] = {}
        for precision, step in steps.items():
            loop = loops[step] = loops.get(step) or export(step, manifest)
            if precision not in ON_DEVICE:
                yield file(precision), loop.data
                continue
            for number in DEVICE_STEPS:
                yield file(precision, number), loop.unrolled(shape, number)


@dataclass(frozen=True)
class _Loop:
    """An exported graph that loops, of which those for a device are made."""

    data: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def unrolled(self, shape: ModelShape, steps: int) -> bytes:
        inputs, outputs = device_inputs(shape, self.inputs, steps), device_outputs(self.outputs, steps)
        return unroll(self.data, inputs, outputs, steps)


def _decode(step: StepGraph, manifest: Manifest) -> _Loop:
    shape, vocab = manifest.model, len(manifest.symbols)
    inputs, outputs = decode_inputs(shape), decode_outputs(shape)
    graph, example = DecodeGraph(step, vocab).eval(), (*_loop_example(), *_state(shape))
    return _Loop(to_onnx(graph, example, inputs, outputs, manifest.metadata()), inputs, outputs)


def _full(step: StepGraph, manifest: Manifest) -> _Loop:
    shape, vocab = manifest.model, len(manifest.symbols)
    inputs, outputs = full_inputs(shape, vocab), full_outputs(shape, vocab)
    limits = (torch.zeros(ROWS, vocab), torch.full((ROWS,), vocab), torch.ones(ROWS), torch.zeros(ROWS))
    graph, example = FullGraph(step, vocab).eval(), (*_loop_example(), *limits, *_state(shape))
    return _Loop(to_onnx(graph, example, inputs, outputs, manifest.metadata()), inputs, outputs)


def _loop_example() -> tuple[Tensor, ...]:
    return (
        torch.zeros(ROWS, dtype=torch.int64),
        torch.full((STEPS, ROWS), -1),
        torch.full((STEPS, ROWS), 0.5),
        torch.ones(ROWS),
    )


def _state(shape: ModelShape) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(ROWS, shape.hidden) for _ in shape.state_names)
