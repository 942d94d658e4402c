"""charstream verify: check that a bundle computes what its model does."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO

from pydantic import Field

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import ON_DEVICE, Precision
from bundle.read import Bundle, full_file, read_bundle
from bundle.vocabulary import singular
from charstream.settings import Positional, Settings, fail, parse
from export.evaluate import tokens_of_part
from export.quantization_cost import MAX_COST
from export.verification.compare import reference_of_bundle, verify
from export.verification.device_loop import DeviceLoop
from export.verification.onnx_evaluator import OnnxEvaluator
from export.verification.onnx_session import OnnxSession
from export.verification.tolerance import Verification
from models.data.corpus import open_corpus
from models.evaluation.losses import carried_mean
from models.network.char_lm import CharLM
from models.training.checkpoint import load

__all__ = ["VerifySettings", "main", "print_report"]

COMMAND = "charstream verify"


class VerifySettings(Settings):
    """Checks a bundle: files and digests, then ONNX Runtime against torch, step by step. Exit code 0: they agree."""

    bundle: Annotated[Path, Positional()] = Field(description="the bundle's folder")
    run: Path | None = Field(
        None, description="compare with the model of this training run (default: with the weights of step.onnx)"
    )
    data: str | None = Field(
        None,
        description="also measure every precision's loss on the last tenth of this text; each may cost 0.003 nats",
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(VerifySettings, argv, command=COMMAND)
    try:
        bundle = read_bundle(settings.bundle)
        manifest = bundle.manifest
        model = _load_run(settings.run, bundle) if settings.run else reference_of_bundle(manifest, bundle.files)
        passed = print_report(verify(manifest, bundle.files, model))
        if settings.data:
            passed &= _compare_losses(bundle, settings.data)
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    return 0 if passed else 1


def print_report(results: Sequence[Verification], file: TextIO | None = None) -> bool:
    """Print the results, by default to stdout; return whether all passed."""
    passed = all(result.has_passed for result in results)
    print(*results, "verified" if passed else "not verified", sep="\n", file=file)
    return passed


def _load_run(run: Path, bundle: Bundle) -> CharLM:
    """Return the run's model. Raises ValueError if it cannot be the bundle's."""
    trained, manifest = load(run), bundle.manifest
    if (trained.model.config.shape, trained.vocabulary) != (manifest.model, manifest.vocabulary):
        raise ValueError(f"{run} holds another model: its sizes or its vocabulary are not those of {manifest.name}")
    return trained.model


def _compare_losses(bundle: Bundle, data: str) -> bool:
    """Print each precision's loss; return whether all agree. Raises ValueError if a character is unknown."""
    manifest = bundle.manifest
    corpus = open_corpus(data, vocabulary=manifest.unit)
    ids = tokens_of_part(corpus, "validation", manifest.vocabulary)
    start = int(manifest.vocabulary.symbols_to_tokens(manifest.start_text)[0])
    losses = {
        precision: carried_mean(_open_evaluator(bundle, precision), ids, start) for precision in manifest.precisions
    }
    unit, agree = singular(manifest.unit), True
    for precision, nats in losses.items():
        cost = nats - losses["fp32"]
        agree &= cost <= MAX_COST
        print(f"{precision}: {nats:.5f} nats a {unit} on the last tenth of {corpus.name} ({cost:+.5f})")
        if cost > MAX_COST:
            print(f"FAILED: {precision} costs more than {MAX_COST} nats", file=sys.stderr)
    return agree


def _open_evaluator(bundle: Bundle, precision: Precision) -> OnnxEvaluator:
    """Return an evaluator on the full graph; for a device the longest one: `carried_mean` goes on after whole runs."""
    manifest, steps = bundle.manifest, max(DEVICE_STEPS) if precision in ON_DEVICE else None
    session = OnnxSession(bundle.files[full_file(precision, steps)])
    return OnnxEvaluator(DeviceLoop(session, manifest) if steps else session, manifest, steps)


if __name__ == "__main__":
    sys.exit(main())
