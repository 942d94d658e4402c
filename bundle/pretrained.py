"""The models that come with charstream, as bundles, and `charstream pretrained`, which finds and copies them."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bundle.manifest import Manifest
from bundle.read import MANIFEST, BundleError, read_bundle, read_manifest
from bundle.write import copy_bundle
from charstream.parts import ROOT
from charstream.settings import Positional, Settings, fail, parse

__all__ = ["DEFAULT", "FOLDER", "locate", "main", "names"]

COMMAND = "charstream pretrained"
FOLDER = ROOT / "pretrained"
DEFAULT = "shakespeare"


class PretrainedSettings(Settings):
    """Lists the models that come with charstream, prints where one is, or copies one among bundles of one's own.

    charstream serve --pretrained serves them as they are; charstream train --init-from pretrained goes on from one.
    """

    action: Annotated[Literal["list", "path", "get"], Positional()] = Field(
        "list", description="list: what there is; path: the folder of one; get: copy one into a folder of bundles"
    )
    name: Annotated[str, Positional()] = Field(DEFAULT, description="of the model, for path and get")
    out: Path | None = Field(None, description="folder of the copy (default: bundles/ and the name)")
    overwrite: bool = Field(False, description="replace the bundle that is there")
    json_: bool = Field(False, description="print the list as JSON")


def names() -> list[str]:
    """Return the names of the models that are here, in order."""
    return sorted(manifest.parent.name for manifest in FOLDER.glob(f"*/{MANIFEST}"))


def locate(path: Path) -> Path:
    """Return the folder that `pretrained` or `pretrained/NAME` means; any other path, or a bundle, stays as it is.

    In a clone the folder `pretrained` is there, but is no bundle itself.
    """
    first, *rest = path.parts or ("",)
    if first != FOLDER.name or len(rest) > 1 or (path / MANIFEST).exists() or path.is_file():
        return path
    found = FOLDER / (rest[0] if rest else DEFAULT)
    return found if (found / MANIFEST).exists() else path


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0; exit with 2 for a name that is not there or a folder in the way, 1 for a damaged bundle."""
    settings = parse(PretrainedSettings, argv, command=COMMAND)
    if settings.action == "list":
        return _list(settings.json_)
    if settings.name not in names():
        fail(COMMAND, f"no model {settings.name!r} comes with charstream; there are {', '.join(names()) or 'none'}")
    source = FOLDER / settings.name
    if settings.action == "path":
        print(source)
        return 0
    return _copy(source, settings.out or Path("bundles") / settings.name, settings.overwrite)


def _list(as_json: bool) -> int:
    try:
        models = [_facts(read_manifest(FOLDER / name)[0], FOLDER / name) for name in names()]
    except BundleError as error:
        fail(COMMAND, str(error), code=1)
    if as_json:
        print(json.dumps(models))
        return 0
    for model in models:
        print(
            "{name}: {cell} {layers}x{hidden}, {parameters:,} parameters, {loss}, trained on {data}; "
            "{precisions}, {size:.1f} MB".format(
                loss="no loss is known"
                if model["nats"] is None
                else "{nats:.4f} nats ({bits:.3f} bits)".format(**model),
                size=model["bytes"] / 1e6,
                **{**model, "precisions": ", ".join(model["precisions"])},
            )
        )
    return 0


def _facts(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Return the facts of a model by name; the loss is per symbol of held-out text, `carried` where it was measured."""
    record = manifest.training
    nats = record.validation_nats.get("carried", next(iter(record.validation_nats.values()), None))
    return {
        "name": folder.name,
        "version": manifest.version,
        "path": str(folder),
        "cell": manifest.model.cell,
        "layers": manifest.model.layers,
        "hidden": manifest.model.hidden,
        "parameters": record.parameters,
        "data": record.data,
        "nats": nats,
        "bits": None if nats is None else nats / math.log(2),
        "precisions": list(manifest.precisions),
        "bytes": sum(file.bytes for file in manifest.files.values()),
    }


def _copy(source: Path, out: Path, overwrite: bool) -> int:
    if out.exists() and not overwrite:
        fail(COMMAND, f"{out} exists; --overwrite replaces it, --out names another folder")
    try:
        bundle = read_bundle(source)
        copy_bundle(bundle.folder, out)
    except BundleError as error:
        fail(COMMAND, str(error), code=1)
    print(f"{out}: {bundle.manifest.name} {bundle.manifest.version}, digest {bundle.digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
