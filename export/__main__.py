"""charstream export: turn a training run into a bundle."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field, ValidationError

from bundle.manifest import ModelName, ModelVersion, Precision
from bundle.read import read_bundle
from bundle.write import check_replaceable, write_bundle
from charstream.settings import Positional, Settings, fail, parse
from export.build import PRECISIONS, USUAL, build, unsupported_reason
from export.curve import training_curve
from export.graph.bounds import LOSSY_PRECISIONS, unbounded_input
from export.verify import use_one_thread, verify_and_print
from models.run_folder import FIRST, header_file
from models.runs.bundle_model import load_model
from models.terminal import say
from models.training.checkpoint import Trained

COMMAND = "charstream export"
SMALLEST: tuple[Precision, ...] = ("int8",)


class ExportSettings(Settings):
    """Turns a training run into a bundle: ONNX files, manifest and card. They are verified before they are kept."""

    stray_word: ClassVar = "the bundle's folder is --out FOLDER"

    run: Annotated[Path, Positional()] = Field(
        description="a run folder, one of its checkpoints, or a bundle to export anew"
    )
    out: Path | None = Field(None, description="the bundle's folder (default: bundles/ and the run's name)")
    name: str | None = Field(None, description="the model's name on the server (default: the folder's)")
    version: str = Field("1", description="the model's version")
    precision: str | None = Field(
        None,
        description="arithmetic of the matmuls: fp32, and after it int8, fp32-cuda, fp16-cuda with commas; those for "
        "CUDA have six files each. int8 alone makes the smallest bundle (default: fp32,int8 where every matmul's input "
        "is bounded and 8 bits cost nothing, else fp32)",
    )
    about: Path | None = Field(
        None, description="a Markdown file whose text the card has too: the text's licence, how the model was made"
    )
    with_first: bool = Field(
        False,
        description="export the run's first checkpoint, too, as another model beside it, NAME-first: what training "
        "changed can then be seen in one server",
    )
    overwrite: bool = Field(False, description="replace the bundle that is there")


class _Label(BaseModel):
    """The model's name and version in the manifest, checked before anything that takes long."""

    name: ModelName
    version: ModelVersion


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ExportSettings, argv, command=COMMAND)
    out = settings.out or Path("bundles") / settings.run.resolve().name
    targets = [(settings.run, out, settings.name or out.resolve().name)]
    if settings.with_first:
        targets.append((_first_checkpoint(settings.run), out.with_name(f"{out.name}-first"), f"{targets[0][2]}-first"))
    requested = None if settings.precision is None else _parse_precisions(settings.precision)
    about = _read_text(settings.about) if settings.about else ""
    for _, folder, _ in targets:
        if folder.exists() and not settings.overwrite:
            fail(COMMAND, f"{folder} exists; --overwrite replaces it, --out names another folder")
    use_one_thread()
    for run, folder, name in targets:
        _export(run, folder, name, settings.version, requested, about)
    return 0


def _first_checkpoint(run: Path) -> Path:
    """Return the file of a run's first checkpoint; end with code 2 if it has none."""
    first = header_file(run, FIRST)
    if not first.exists():
        reason = "only a run's folder has one, of a run that was checked in its first fifth"
        fail(COMMAND, f"--with-first: {first} is missing: {reason}; train again, or leave the flag out")
    return first


def _export(run: Path, out: Path, name: str, version: str, requested: tuple[Precision, ...] | None, about: str) -> None:
    """Make a bundle and verify it; end the command where that fails."""
    try:
        check_replaceable(out)
        label = _Label(name=name, version=version)
        trained = load_model(run)
        precisions = _choose_precisions(trained, requested)
        curve = training_curve(run)
        manifest, files = build(trained, label.name, label.version, precisions, _say_exported, about=about, curve=curve)
    except ValidationError as error:
        first = error.errors()[0]
        fail(COMMAND, _label_reason(str(first["loc"][0]), first["input"]))
    except ValueError as error:
        fail(COMMAND, str(error), code=1)
    if not verify_and_print(manifest, files, trained.model, sys.stderr):
        fail(COMMAND, "the exported files do not compute what the model does; nothing was written", code=1)
    write_bundle(out, manifest, files)
    size = sum(len(data) for data in files.values()) / 1e6
    print(f"{out}: {manifest.name} {manifest.version}, digest {read_bundle(out).digest[:12]}, {size:.1f} MB")


def _label_reason(part: str, given: str) -> str:
    """Return the line that refuses a name or a version, and says how to give another one."""
    if part == "name":
        return f"{given!r} is no name for a model (a-z, 0-9, . _ -, at most 64): give --out bundles/NAME or --name NAME"
    return f"--version {given!r}: allowed are letters, digits, . _ -, at most 64, of which the first is no sign"


def _say_exported(file: str) -> None:
    say(f"exported {file}")


def _read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        fail(COMMAND, f"--about {file}: {(error.strerror or str(error)).lower()}")
    except UnicodeDecodeError:
        fail(COMMAND, f"--about {file}: not UTF-8, a text for the card is expected")


def _choose_precisions(trained: Trained, requested: tuple[Precision, ...] | None) -> tuple[Precision, ...]:
    """Return the requested precisions, or the default ones that the model supports; say why one is left out."""
    supported = []
    for precision in requested or USUAL:
        if precision in LOSSY_PRECISIONS and not unbounded_input(trained.model.config, precision):
            say(f"measuring what {precision} costs")
        reason = unsupported_reason(trained, precision)
        if reason and requested:
            fail(COMMAND, f"--precision {','.join(requested)}: this model has no {precision}: {reason}; fp32 it has")
        if reason:
            say(f"no {precision}: {reason}")
        else:
            supported.append(precision)
    return tuple(supported)


def _parse_precisions(given: str) -> tuple[Precision, ...]:
    wanted = [name.strip() for name in given.split(",")]
    known = tuple(precision for precision in PRECISIONS if precision in wanted)
    if len(known) != len(wanted) or ("fp32" not in known and known != SMALLEST):
        others = ", ".join(PRECISIONS[1:])
        fail(COMMAND, f"--precision {given}: allowed are fp32 and, after a comma each, {others}; or int8 alone")
    return known


if __name__ == "__main__":
    sys.exit(main())
