"""charstream verify: is a bundle what it says?"""

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
from export.evaluate import numbers_of
from export.quantization_cost import MOST_LOSS
from export.verification.compare import reference_of_bundle, verify
from export.verification.device_loop import InPlace
from export.verification.onnx_reader import RuntimeReader
from export.verification.onnx_session import Runtime
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
        model = _trained(settings.run, bundle) if settings.run else reference_of_bundle(manifest, bundle.files)
        passed = print_report(verify(manifest, bundle.files, model))
        if settings.data:
            passed &= _losses_agree(bundle, settings.data)
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    return 0 if passed else 1


def print_report(found: Sequence[Verification], file: TextIO | None = None) -> bool:
    """Prints what was found, to stdout unless told otherwise; returns whether all passed."""
    passed = all(verification.passed for verification in found)
    print(*found, "verified" if passed else "not verified", sep="\n", file=file)
    return passed


def _trained(run: Path, bundle: Bundle) -> CharLM:
    """Raises ValueError if the run's model cannot be the bundle's."""
    trained, manifest = load(run), bundle.manifest
    if (trained.model.config.shape, trained.vocabulary) != (manifest.model, manifest.vocabulary):
        raise ValueError(f"{run} holds another model: its sizes or its vocabulary are not those of {manifest.name}")
    return trained.model


def _losses_agree(bundle: Bundle, data: str) -> bool:
    """Prints each precision's loss; raises ValueError if the text has a character that the model does not know."""
    manifest = bundle.manifest
    corpus = open_corpus(data, vocabulary=manifest.unit)
    ids = numbers_of(corpus, "validation", manifest.vocabulary)
    start = int(manifest.vocabulary.numbers(manifest.start_text)[0])
    losses = {precision: carried_mean(_reader(bundle, precision), ids, start) for precision in manifest.precisions}
    agree = True
    for precision, nats in losses.items():
        apart = nats - losses["fp32"]
        agree &= apart <= MOST_LOSS
        unit = singular(manifest.unit)
        print(f"{precision}: {nats:.5f} nats a {unit} on the last tenth of {corpus.name} ({apart:+.5f})")
        if apart > MOST_LOSS:
            print(f"FAILED: {precision} costs more than {MOST_LOSS} nats", file=sys.stderr)
    return agree


def _reader(bundle: Bundle, precision: Precision) -> RuntimeReader:
    """Of a precision for a device the graph of most steps: what `carried_mean` goes on from are whole runs of it."""
    manifest, steps = bundle.manifest, max(DEVICE_STEPS) if precision in ON_DEVICE else None
    runtime = Runtime(bundle.files[full_file(precision, steps)])
    return RuntimeReader(InPlace(runtime, manifest) if steps else runtime, manifest, steps)


if __name__ == "__main__":
    sys.exit(main())
