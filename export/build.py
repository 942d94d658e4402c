"""A trained model -> the files and the manifest of a bundle."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from bundle.graphs import decode_inputs, decode_outputs, full_inputs, full_outputs, step_inputs, step_outputs
from bundle.manifest import FORMAT, Manifest, ModelShape, Precision
from bundle.probe import ROWS as PROBE_ROWS
from bundle.read import CARD, STEP, decode_file, full_file
from bundle.write import file_records
from export.bounds import unbounded_input
from export.card import card
from export.cost import MOST_LOSS, int8_cost
from export.graphs import DecodeGraph, FullGraph, StepGraph
from export.onnx_file import to_onnx
from export.probe import expected_texts
from models.checkpoint import Trained

__all__ = ["PRECISIONS", "build", "why_no_int8"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
# Sizes of the example that is traced; both stay variable, which takes an example of at least 2.
ROWS, STEPS = 3, 2


def why_no_int8(trained: Trained) -> str | None:
    """What speaks against 8 bits, with the layer's name or the measured loss; None if nothing does."""
    if reason := unbounded_input(trained.model.config):
        return reason
    cost = int8_cost(trained.model, int(trained.vocabulary.numbers(trained.start_text)[0]))
    if cost <= MOST_LOSS:
        return None
    batch = "; a batch normalisation makes much of units that hardly move" * (trained.model.config.norm == "batch")
    return (
        f"it would lose {cost:.3f} nats more per {trained.vocabulary.unit[:-1]}, at most {MOST_LOSS} are allowed{batch}"
    )


def build(
    trained: Trained,
    name: str,
    version: str,
    precisions: Sequence[Precision] | None = None,
    exported: Callable[[str], None] = lambda file: None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle.

    Args:
        precisions: fp32 first (default: all that the model has).
        exported: is told the name of each graph that is done, some seconds after the one before.

    Raises:
        pydantic.ValidationError: if the name or the version has characters that a bundle's may not.
        Unbounded: int8 is wanted of a model that cannot be computed in it.
    """
    model = trained.model
    if precisions is None:
        precisions = PRECISIONS[:1] if why_no_int8(trained) else PRECISIONS
    step = StepGraph(model).eval()
    steps = {precision: step.quantized() if precision == "int8" else step for precision in precisions}
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
    for precision, step in steps.items():
        yield from _loop_files(step, manifest, precision)


def _loop_files(step: StepGraph, manifest: Manifest, precision: Precision) -> Iterator[tuple[str, bytes]]:
    shape, vocab, metadata = manifest.model, len(manifest.symbols), manifest.metadata()
    loop = (
        torch.zeros(ROWS, dtype=torch.int64),
        torch.full((STEPS, ROWS), -1),
        torch.full((STEPS, ROWS), 0.5),
        torch.ones(ROWS),
    )
    limits = (torch.zeros(ROWS, vocab), torch.full((ROWS,), vocab), torch.ones(ROWS), torch.zeros(ROWS))
    decode, full = DecodeGraph(step, vocab).eval(), FullGraph(step, vocab).eval()
    state = _state(shape)
    yield (
        decode_file(precision),
        to_onnx(decode, (*loop, *state), decode_inputs(shape), decode_outputs(shape), metadata),
    )
    yield (
        full_file(precision),
        to_onnx(full, (*loop, *limits, *state), full_inputs(shape, vocab), full_outputs(shape, vocab), metadata),
    )


def _state(shape: ModelShape) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(ROWS, shape.hidden) for _ in shape.state_names)
