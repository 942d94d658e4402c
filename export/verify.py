"""charstream verify: checks a bundle's ONNX files against torch. The exit code is the verdict."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bundle.manifest import Manifest, ModelShape
from bundle.read import read_bundle
from charstream.settings import Positional, Settings, fail, parse
from export.verification import reference_of_bundle, verify
from models.checkpoint import load
from models.model import CharLM

COMMAND = "charstream verify"


class VerifySettings(Settings):
    """Checks a bundle: files and digests, then ONNX Runtime against torch, step by step. Exit code 0: they agree."""

    bundle: Annotated[Path, Positional()] = Field(description="the bundle's folder")
    run: Path | None = Field(
        None, description="compare with the model of this training run (default: with the weights of step.onnx)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(VerifySettings, argv, command=COMMAND)
    try:
        bundle = read_bundle(settings.bundle)
        manifest = bundle.manifest
        model = _trained(settings.run, manifest) if settings.run else reference_of_bundle(manifest, bundle.files)
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    verification = verify(manifest, bundle.files, model)
    print(verification.report())
    return 0 if verification.passed else 1


def _trained(run: Path, manifest: Manifest) -> CharLM:
    """Raises ValueError if the run's model cannot be the bundle's."""
    trained = load(run)
    config = trained.model.config
    shape = ModelShape(cell=config.cell, layers=config.layers, hidden=config.hidden)
    if (shape, trained.vocabulary) != (manifest.model, manifest.vocabulary):
        raise ValueError(f"{run} holds another model: its sizes or its vocabulary are not those of {manifest.name}")
    return trained.model


if __name__ == "__main__":
    sys.exit(main())
