"""charstream verify: checks a bundle's ONNX files against torch. The exit code is the verdict."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bundle.read import read_bundle
from charstream.settings import Positional, Settings, fail, parse
from export.verification import reference_of_bundle, verify
from models.checkpoint import load

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
        model = load(settings.run).model if settings.run else reference_of_bundle(manifest, bundle.files)
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    verification = verify(manifest, bundle.files, model)
    print(verification.report())
    return 0 if verification.passed else 1


if __name__ == "__main__":
    sys.exit(main())
