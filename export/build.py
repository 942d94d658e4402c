"""A trained model -> the files and the manifest of a bundle."""

import torch

from bundle.graphs import decode_inputs, decode_outputs, step_inputs, step_outputs
from bundle.manifest import FORMAT, Manifest, ModelShape
from bundle.read import CARD, STEP, decode_file
from bundle.write import file_records
from export.card import card
from export.graphs import DecodeGraph, StepGraph
from export.onnx_file import to_onnx
from models.checkpoint import Trained
from models.model import State

__all__ = ["build"]

# Sizes of the example that is traced; both stay variable, which takes an example of at least 2.
ROWS, STEPS = 3, 2


def build(trained: Trained, name: str, version: str) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle, fp32.

    Raises:
        pydantic.ValidationError: if the name or the version has characters that a bundle's may not.
    """
    config = trained.model.config
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        model=ModelShape(cell=config.cell, layers=config.layers, hidden=config.hidden),
        symbols=trained.vocabulary.symbols,
        start_text=trained.start_text,
        precisions=("fp32",),
        training=trained.record,
        files={},
    )
    files = {**_graphs(trained, manifest), CARD: card(trained, manifest).encode()}
    return manifest.model_copy(update={"files": file_records(files)}), files


def _graphs(trained: Trained, manifest: Manifest) -> dict[str, bytes]:
    shape, vocab, metadata = manifest.model, len(manifest.symbols), manifest.metadata()
    step = StepGraph(trained.model)
    state = trained.model.initial_state(ROWS)
    token = torch.zeros(ROWS, dtype=torch.int64)
    return {
        STEP: to_onnx(step, (token, *state), step_inputs(shape), step_outputs(shape, vocab), metadata),
        decode_file("fp32"): to_onnx(
            DecodeGraph(step), _decode_example(token, state), decode_inputs(shape), decode_outputs(shape), metadata
        ),
    }


def _decode_example(token: torch.Tensor, state: State) -> tuple[torch.Tensor, ...]:
    forced, uniform = torch.full((STEPS, ROWS), -1), torch.full((STEPS, ROWS), 0.5)
    return (token, forced, uniform, torch.full((ROWS,), STEPS), torch.ones(ROWS), *state)
