"""Make the files and the manifest of a bundle from a trained model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import get_args

import torch

from bundle.curve import CURVE, TrainingCurve
from bundle.graph_contract import (
    DEVICE_STEPS,
    decode_inputs,
    decode_outputs,
    device_inputs,
    device_outputs,
    full_inputs,
    full_outputs,
    step_inputs,
    step_outputs,
)
from bundle.manifest import FORMAT, ON_DEVICE, Manifest, Precision
from bundle.pair_bound import METADATA
from bundle.probe import ROWS as PROBE_ROWS
from bundle.read import CARD, STEP, decode_file, full_file
from bundle.vocabulary import singular
from bundle.write import file_records
from export.card import card
from export.expected_probe import expected_texts
from export.graph.bounds import LOSSY_PRECISIONS, unbounded_input
from export.graph.modules import DecodeGraph, FullGraph, StepGraph
from export.onnx_file import to_onnx
from export.quantization_cost import MAX_COST, quantization_cost
from export.unroll import unroll
from models.training.checkpoint import Trained

__all__ = ["PRECISIONS", "USUAL", "build", "unsupported_reason"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# The precisions of a bundle by default; those for a device make it several times larger.
USUAL: tuple[Precision, ...] = ("fp32", "int8")
# Sizes of the traced example. Both stay variable, for which torch needs at least 2.
ROWS, STEPS = 3, 2


def unsupported_reason(trained: Trained, precision: Precision) -> str | None:
    """Return why a model is not offered in a precision, with the layer's name or the measured loss; None if it is."""
    if reason := unbounded_input(trained.model.config, precision):
        return reason
    if precision not in LOSSY_PRECISIONS:
        return None
    start = int(trained.vocabulary.symbols_to_tokens(trained.start_text)[0])
    cost = quantization_cost(trained.model, start, precision)
    if cost <= MAX_COST:
        return None
    if not math.isfinite(cost):
        return "it reaches numbers that are not finite there" + ", beyond 65504" * (precision == "fp16-cuda")
    batch = "; a batch normalisation makes much of units that hardly move" * (trained.model.config.norm == "batch")
    return (
        f"it would lose {cost:.3f} nats more per {singular(trained.vocabulary.unit)}, "
        f"at most {MAX_COST} are allowed{batch}"
    )


def build(
    trained: Trained,
    name: str,
    version: str,
    precisions: Sequence[Precision] | None = None,
    on_export: Callable[[str], None] = lambda file: None,
    about: str = "",
    curve: TrainingCurve | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and the files of a bundle.

    Args:
        precisions: fp32 first, or int8 alone (default: fp32, and int8 where the model supports it).
        on_export: called with the name of each graph when it is done, which takes some seconds each.
        about: what else the card says.
        curve: the losses of the training run, which the bundle takes along.

    Raises:
        pydantic.ValidationError: the name or the version has characters that are not allowed.
        Unbounded: the model cannot be computed in one of the precisions.
    """
    model = trained.model
    if precisions is None:
        precisions = USUAL[:1] if unsupported_reason(trained, "int8") else USUAL
    step = StepGraph(model).eval()
    steps = {precision: step.in_precision(precision) for precision in precisions}
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
    files = {CARD: card(trained, manifest, about).encode()}
    if curve:
        files[CURVE] = f"{curve.model_dump_json()}\n".encode()
    for file, data in _export_graphs(step, steps, manifest):
        files[file] = data
        on_export(file)
    return manifest.model_copy(update={"files": file_records(files)}), files


def _export_graphs(
    exact: StepGraph, steps: Mapping[Precision, StepGraph], manifest: Manifest
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each graph's file: one step of `exact`, and the loops of each precision."""
    shape, vocab, metadata = manifest.model, len(manifest.symbols), manifest.metadata()
    token, state = torch.zeros(ROWS, dtype=torch.int64), [torch.zeros(ROWS, shape.hidden) for _ in shape.state_names]
    yield STEP, to_onnx(exact, (token, *state), step_inputs(shape), step_outputs(shape, vocab), metadata)
    sampling = torch.full((STEPS, ROWS), -1), torch.full((STEPS, ROWS), 0.5), torch.ones(ROWS)
    limits = torch.zeros(ROWS, vocab), torch.full((ROWS,), vocab), torch.ones(ROWS), torch.zeros(ROWS)
    decode_example, full_example = (token, *sampling, *state), (token, *sampling, *limits, *state)
    for file, graph, example, inputs, outputs in (
        (decode_file, DecodeGraph, decode_example, decode_inputs(shape), decode_outputs(shape)),
        (full_file, FullGraph, full_example, full_inputs(shape, vocab), full_outputs(shape, vocab)),
    ):
        loops: dict[StepGraph, bytes] = {}  # precisions may share a step
        for precision, step in steps.items():
            if step not in loops:
                entries = metadata | (METADATA if precision == "int8" else {})
                loops[step] = to_onnx(graph(step, vocab), example, inputs, outputs, entries)
            if precision not in ON_DEVICE:
                yield file(precision), loops[step]
                continue
            for count in DEVICE_STEPS:
                specs = device_inputs(shape, inputs, count), device_outputs(outputs, count)
                yield file(precision, count), unroll(loops[step], *specs, count)
