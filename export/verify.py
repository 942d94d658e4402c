"""charstream verify: is a bundle what it says?"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO

from pydantic import Field

from bundle.manifest import ModelShape
from bundle.read import Bundle, full_file, read_bundle
from charstream.settings import Positional, Settings, fail, parse
from export.loss import carried_nats
from export.runtime import Runtime
from export.verification import Verification, reference_of_bundle, verify
from models.checkpoint import load
from models.corpus import Corpus, open_corpus
from models.model import CharLM

__all__ = ["VerifySettings", "main", "print_report"]

COMMAND = "charstream verify"
# What 8 bits may cost, in nats a character.
MOST_LOSS = 0.003


class VerifySettings(Settings):
    """Checks a bundle: files and digests, then ONNX Runtime against torch, step by step. Exit code 0: they agree."""

    bundle: Annotated[Path, Positional()] = Field(description="the bundle's folder")
    run: Path | None = Field(
        None, description="compare with the model of this training run (default: with the weights of step.onnx)"
    )
    data: str | None = Field(
        None,
        description="also measure every precision's loss on the last tenth of this text; 8 bits may cost 0.003 nats",
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(VerifySettings, argv, command=COMMAND)
    try:
        bundle = read_bundle(settings.bundle)
        manifest = bundle.manifest
        corpus = open_corpus(settings.data) if settings.data else None
        model = _trained(settings.run, bundle) if settings.run else reference_of_bundle(manifest, bundle.files)
        passed = print_report(verify(manifest, bundle.files, model))
        if corpus:
            passed &= _losses_agree(bundle, corpus)
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    return 0 if passed else 1


def print_report(found: Sequence[Verification], file: TextIO = sys.stdout) -> bool:
    """Prints what was found; returns whether all passed."""
    passed = all(verification.passed for verification in found)
    print(*found, "verified" if passed else "not verified", sep="\n", file=file)
    return passed


def _trained(run: Path, bundle: Bundle) -> CharLM:
    """Raises ValueError if the run's model cannot be the bundle's."""
    trained, manifest = load(run), bundle.manifest
    config = trained.model.config
    shape = ModelShape(cell=config.cell, activation=config.activation, layers=config.layers, hidden=config.hidden)
    if (shape, trained.vocabulary) != (manifest.model, manifest.vocabulary):
        raise ValueError(f"{run} holds another model: its sizes or its vocabulary are not those of {manifest.name}")
    return trained.model


def _losses_agree(bundle: Bundle, corpus: Corpus) -> bool:
    """Prints each precision's loss; raises ValueError if the text has a character that the model does not know."""
    manifest = bundle.manifest
    ids = manifest.vocabulary.encode(corpus.text[corpus.split :])
    losses = {
        precision: carried_nats(Runtime(bundle.files[full_file(precision)]), manifest, ids, precision)
        for precision in manifest.precisions
    }
    agree = True
    for precision, nats in losses.items():
        apart = nats - losses["fp32"]
        agree &= apart <= MOST_LOSS
        print(f"{precision}: {nats:.5f} nats a character on the last tenth of {corpus.name} ({apart:+.5f})")
    if not agree:
        print(f"FAILED: 8 bits cost more than {MOST_LOSS} nats", file=sys.stderr)
    return agree


if __name__ == "__main__":
    sys.exit(main())
